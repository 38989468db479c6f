// Package discovery owns how peers are found: bootstrap peers, DNS names, mDNS,
// the DHT of this network and the exchange of signed peer records. All it finds
// goes to the address book; it never dials for a slot.
package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// Config of the room.
type Config struct {
	config.Discovery
	Bootstrap []string // p2p.bootstrap_peers at the start; see [Discovery.SetBootstrap]
	Private   bool     // p2p.addresses: non-public addresses are dialled too
	File      string   // of what is put and provided by hand; "" = memory only
}

// Functions are what discovery needs of others. All may be called at once by
// several goroutines and MUST return soon after their ctx ends.
type Functions struct {
	// Resolve looks a host name up; nil = the system's DNS.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// TXT gives the TXT records of a name; nil = the system's DNS.
	TXT func(ctx context.Context, name string) ([]string, error)
	// Identity asks the API at host:port, or at a URL, who it is; nil = items
	// without a peer id cannot be used.
	Identity func(ctx context.Context, hostport string) (peer.AddrInfo, error)
	// Connect makes a peer connected and, where it is of our network, ready.
	// nil = the host's own Connect, without a handshake.
	Connect func(ctx context.Context, info peer.AddrInfo) error
	// Leave parts with a peer to whom we connected only to ask; nil = close.
	Leave func(ctx context.Context, p peer.ID)
	// Wanted reports whether somebody else needs the connection with p. nil =
	// whoever is protected from being trimmed, and these are those in a mesh of
	// gossip too.
	Wanted func(p peer.ID) bool
	// Ready reports whether the handshake with p ended well, and p is not one
	// that is there for blocks alone; nil = always.
	Ready func(p peer.ID) bool
	// Found tells that the book has a peer more. It MUST not block; nil = nobody
	// is told.
	Found func()
	// ByHand reports whether the operator had p dialled; nil = never.
	ByHand func(p peer.ID) bool
	// Report charges p with an offence; nil = nobody is charged.
	Report func(p peer.ID, o chain.Offence, detail string)
	// Banned reports whether p or the address is refused; nil = never.
	Banned func(p peer.ID, addr netip.Addr) bool
	// Alarms are those of the node; nil = of this room alone.
	Alarms *event.Alarms
}

func (f Functions) withDefaults(h host.Host, bus *event.Bus, log *slog.Logger) Functions {
	if f.Alarms == nil {
		f.Alarms = event.NewAlarms(bus, log)
	}
	if f.Resolve == nil {
		f.Resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if f.TXT == nil {
		f.TXT = net.DefaultResolver.LookupTXT
	}
	if f.Connect == nil {
		f.Connect = h.Connect
	}
	if f.Leave == nil {
		f.Leave = func(_ context.Context, p peer.ID) { _ = h.Network().ClosePeer(p) }
	}
	if f.Wanted == nil {
		f.Wanted = func(p peer.ID) bool { return h.ConnManager().IsProtected(p, "") }
	}
	if f.Ready == nil {
		f.Ready = func(peer.ID) bool { return true }
	}
	if f.Found == nil {
		f.Found = func() {}
	}
	if f.ByHand == nil {
		f.ByHand = func(peer.ID) bool { return false }
	}
	if f.Report == nil {
		f.Report = func(peer.ID, chain.Offence, string) {}
	}
	if f.Banned == nil {
		f.Banned = func(peer.ID, netip.Addr) bool { return false }
	}
	return f
}

// Errors of calls by hand.
var (
	// ErrOff means that the configuration switches off what was asked for.
	ErrOff = errors.New("it is switched off")
	// ErrNotStarted means that the network is not known yet.
	ErrNotStarted = errors.New("the network is not known yet")
)

// Discovery is safe for concurrent use.
type Discovery struct {
	cfg     Config
	fns     Functions
	host    host.Host
	intake  *intake
	bus     *event.Bus
	log     *slog.Logger
	metrics *metrics
	visits  *visits
	need    chan struct{}
	started chan struct{} // closed once net is set
	rules   rules

	mu    sync.Mutex          // guards below
	items []*bootItem         // replaced, never changed
	net   string              // "" = not known yet
	dead  map[string]DeadName // by name; those without a Why led to somebody
	over  bool                // Run has returned, or is about to
	kad   *kad                // nil = off, or not started yet
	pex   *pex                // nil = off, or not started yet
}

// New starts nothing; reg may be nil.
func New(cfg Config, fns Functions, h host.Host, book *addrbook.Book, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Discovery, error) {
	items, err := parseBoot(cfg.Bootstrap)
	if err != nil {
		return nil, err
	}
	cfg.DHT = cmp.Or(cfg.DHT, config.DHTAuto)
	cfg.DHTScope = cmp.Or(cfg.DHTScope, config.DHTScopePrivate)
	d := &Discovery{
		cfg: cfg, fns: fns.withDefaults(h, bus, log), host: h, bus: bus, log: log, items: items, dead: map[string]DeadName{},
		need: make(chan struct{}, 1), started: make(chan struct{}), rules: allRules,
	}
	if d.metrics, err = newMetrics(reg, d.tableSize); err != nil {
		return nil, fmt.Errorf("register discovery metrics: %w", err)
	}
	d.intake = &intake{book: book, metrics: d.metrics, found: d.fns.Found}
	d.visits = newVisits(d)
	return d, nil
}

// Kinds counts the kinds of sources that are asked by cfg, for the quota of the
// address book. Peers that come to us are none of them.
func Kinds(cfg Config) int {
	n := 0
	for _, on := range []bool{len(cfg.Bootstrap) > 0, len(cfg.DNS) > 0, cfg.DHT != config.DHTOff, cfg.PEX, cfg.MDNS} {
		if on {
			n++
		}
	}
	return n
}

// Start begins what carries the network's name: DHT, peer exchange, rendezvous
// and mDNS. Call it once, when the chain is known; Run carries it.
func (d *Discovery) Start(net string) error {
	if !element(net) {
		return fmt.Errorf("discovery of network %q: want 1 to 64 of the characters a-z, 0-9, ., _ and -", net)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return fmt.Errorf("discovery of network %q: it has ended", net)
	}
	if d.net != "" {
		return fmt.Errorf("discovery of network %q: it runs for %q already", net, d.net)
	}
	if d.cfg.PEX {
		d.pex = newPEX(d, net)
	}
	if d.cfg.DHT != config.DHTOff {
		k, err := newKad(d, net)
		if err != nil {
			return fmt.Errorf("start the DHT of %s: %w", net, err)
		}
		d.kad = k
	}
	d.net = net
	close(d.started)
	return nil
}

// element reports whether s can be one element of a protocol id.
func element(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// parts gives what runs by now.
func (d *Discovery) parts() (*kad, *pex) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kad, d.pex
}

// dht gives the DHT, or says why there is none.
func (d *Discovery) dht() (*kad, error) {
	k, _ := d.parts()
	switch {
	case k != nil:
		return k, nil
	case d.cfg.DHT == config.DHTOff:
		return nil, fmt.Errorf("no DHT: %w: set discovery.dht", ErrOff)
	}
	return nil, fmt.Errorf("no DHT yet: %w", ErrNotStarted)
}

func (d *Discovery) tableSize() int {
	if k, _ := d.parts(); k != nil {
		return k.table().Size()
	}
	return 0
}

// Need tells that candidates are lacking: each source is asked again, one after
// the other. It does not block.
func (d *Discovery) Need() {
	select {
	case d.need <- struct{}{}:
	default:
	}
}

// Run asks the sources, listens to peers and carries what Start began, until
// ctx ends. Then it closes the connections that it made and did not hand over.
func (d *Discovery) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	sub, err := d.listen()
	if err != nil {
		return fmt.Errorf("listen to identify: %w", err)
	}
	wg.Go(func() { d.hear(ctx, sub) })
	wg.Go(func() { d.askSources(ctx) })
	wg.Go(func() { d.visits.run(ctx) })
	wg.Go(func() { d.forgetAlarms(ctx) })
	select {
	case <-ctx.Done():
	case <-d.started:
		d.carry(ctx, &wg)
		<-ctx.Done()
	}
	wg.Wait()
	d.visits.closeAll(ctx)
	return d.stop()
}

// carry runs what Start has made.
func (d *Discovery) carry(ctx context.Context, wg *sync.WaitGroup) {
	k, x := d.parts()
	if x != nil {
		wg.Go(func() { x.run(ctx) })
	}
	if k != nil {
		wg.Go(func() { k.run(ctx) })
	}
	if d.cfg.MDNS {
		wg.Go(func() { d.runMDNS(ctx) })
	}
}

func (d *Discovery) stop() error {
	d.mu.Lock()
	d.over = true
	k, x := d.kad, d.pex
	d.mu.Unlock()
	if x != nil {
		x.close()
	}
	if k != nil {
		return k.close()
	}
	return nil
}

const reachTimeout = 10 * time.Second // for one peer: dial, handshake and one answer
