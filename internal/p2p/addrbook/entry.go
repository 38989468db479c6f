package addrbook

import (
	"math"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Kind is the kind of a source, as INTERFACES spells peer.source.
type Kind string

// The kinds of sources.
const (
	Static    Kind = "static"
	Bootstrap Kind = "bootstrap"
	DNS       Kind = "dns"
	DHT       Kind = "dht"
	PEX       Kind = "pex"
	MDNS      Kind = "mdns"
	Inbound   Kind = "inbound"
	Operator  Kind = "operator"
)

// ours reports whether the operator chose the source: it has no rate, no quota
// and may tell of bare addresses.
func (k Kind) ours() bool { return k == Static || k == Bootstrap || k == DNS || k == Operator }

// Source is who told of a peer, and from where. Its IP gives the source group;
// a source without one is grouped by its kind.
type Source struct {
	Kind Kind       `json:"kind"`
	Peer peer.ID    `json:"peer,omitempty"`
	IP   netip.Addr `json:"ip,omitzero"`
}

// Table is one of the two halves of the book.
type Table string

// The tables. A peer is in New until our own dial and handshake with it ended
// well, and then in Tried.
const (
	New   Table = "new"
	Tried Table = "tried"
)

// Record is a signed peer record as it came.
type Record struct {
	Seq      uint64 `json:"seq"`
	Envelope []byte `json:"envelope"`
}

// Entry is what the book knows of one peer. It is a copy, but for the bytes of
// the envelope, which nobody changes.
type Entry struct {
	ID        peer.ID        `json:"id"`
	Addrs     []ma.Multiaddr `json:"addresses"` // at most 8; the first one gives the group
	Group     string         `json:"group"`
	Sources   []Source       `json:"sources"` // at most 8, the first one first
	Table     Table          `json:"table"`
	Record    *Record        `json:"record,omitempty"`
	FirstSeen time.Time      `json:"first_seen,omitzero"`
	LastSeen  time.Time      `json:"last_seen,omitzero"` // connected; or only heard of, where FirstGood is zero
	LastTry   time.Time      `json:"last_try,omitzero"`
	LastGood  time.Time      `json:"last_good,omitzero"`
	FirstGood time.Time      `json:"first_good,omitzero"`
	Fails     int            `json:"fails"` // since the last success
	Class     string         `json:"class,omitempty"`
	NotBefore time.Time      `json:"not_before,omitzero"` // is not dialled before
	Anchor    bool           `json:"anchor,omitempty"`
}

const (
	maxAddrs = 8
	maxRefs  = 8 // sources a peer can have, each of which gives it one more place in new
)

// stamp is a time in unix ms, 0 for never: a tenth of the book would be
// time.Time else.
type stamp int64

func at(t time.Time) stamp {
	return stamp(max(0, min(t.UnixMilli(), maxTime)))
}

func (s stamp) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(s)).UTC()
}

// ago reports whether s is d or longer before now; never is.
func (s stamp) ago(now time.Time, d time.Duration) bool { return s == 0 || now.Sub(s.time()) >= d }

// entry is one peer. Book.mu guards all of it.
type entry struct {
	id        peer.ID
	addrs     []address // the first one gives the group
	group     string
	refs      []ref // of new; in tried they are kept without a place
	tried     int32 // slot in tried, or none
	anchor    bool
	loaded    bool  // came from the file
	counted   stamp // the last failure that counted
	marks     uint8
	fails     uint16
	class     string
	seq       uint64
	record    []byte
	firstSeen stamp
	lastSeen  stamp
	lastTry   stamp
	lastGood  stamp
	firstGood stamp
	notBefore stamp
}

// ref is one source of a peer and the place in new that it gives.
type ref struct {
	Source
	group string
	slot  int32 // or none
}

const none int32 = -1

func (e *entry) table() Table {
	if e.tried != none {
		return Tried
	}
	return New
}

// home is the slot of e in its table; in new, where it can have several, the
// first one.
func (e *entry) home() int32 {
	if e.tried != none {
		return e.tried
	}
	for _, r := range e.refs {
		if r.slot != none {
			return r.slot
		}
	}
	return none
}

// knownBy reports whether a source of that group told of e before.
func (e *entry) knownBy(group string) bool {
	for _, r := range e.refs {
		if r.group == group {
			return true
		}
	}
	return false
}

// shown reports whether e itself came to us from p: nobody else can.
func (e *entry) shownFrom(p place) bool {
	for _, r := range e.refs {
		if r.showsFrom(e.id, p) {
			return true
		}
	}
	return false
}

func (s Source) showsFrom(id peer.ID, p place) bool {
	return s.Kind == Inbound && s.Peer == id && s.IP.IsValid() && address{ip: clean(s.IP)}.place() == p
}

const (
	unseenFor   = 30 * 24 * time.Hour
	maxTries    = 3  // of a peer that was never good
	maxFails    = 10 // of one that once was
	failsWithin = 7 * 24 * time.Hour
)

// replaceable reports whether a newcomer may take e's place in new.
func (e *entry) replaceable(now time.Time) bool {
	switch {
	case e.anchor, !e.lastTry.ago(now, time.Minute): // it is being dialled
		return false
	case e.lastSeen.ago(now, unseenFor):
		return true
	case e.firstGood == 0:
		return e.fails >= maxTries
	}
	return e.fails >= maxFails && e.lastGood.ago(now, failsWithin)
}

// chance is how likely a draw of e is taken.
func (e *entry) chance(now time.Time) float64 {
	c := math.Pow(0.66, float64(min(e.fails, 8)))
	if !e.lastTry.ago(now, triedNow) {
		c *= 0.01
	}
	return c
}

// wrongClass is the class of a peer of another network.
const wrongClass = "wrong_network"

// lasting are the classes of failures that do not mend themselves soon.
var lasting = map[string]bool{wrongClass: true, "identity": true, "not_allowed": true}

// mark lets e rest for an hour, and each time twice as long, up to a day.
func (e *entry) mark(now time.Time, class string) {
	rest := min(time.Hour<<min(e.marks, 5), 24*time.Hour)
	e.marks = min(e.marks+1, 5)
	e.class = class
	e.notBefore = at(now.Add(rest))
}

func (e *entry) resting(now time.Time) bool { return e.notBefore.time().After(now) }

func (e *entry) copy() Entry {
	out := Entry{
		ID: e.id, Group: e.group, Table: e.table(), Fails: int(e.fails), Class: e.class, Anchor: e.anchor,
		FirstSeen: e.firstSeen.time(), LastSeen: e.lastSeen.time(), LastTry: e.lastTry.time(), LastGood: e.lastGood.time(),
		FirstGood: e.firstGood.time(), NotBefore: e.notBefore.time(),
		Addrs: make([]ma.Multiaddr, 0, len(e.addrs)), Sources: make([]Source, 0, len(e.refs)),
	}
	for _, a := range e.addrs {
		if m, err := ma.NewMultiaddrBytes([]byte(a.raw)); err == nil { // always: parse made it
			out.Addrs = append(out.Addrs, m)
		}
	}
	for _, r := range e.refs {
		out.Sources = append(out.Sources, r.Source)
	}
	if e.record != nil {
		out.Record = &Record{Seq: e.seq, Envelope: e.record}
	}
	return out
}
