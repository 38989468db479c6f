// Package addrbook owns where peers are: their addresses and who told of them,
// in buckets by network group, and the anchors that a restart begins with.
//
// What a stranger says enters new, and tried only what our own dial and
// handshake proved. Where somebody can be put depends on its own group and on
// that of the source, under a secret salt, so that a hand with few groups
// reaches few buckets, however many addresses it has.
package addrbook

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/event"
)

const (
	saveEvery     = 5 * time.Minute
	anchorsWithin = time.Second
	lookEvery     = 10 * time.Second // at collisions, and at what a young book would lose
	youngBook     = 64               // proven peers; up to here a new one is saved at the next look
)

// Config says where the book is and what it takes.
type Config struct {
	Dir     string // of book.bin and anchors.json, made with 0700; "" = memory only
	Net     string // network digest; "" = not yet known, then Start tells it
	Private bool   // also store and share non-public addresses
	ASMap   *ASMap // nil = none
	// Sources is how many kinds of sources are enabled, see [Book.SetSources].
	// From two on, no kind brings more than half of an hour's new peers.
	Sources int
	// Banned is asked before a peer or an address is taken, picked or given
	// out; the Addr is not valid for a name. It may be nil, MUST be quick, and
	// is never called while the book is locked.
	Banned func(peer.ID, netip.Addr) bool
	Self   peer.ID
}

// Book is the address book. All methods are safe for concurrent use; none but
// Open, Start and Run touches the disk.
type Book struct {
	cfg     Config
	bus     *event.Bus
	log     *slog.Logger
	metrics *metrics
	disk    disk
	changed chan struct{} // anchors; of one
	writing sync.Mutex    // one writer of the files; taken before mu

	mu         sync.Mutex // guards below
	net        string     // "" = not known
	fileNet    string     // of what was loaded
	saveOff    string     // why book.bin is not written; "" = it is
	salt       []byte
	key        keyed
	rand       *rand.Rand
	grown      bool
	fresh      table // new
	tried      table
	entries    map[peer.ID]*entry
	live       map[peer.ID]int          // places in new by source peer
	places     map[place][]*entry       // who is at an IP
	groups     map[Table]map[string]int // entries by group
	rates      map[peer.ID]*rate        // at most maxRates
	quota      quota
	unsaved    bool        // a peer was proven since the last save
	collisions []collision // at most maxCollisions
	lastTest   time.Time
	lastGood   stamp            // of anybody
	shares     map[string]share // at most maxShares
	anchors    []peer.ID        // at most maxAnchors
}

// Open reads the book and the anchors of cfg.Dir. A file that cannot be used is
// set aside and never stops a node; an error is a directory that cannot be used. bus, log and reg may be nil.
func Open(cfg Config, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Book, error) {
	return open(cfg, bus, log, reg, osDisk{})
}

func open(cfg Config, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer, d disk) (*Book, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Book{
		cfg: cfg, bus: bus, log: log, disk: d, changed: make(chan struct{}, 1),
		net: cfg.Net, lastGood: at(time.Now()), rates: map[peer.ID]*rate{}, shares: map[string]share{},
	}
	var seed [32]byte
	crand.Read(seed[:])
	b.rand = rand.New(rand.NewChaCha8(seed))
	salt := make([]byte, saltSize)
	crand.Read(salt)
	b.salt, b.key = salt, newKeyed(salt)
	b.reset()
	b.metrics = newMetrics(b)
	if reg != nil {
		if err := reg.Register(b.metrics); err != nil {
			return nil, err
		}
	}
	if err := b.load(); err != nil {
		return nil, err
	}
	return b, nil
}

// SetSources sets how many kinds of sources are enabled.
func (b *Book) SetSources(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cfg.Sources = n
}

// Start tells the network digest once the chain is known. What was loaded for
// another network is set aside and forgotten. It is an error to name another
// network than before.
func (b *Book) Start(net string) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	if b.net == net {
		b.mu.Unlock()
		return nil
	}
	if b.net != "" {
		defer b.mu.Unlock()
		return fmt.Errorf("address book is of network %s and cannot be of %s", b.net, net)
	}
	b.net = net
	was := b.fileNet
	other := was != "" && was != net
	if other {
		for _, e := range b.entries {
			if e.loaded {
				b.forget(e)
			}
		}
		b.anchors = slices.DeleteFunc(b.anchors, func(id peer.ID) bool { return b.entries[id] == nil })
		b.fileNet = ""
	}
	b.mu.Unlock()
	if !other {
		return nil
	}
	why := fmt.Errorf("%w %s, not %s", errOtherNet, was, net)
	return errors.Join(b.setAside(bookFile, why), b.setAside(anchorsFile, why))
}

// Run saves the book every five minutes and at its end, writes the anchors
// within a second of a change, and lets go of what is over. A file that cannot
// be written is logged and tried again.
//
// A book with few proven peers is written within ten seconds of a new one, too:
// a crash must not cost all of them.
func (b *Book) Run(ctx context.Context) error {
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var anchors <-chan time.Time // nil: unchanged
	for {
		select {
		case <-b.changed:
			if anchors == nil {
				anchors = time.After(anchorsWithin * 9 / 10)
			}
		case <-anchors:
			anchors = nil
			b.report(anchorsFile, b.saveAnchors())
		case now := <-look.C:
			b.mu.Lock()
			b.settle(now)
			young := b.unsaved && b.tried.size <= youngBook
			b.mu.Unlock()
			if young {
				b.report(bookFile, b.save())
			}
		case now := <-save.C:
			b.expire(now)
			b.report(bookFile, b.save())
		case <-ctx.Done():
			b.report(anchorsFile, b.saveAnchors())
			b.report(bookFile, b.save())
			return nil
		}
	}
}

func (b *Book) report(file string, err error) {
	if err != nil {
		b.log.Warn("address book not saved", "file", file, "err", err)
	}
}

// expire lets go of rates and answers that are as good as none.
func (b *Book) expire(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, r := range b.rates {
		if r.full(now) {
			delete(b.rates, p)
		}
	}
	for g, s := range b.shares {
		if now.Sub(s.made) >= shareFor {
			delete(b.shares, g)
		}
	}
}

// Get gives what is known of id.
func (b *Book) Get(id peer.ID) (Entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	if e == nil {
		return Entry{}, false
	}
	return e.copy(), true
}

// Has reports whether id is known.
func (b *Book) Has(id peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[id] != nil
}

// Origin is the kind of source that told of id first, "" = none did, and
// whether id is an anchor. It copies nothing, as Get does.
func (b *Book) Origin(id peer.ID) (first Kind, anchor bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	if e == nil {
		return "", false
	}
	if len(e.refs) > 0 {
		first = e.refs[0].Kind
	}
	return first, e.anchor
}

// Len is how many peers are known.
func (b *Book) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.entries)
}

// Entries gives all, tried ones first, each table in the order of ids. It
// includes the banned: who shows them leaves them out.
func (b *Book) Entries() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.sorted()
	out := make([]Entry, len(all))
	for i, e := range all {
		out[i] = e.copy()
	}
	return out
}

func (b *Book) sorted() []*entry { // mu held
	return slices.SortedFunc(maps.Values(b.entries), func(x, y *entry) int {
		return cmp.Or(b2i(y.tried != none)-b2i(x.tried != none), cmp.Compare(x.id, y.id))
	})
}

// Remove forgets id, and reports whether it was known. An anchor is none then.
func (b *Book) Remove(id peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	if e == nil {
		return false
	}
	b.forget(e)
	if e.anchor {
		b.anchors = slices.DeleteFunc(b.anchors, func(a peer.ID) bool { return a == id })
		b.wake()
	}
	return true
}

// Banned reports whether all addresses of e are banned.
func (b *Book) Banned(e Entry) bool {
	return b.cfg.Banned != nil && !slices.ContainsFunc(e.Addrs, func(a ma.Multiaddr) bool {
		p, ok := parse(a, e.ID)
		return ok && !b.cfg.Banned(e.ID, p.ip)
	})
}
