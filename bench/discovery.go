package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	corehost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/p2p/host"
)

const (
	loopbackTCP = "/ip4/127.0.0.1/tcp/0"
	dhtPrefix   = "/parley/" + syncNet
	settleLimit = time.Minute
	settlePoll  = 2 * time.Millisecond
)

// discoveryPlan says how many hosts the DHT has and how much is asked of it.
type discoveryPlan struct {
	Hosts   int `json:"hosts"`
	Rounds  int `json:"rounds"`
	Lookups int `json:"lookups"` // of a round
	Dials   int `json:"dials"`   // of a round
}

// discoveryRow is what a lookup and a dial cost: all hosts are in this process
// and share its cores; the wire is loopback TCP.
type discoveryRow struct {
	Hosts   int       `json:"hosts"`
	Ours    lookupRow `json:"ours"`
	Stock   lookupRow `json:"stock"` // FindPeer of dht.New
	Ready   dialRow   `json:"ready"` // of two nodes: dial, identify, handshake
	Connect dialRow   `json:"bare"`  // of two stock hosts: dial, identify
}

// lookupRow is one lookup after the other, of a random id, by all hosts in turn.
type lookupRow struct {
	PerS  figure `json:"per_s"`
	P50MS figure `json:"p50_ms"`
	P99MS figure `json:"p99_ms"`
	CPUMS figure `json:"cpu_ms"` // of the asker and of all that were asked
}

// dialRow is one connection after the other.
type dialRow struct {
	P50MS figure `json:"p50_ms"`
	P99MS figure `json:"p99_ms"`
	CPUMS figure `json:"cpu_ms"` // of both ends
}

// measureDiscovery fills the row of section discovery.
func (b *bench) measureDiscovery(ctx context.Context, r *report) error {
	row, err := measureDiscovery(ctx, filepath.Join(b.dir, "discovery"), r.Plan.Discovery, b.progress())
	if err == nil {
		r.Discovery = row
	}
	return err
}

func measureDiscovery(ctx context.Context, dir string, p discoveryPlan, say *progress) (row *discoveryRow, err error) {
	row = &discoveryRow{Hosts: p.Hosts}
	if err := row.lookups(ctx, p, say); err != nil {
		return nil, fmt.Errorf("lookups: %w", err)
	}
	if err := row.dials(ctx, dir, p, say); err != nil {
		return nil, fmt.Errorf("dials: %w", err)
	}
	return row, nil
}

// lookups measures both DHTs in turn, round by round.
func (r *discoveryRow) lookups(ctx context.Context, p discoveryPlan, say *progress) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var closers []func() error
	defer func() {
		cancel()
		for _, c := range closers {
			err = errors.Join(err, c())
		}
	}()
	var ours, stock []func(context.Context, peer.ID) error
	for _, side := range []struct {
		make func(context.Context, []peer.AddrInfo) (*dhtHost, error)
		list *[]func(context.Context, peer.ID) error
	}{{newOurDHT, &ours}, {newStockDHT, &stock}} {
		var all []*dhtHost
		var known []peer.AddrInfo
		for range p.Hosts {
			h, err := side.make(ctx, known)
			if err != nil {
				return err
			}
			closers = append(closers, h.close)
			if len(known) < 4 {
				known = append(known, peer.AddrInfo{ID: h.host.ID(), Addrs: h.host.Addrs()})
			}
			all, *side.list = append(all, h), append(*side.list, h.find)
		}
		want := min(20, p.Hosts-1)
		if err := settle(ctx, func() bool { return full(all, want) }); err != nil {
			return fmt.Errorf("no tables of %d peers: %w", want, err)
		}
		say.done("discovery: %d hosts know each other", p.Hosts)
	}
	for i := range p.Rounds {
		if err := errors.Join(r.Ours.round(ctx, ours, p.Lookups), r.Stock.round(ctx, stock, p.Lookups)); err != nil {
			return err
		}
		say.now("discovery: round %d of %d of lookups", i+1, p.Rounds)
	}
	say.done("discovery: a lookup takes %s ms, stock %s ms", r.Ours.P50MS.text(), r.Stock.P50MS.text())
	return nil
}

func full(all []*dhtHost, want int) bool {
	for _, h := range all {
		if h.size() < want {
			return false
		}
	}
	return true
}

// settle waits until f holds.
func settle(ctx context.Context, f func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func (r *lookupRow) round(ctx context.Context, askers []func(context.Context, peer.ID) error, n int) error {
	var took []float64
	begin, work := time.Now(), cpuTime()
	for i := range n {
		id, err := strangerID()
		if err != nil {
			return err
		}
		start := time.Now()
		if err := askers[i%len(askers)](ctx, id); err != nil {
			return err
		}
		took = append(took, ms(time.Since(start)))
	}
	r.CPUMS.add(ms(cpuTime()-work) / float64(n))
	r.PerS.add(float64(n) / time.Since(begin).Seconds())
	r.P50MS.add(quantile(took, .5))
	r.P99MS.add(quantile(took, .99))
	return ctx.Err()
}

// strangerID is the id of nobody.
func strangerID() (peer.ID, error) {
	b := make([]byte, 38)
	_, _ = rand.Read(b) // never fails
	copy(b, []byte{0, 36, 8, 1, 18, 32})
	return peer.IDFromBytes(b)
}

// dhtHost is one host of a DHT.
type dhtHost struct {
	host  corehost.Host
	size  func() int // of its table
	find  func(context.Context, peer.ID) error
	close func() error
}

func newOurDHT(ctx context.Context, known []peer.AddrInfo) (*dhtHost, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	h, err := host.New(host.Options{Key: key, Listen: []ma.Multiaddr{ma.StringCast(loopbackTCP)}})
	if err != nil {
		return nil, err
	}
	log, bus := slog.New(slog.DiscardHandler), event.NewBus(64)
	book, err := addrbook.Open(addrbook.Config{Net: syncNet, Self: h.ID(), Private: true}, bus, nil, nil)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	cfg := discovery.Config{Private: true, Discovery: config.Discovery{DHT: config.DHTServer, DHTScope: config.DHTScopePublic}}
	d, err := discovery.New(cfg, discovery.Functions{}, h, book, bus, log, nil)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := d.Start(syncNet); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	one := &dhtHost{host: h, size: func() int { return d.Status().Peers },
		find: func(ctx context.Context, id peer.ID) error {
			_, err := d.FindNode(ctx, id, nil)
			return err
		},
		close: func() error {
			cancel()
			return errors.Join(<-done, h.Close())
		}}
	return one, connectAll(ctx, h, known)
}

func newStockDHT(ctx context.Context, known []peer.AddrInfo) (*dhtHost, error) {
	h, err := bareHost()
	if err != nil {
		return nil, err
	}
	d, err := dht.New(h, dht.ProtocolPrefix(dhtPrefix), dht.Mode(dht.ModeServer), dht.BootstrapPeers(known...))
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	one := &dhtHost{host: h, size: func() int { return d.RoutingTable().Size() },
		find: func(ctx context.Context, id peer.ID) error {
			if _, err := d.FindPeer(ctx, id); ctx.Err() != nil {
				return err
			}
			return nil // nobody has that id
		},
		close: func() error { return errors.Join(d.Close(), h.Close()) }}
	if err := connectAll(ctx, h, known); err != nil {
		return one, err
	}
	return one, d.Bootstrap(ctx)
}

func bareHost() (corehost.Host, error) {
	return libp2p.New(libp2p.ListenAddrStrings(loopbackTCP), libp2p.ResourceManager(&network.NullResourceManager{}))
}

func connectAll(ctx context.Context, h corehost.Host, known []peer.AddrInfo) error {
	var errs []error
	for _, p := range known {
		errs = append(errs, h.Connect(ctx, p))
	}
	return errors.Join(errs...)
}

// dials measures connections of two nodes, and of two stock hosts, in turn.
func (r *discoveryRow) dials(ctx context.Context, dir string, p discoveryPlan, say *progress) (err error) {
	a, err := startNode(ctx, filepath.Join(dir, "a"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	b, err := startNode(ctx, filepath.Join(dir, "b"), a.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := settle(ctx, func() bool { return ready(a, b) && ready(b, a) }); err != nil {
		return fmt.Errorf("two nodes do not meet: %w", err)
	}
	if _, err := b.RemovePeer(ctx, a.addr); err != nil {
		return err
	}
	var bare [2]corehost.Host
	for i := range bare {
		if bare[i], err = bareHost(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, bare[i].Close()) }()
	}
	to := peer.AddrInfo{ID: bare[1].ID(), Addrs: bare[1].Addrs()}
	for i := range p.Rounds {
		say.now("discovery: round %d of %d of dials", i+1, p.Rounds)
		err := r.Ready.round(p.Dials, func() error {
			_, err := b.ConnectPeer(ctx, a.addr)
			if err == nil && !ready(b, a) {
				err = errors.New("the peer is connected and not ready")
			}
			return err
		}, func() error {
			if here(b, a) {
				if _, err := b.DisconnectPeer(ctx, a.ID()); err != nil {
					return err
				}
			}
			return settle(ctx, func() bool { return !here(a, b) && !here(b, a) })
		})
		if err != nil {
			return err
		}
		err = r.Connect.round(p.Dials, func() error { return bare[0].Connect(ctx, to) }, func() error {
			if err := bare[0].Network().ClosePeer(to.ID); err != nil {
				return err
			}
			return settle(ctx, func() bool { return len(bare[0].Network().Conns())+len(bare[1].Network().Conns()) == 0 })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// round connects and parts; the time of parting is not measured.
func (r *dialRow) round(n int, connect, part func() error) error {
	var took []float64
	var work time.Duration
	if err := part(); err != nil {
		return err
	}
	for range n {
		begin, cpu := time.Now(), cpuTime()
		if err := connect(); err != nil {
			return err
		}
		took = append(took, ms(time.Since(begin)))
		work += cpuTime() - cpu
		if err := part(); err != nil {
			return err
		}
	}
	r.P50MS.add(quantile(took, .5))
	r.P99MS.add(quantile(took, .99))
	r.CPUMS.add(ms(work) / float64(n))
	return nil
}

// benchNode is a whole node in this process.
type benchNode struct {
	*parley.Node
	addr string
	stop func() error
}

func startNode(ctx context.Context, dir string, static ...string) (*benchNode, error) {
	return startNodeWith(ctx, dir, func(c *config.Config) { c.P2P.StaticPeers = static })
}

func startNodeWith(ctx context.Context, dir string, change func(*config.Config)) (*benchNode, error) {
	cfg := config.Default()
	cfg.DataDir, cfg.P2P.OnAPIPort, cfg.P2P.TargetPeers = dir, false, 0
	cfg.Discovery.DHT = config.DHTOff // a lookup of the other node would connect again
	cfg.P2P.Listen, cfg.API.Listen, cfg.Ops.Listen = []string{loopbackTCP}, []string{"127.0.0.1:0"}, "127.0.0.1:0"
	change(&cfg)
	n, err := parley.New(cfg, parley.Env{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	b := &benchNode{Node: n, stop: func() error {
		cancel()
		return <-done
	}}
	err = settle(ctx, func() bool {
		if addrs := n.Info().Listen; len(addrs) > 0 {
			b.addr = addrs[0]
		}
		return b.addr != ""
	})
	if err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func here(n, of *benchNode) bool { _, ok := n.Peer(of.ID()); return ok }

func ready(n, of *benchNode) bool { p, ok := n.Peer(of.ID()); return ok && p.Ready }

// discoveryTable is the result for people.
func (r *report) discoveryTable() string {
	d := r.Discovery
	if d == nil {
		return ""
	}
	var b strings.Builder
	line := func(text string, cells ...string) {
		b.WriteString(pad(text, 39, false))
		for _, c := range cells {
			b.WriteString(pad(c, 28, true))
		}
		b.WriteString("\n")
	}
	line(fmt.Sprintf("lookup among %d hosts, TCP loopback", d.Hosts), "ours", "stock FindPeer")
	b.WriteString(strings.Repeat("─", 95) + "\n")
	line("lookups/s, one after the other", d.Ours.PerS.text(), d.Stock.PerS.text())
	line("p50, ms", d.Ours.P50MS.text(), d.Stock.P50MS.text())
	line("p99, ms", d.Ours.P99MS.text(), d.Stock.P99MS.text())
	line("CPU of all ends, ms", d.Ours.CPUMS.text(), d.Stock.CPUMS.text())
	b.WriteString("\n")
	line("dial until ready, TCP loopback", "two nodes", "bare connect, identify")
	b.WriteString(strings.Repeat("─", 95) + "\n")
	line("p50, ms", d.Ready.P50MS.text(), d.Connect.P50MS.text())
	line("p99, ms", d.Ready.P99MS.text(), d.Connect.P99MS.text())
	line("CPU of both ends, ms", d.Ready.CPUMS.text(), d.Connect.CPUMS.text())
	return b.String()
}
