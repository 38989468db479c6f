package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

const testNet = "0123abcd"

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet tells of each packet to nobody
	os.Exit(m.Run())
}

// lab is a simulated internet in virtual time: hosts with public addresses,
// each in its own address group unless told otherwise, and names.
type lab struct {
	*testing.T
	nw *simnet.Simnet

	mu    sync.Mutex
	nodes []*node
	hosts map[peer.ID]host.Host
	names map[string][]netip.Addr
	texts map[string][]string
	next  int
}

func bubble(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	old := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(old)
	synctest.Test(t, func(t *testing.T) {
		nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(20 * time.Millisecond)}
		nw.Start()
		l := &lab{T: t, nw: nw, hosts: map[peer.ID]host.Host{}, names: map[string][]netip.Addr{}, texts: map[string][]string{}}
		defer func() { // after a Fatal too, or the bubble would complain instead
			for _, n := range l.nodes {
				n.stop()
			}
			for _, h := range l.hosts {
				_ = h.Close()
			}
			time.Sleep(time.Minute) // QUIC drains
			nw.Close()
		}()
		f(t, l)
	})
}

// address gives the next address group's first IP.
func (l *lab) address() string {
	l.next++
	return fmt.Sprintf("%d.%d.0.1", 20+l.next/200, 1+l.next%200)
}

func (l *lab) resolve(_ context.Context, name string) ([]netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ips := l.names[name]; len(ips) > 0 {
		return slices.Clone(ips), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (l *lab) txt(_ context.Context, name string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if texts := l.texts[name]; len(texts) > 0 {
		return slices.Clone(texts), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// host makes a bare host.
func (l *lab) host(ip string, key crypto.PrivKey) host.Host {
	l.Helper()
	link := simnet.LinkSettings{BitsPerSecond: 100 * simlibp2p.OneMbps}
	h, err := libp2p.New(
		libp2p.Identity(key),
		libp2p.ListenAddrStrings("/ip4/"+ip+"/udp/9906/quic-v1"),
		simlibp2p.QUICSimnet(l.nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}),
		libp2p.Transport(libp2pquic.NewTransport), // no TCP: it would dial for real
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil),
	)
	if err != nil {
		l.Fatal(err)
	}
	l.hosts[h.ID()] = h
	return h
}

// node is a host with its handshake, a book and discovery.
type node struct {
	*Discovery
	l    *lab
	host host.Host
	hand *handshake.Handshake
	book *addrbook.Book
	bus  *event.Bus
	reg  *prometheus.Registry
	stop func()

	mu       sync.Mutex
	offences []chain.Offence
}

type options struct {
	ip    string // "" = a group of its own
	key   crypto.PrivKey
	chain string // "" = x
	net   string // of Start; "" = testNet, "-" = not started
	cfg   Config
	fns   func(*Functions)
}

func (l *lab) node(o options) *node {
	l.Helper()
	if o.key == nil {
		o.key = newKey(l.T)
	}
	if o.ip == "" {
		o.ip = l.address()
	}
	h := l.host(o.ip, o.key)
	n := &node{l: l, host: h, bus: event.NewBus(1024), reg: prometheus.NewRegistry()}
	book, err := addrbook.Open(addrbook.Config{Net: testNet, Self: h.ID(), Private: o.cfg.Private, Sources: Kinds(o.cfg)}, n.bus, nil, nil)
	if err != nil {
		l.Fatal(err)
	}
	n.book = book
	rep, err := reputation.New(reputation.Config{}, n.bus, nil, nil)
	if err != nil {
		l.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	id := o.chain
	if id == "" {
		id = "x"
	}
	n.hand = handshake.New(handshake.Config{Name: o.ip}, h, rep, fakeChain{chain.Status{Network: "consortium", ChainID: id, Genesis: chain.Hash{id[0]}}}, n.bus, log, nil)
	fns := Functions{
		Resolve: l.resolve, TXT: l.txt, Ready: n.hand.IsReady,
		Connect: func(ctx context.Context, info peer.AddrInfo) error {
			if err := h.Connect(ctx, info); err != nil {
				return err
			}
			return n.hand.Greet(ctx, info.ID)
		},
		Report: func(_ peer.ID, o chain.Offence, detail string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.offences = append(n.offences, o)
		},
	}
	if o.fns != nil {
		o.fns(&fns)
	}
	if n.Discovery, err = New(o.cfg, fns, h, n.book, n.bus, log, n.reg); err != nil {
		l.Fatal(err)
	}
	n.run(o)
	synctest.Wait()
	return n
}

func (n *node) run(o options) {
	ctx, cancel := context.WithCancel(n.l.Context())
	done := make(chan error, 2)
	go func() { done <- n.hand.Run(ctx) }()
	go func() { done <- n.Discovery.Run(ctx) }()
	if o.net != "-" {
		name := o.net
		if name == "" {
			name = testNet
		}
		if err := n.Start(name); err != nil {
			n.l.Fatal(err)
		}
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			n.l.Errorf("Run: %v", err)
		}
	})
	n.l.nodes = append(n.l.nodes, n)
}

func (n *node) info() peer.AddrInfo { return peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()} }

// p2p is the node's address with its id.
func (n *node) p2p() string { return n.host.Addrs()[0].String() + "/p2p/" + n.host.ID().String() }

// meet connects n with o, as a dialer would.
func (n *node) meet(o *node) {
	n.l.Helper()
	if err := n.host.Connect(n.l.Context(), o.info()); err != nil {
		n.l.Fatal(err)
	}
	if err := n.hand.Greet(n.l.Context(), o.host.ID()); err != nil {
		n.l.Fatal(err)
	}
	n.host.ConnManager().Protect(o.host.ID(), "slot/out")
}

func (n *node) charged(o chain.Offence) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(n.offences), func(v chain.Offence) bool { return v != o }))
}

func (n *node) counter(name, label string) float64 {
	n.l.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		n.l.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name {
				continue
			}
			hit := label == ""
			for _, p := range m.GetLabel() {
				hit = hit || p.GetValue() == label
			}
			if hit {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// swarm makes n nodes that know each other a little: each met the one before
// and another one.
func (l *lab) swarm(count int, o options) []*node {
	var nodes []*node
	for i := range count {
		n := l.node(o)
		if i > 0 {
			n.meet(nodes[i-1])
		}
		if i > 2 {
			n.meet(nodes[i/2])
		}
		nodes = append(nodes, n)
	}
	return nodes
}

var onlyDHT = Config{Discovery: config.Discovery{DHT: config.DHTServer, Rendezvous: true}}

type fakeChain struct{ status chain.Status }

func (f fakeChain) ID() chain.NetworkID                       { return chain.NetworkID{} }
func (f fakeChain) Status() chain.Status                      { return f.status }
func (f fakeChain) Run(context.Context, chain.Services) error { return nil }

func (f fakeChain) CheckStatus(remote chain.Status) error {
	if remote.Genesis != f.status.Genesis {
		return &chain.MismatchError{Code: chain.WrongGenesis, Text: "another chain"}
	}
	return nil
}

// from counts the peers of the book that a kind of source brought first.
func (n *node) from(k addrbook.Kind) int {
	count := 0
	for _, e := range n.book.Entries() {
		if len(e.Sources) > 0 && e.Sources[0].Kind == k {
			count++
		}
	}
	return count
}

func addrOf(t testing.TB, ip string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
