// Package dialer owns the supervisors that keep this node connected with the
// peers it was told of and with the members of its network.
package dialer

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// Tags under which connections are protected from being trimmed. Handshake
// reads a peer's source from them.
const (
	tagStatic  = "static"
	tagMember  = "member"
	tagTrusted = "trusted"
)

const (
	maxAttempts = 16               // under way at once
	lookEvery   = 30 * time.Second // names all of whose peers rest are resolved again
	doubleWait  = 30 * time.Second // until a second way to one peer is looked at again
	warnEvery   = 15 * time.Minute
)

// Config of a dialer.
type Config struct {
	Items       []string              // p2p.static_peers at the start; see [Dialer.SetStatic]
	Trusted     []peer.ID             // p2p.trusted_peers at the start; see [Dialer.SetTrusted]
	DefaultPort int                   // of an item without one; 0 = 9906
	Own         func() []ma.Multiaddr // where this node listens, no wildcards; nil = unknown
	File        string                // static-peers.json; "" = nothing is kept
	// OptimiseRetries lets addresses rest that failed for a lasting reason, as
	// long as the peer has others.
	OptimiseRetries bool
	// TXT reads the records of a name, for /dnsaddr; nil = the system's DNS.
	TXT    func(ctx context.Context, name string) ([]string, error)
	Tracer trace.Tracer // makes a span of each dial; nil = none
}

// Functions are what the dialer needs of others. All may be called at once by
// several goroutines and MUST return soon after their ctx ends.
type Functions struct {
	// Resolve looks a host name up.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Identity asks the API at host:port, or at a URL, who it is; see
	// [FetchIdentity].
	Identity func(ctx context.Context, hostport string) (Identity, error)
	// Known lists where others say that a peer is; nil = nobody says so.
	Known func(p peer.ID) []ma.Multiaddr
	// SharedKey names the key of a private network with which this node dials, as
	// people know it; "" or nil = it is in none.
	SharedKey func() string
	// Refusal says in words why this node refuses p, "" = it does not. nil = not
	// known.
	Refusal func(p peer.ID) string
	// Greet makes a connected peer ready. An error that is a [Refusal] is
	// classified by its code.
	Greet func(ctx context.Context, p peer.ID) error
}

// Dialer is safe for concurrent use.
type Dialer struct {
	cfg     Config
	fns     Functions
	host    host.Host
	rep     *reputation.Book
	bus     *event.Bus
	log     *slog.Logger
	metrics metrics
	wake    chan struct{} // the table changed: step again

	changes sync.Mutex // one change of who is kept and trusted at a time; held over the file; guards cfg.Trusted
	fileMu  sync.Mutex // one writer of the file at a time

	mu      sync.Mutex      // guards below; nothing blocks under it
	items   []*item         // members last
	listed  map[string]bool // texts of the configuration, of items that were removed by hand too
	works   map[peer.ID]*work
	kept    saved
	trusted map[peer.ID]string    // → origin
	left    map[peer.ID]time.Time // disconnected by the operator, until then; at most maxLeft
	hand    map[peer.ID]bool      // dialled by [Dialer.Connect], while it is connected
	rests   restBook
}

// New reads the pins, and takes over the items and trusted peers of the
// configuration and those that were added at run time. An item that cannot be
// read is told in the log and left out. Pins of items that are no longer there
// are forgotten, in the file too.
func New(cfg Config, fns Functions, h host.Host, rep *reputation.Book, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Dialer, error) {
	kept, err := load(cfg.File)
	if err != nil {
		return nil, err
	}
	cfg.DefaultPort = cmp.Or(cfg.DefaultPort, 9906)
	if cfg.TXT == nil {
		cfg.TXT = net.DefaultResolver.LookupTXT
	}
	d := &Dialer{
		cfg: cfg, fns: fns, host: h, rep: rep, bus: bus, log: log, kept: kept,
		metrics: newMetrics(reg), wake: make(chan struct{}, 1), listed: map[string]bool{}, works: map[peer.ID]*work{}, trusted: map[peer.ID]string{}, hand: map[peer.ID]bool{}, left: map[peer.ID]time.Time{},
	}
	now := time.Now()
	for _, text := range cfg.Items {
		it, err := parseItem(text, cfg.DefaultPort)
		if err != nil {
			log.Warn("static peer left out", "item", text, "err", err)
			continue
		}
		d.listed[it.text] = true
		if !d.insert(it, now) {
			log.Warn("static peer left out", "item", text, "err", "it is listed twice")
		}
	}
	changed := d.restore(now)
	d.metrics.set(d.counts())
	if d.forget() || changed {
		if err := d.save(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// forget drops the pins of what is no item and reports whether there were any;
// nobody else has d.
func (d *Dialer) forget() bool {
	before := len(d.kept.Pins)
	maps.DeleteFunc(d.kept.Pins, func(text string, _ peer.ID) bool {
		return !slices.ContainsFunc(d.items, func(it *item) bool { return it.text == text })
	})
	return len(d.kept.Pins) < before
}

// insert adds an item that is not there yet, members behind all others; mu is
// held or nobody else has d.
func (d *Dialer) insert(it *item, now time.Time) bool {
	if slices.ContainsFunc(d.items, func(o *item) bool { return o.text == it.text }) {
		return false
	}
	it.slots = []*slot{{item: it, retry: newRetry(now), id: cmp.Or(it.id, d.kept.Pins[it.text])}}
	at := len(d.items)
	if it.origin != OriginMember {
		if i := slices.IndexFunc(d.items, func(o *item) bool { return o.origin == OriginMember }); i >= 0 {
			at = i
		}
	}
	d.items = slices.Insert(d.items, at, it)
	return true
}

// Keep replaces the members of the network, which are kept connected like
// static peers. We are left out. Connections of former members stay open.
func (d *Dialer) Keep(members []peer.AddrInfo) {
	now := time.Now()
	want := map[peer.ID][]ma.Multiaddr{}
	for _, m := range members {
		if m.ID != d.host.ID() {
			want[m.ID] = m.Addrs
		}
	}
	var dropped []*item
	d.mu.Lock()
	d.items = slices.DeleteFunc(d.items, func(it *item) bool {
		if it.origin != OriginMember {
			return false
		}
		addrs, ok := want[it.id]
		if !ok {
			it.gone = true
			dropped = append(dropped, it)
			return true
		}
		it.addrs = addrs
		delete(want, it.id)
		return false
	})
	for _, m := range members { // in the order given
		if addrs, ok := want[m.ID]; ok {
			d.insert(&item{text: m.ID.String(), origin: OriginMember, id: m.ID, addrs: addrs}, now)
		}
	}
	ids := slotIDs(dropped)
	d.mu.Unlock()
	for _, p := range ids {
		d.host.ConnManager().Unprotect(p, tagMember)
	}
	d.changed()
}

func slotIDs(items []*item) []peer.ID { // mu held
	var ids []peer.ID
	for _, it := range items {
		for _, s := range it.slots {
			if s.id != "" {
				ids = append(ids, s.id)
			}
		}
	}
	return ids
}

// Has reports whether p is a static peer or a member, as far as ids are known.
func (d *Dialer) Has(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.items {
		for _, s := range it.slots {
			if s.id == p && p != "" {
				return true
			}
		}
	}
	return false
}

// Wanted are the ids, as far as they are known, of static peers, members and
// trusted peers.
func (d *Dialer) Wanted() []peer.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := slices.Collect(maps.Keys(d.trusted))
	for _, it := range d.items {
		for _, s := range it.slots {
			if s.id != "" && !slices.Contains(ids, s.id) {
				ids = append(ids, s.id)
			}
		}
	}
	return ids
}

// Configured counts the items but members.
func (d *Dialer) Configured() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, it := range d.items {
		if it.origin != OriginMember {
			n++
		}
	}
	return n
}

// StaticPeer is one supervised peer.
type StaticPeer struct {
	Item       string
	ID         peer.ID // "" = not learned yet
	Origin     string  // config | api | member
	State      State
	Class      Class          // of the last failure, "" = none since it was connected
	Tries      int            // failed ones since then
	ShutOut    bool           // it said that it does not let this node in, and has not since
	LastError  string         // in plain words
	WholeError string         // as it came, with what every address gave
	NextAt     time.Time      // zero = not by time
	Addresses  []ma.Multiaddr // where it is tried, those that it tells of among them
	Given      []netip.Addr   // where the item, or the chain, says that it is
	Resting    []ma.Multiaddr // of Addresses: not tried for now, since they failed for a lasting reason
}

// Static lists the supervised peers, each id once. This node is left out.
func (d *Dialer) Static() []StaticPeer {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []StaticPeer{}
	for _, s := range d.shown() {
		list = append(list, d.view(s))
	}
	return list
}

func (d *Dialer) view(s *slot) StaticPeer { // mu held
	_, resting := d.rests.split(s.id, s.dialled, time.Now())
	if !d.cfg.OptimiseRetries || len(resting) == len(s.dialled) { // all of them are tried
		resting = nil
	}
	return StaticPeer{
		Item: s.item.text, ID: s.id, Origin: d.originOf(s.item), State: s.retry.state, Class: s.retry.class, Tries: s.retry.tries,
		LastError: s.lastErr, WholeError: s.wholeErr, NextAt: s.retry.next, Addresses: slices.Clone(s.dialled), Given: s.at.given(), Resting: resting,
		ShutOut: s.retry.class == ClassNotAllowed || !s.bannedAt.IsZero(),
	}
}

// shown is every slot but ourselves and second ways to one peer. mu held.
func (d *Dialer) shown() []*slot {
	var list []*slot
	seen := map[peer.ID]bool{}
	for _, it := range d.items {
		for _, s := range it.slots {
			if s.retry.state == self || s.id != "" && seen[s.id] {
				continue
			}
			seen[s.id] = true
			list = append(list, s)
		}
	}
	return list
}

func (d *Dialer) counts() map[State]int { // mu held
	n := map[State]int{}
	for _, s := range d.shown() {
		n[s.retry.state]++
	}
	return n
}

// changed wakes the loop.
func (d *Dialer) changed() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// save writes the file as things stand now.
func (d *Dialer) save() error {
	d.fileMu.Lock()
	defer d.fileMu.Unlock()
	d.mu.Lock()
	now := d.kept.clone()
	d.mu.Unlock()
	return now.write(d.cfg.File)
}
