package dialer_test

import (
	"bytes"
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
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet tells of each packet to nobody
	os.Exit(m.Run())
}

// world is a simulated network with names, in virtual time.
type world struct {
	t  *testing.T
	nw *simnet.Simnet

	mu    sync.Mutex
	names map[string][]netip.Addr
}

func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	old := runtime.GOMAXPROCS(1) // timers of a bubble under the race detector, golang/go#78156
	defer runtime.GOMAXPROCS(old)
	synctest.Test(t, func(t *testing.T) {
		nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(10 * time.Millisecond)}
		nw.Start()
		f(t, &world{t: t, nw: nw, names: map[string][]netip.Addr{}})
		time.Sleep(time.Minute) // QUIC drains
		nw.Close()
	})
}

func (w *world) name(name string, ips ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[name] = nil
	for _, ip := range ips {
		w.names[name] = append(w.names[name], netip.MustParseAddr(ip))
	}
}

func (w *world) resolve(_ context.Context, name string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ips := w.names[name]; len(ips) > 0 {
		return slices.Clone(ips), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

type fakeChain struct{ status chain.Status }

func (f fakeChain) ID() chain.NetworkID                       { return chain.NetworkID{} }
func (f fakeChain) Status() chain.Status                      { return f.status }
func (f fakeChain) Run(context.Context, chain.Services) error { return nil }

func (f fakeChain) CheckStatus(remote chain.Status) error {
	if remote.Genesis != f.status.Genesis {
		return &chain.MismatchError{Code: chain.WrongGenesis, Text: fmt.Sprintf("chain %s is not chain %s", remote.ChainID, f.status.ChainID)}
	}
	return nil
}

// node is a host with its handshake and its dialer.
type node struct {
	*dialer.Dialer
	*handshake.Handshake
	host host.Host
	rep  *reputation.Book
	gate *reputation.Gate
	bus  *event.Bus
	reg  *prometheus.Registry
	log  *lockedBuffer
	stop func() // ends all and waits
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{bus: event.NewBus(4096), reg: prometheus.NewRegistry(), log: &lockedBuffer{}}
	var err error
	if n.rep, err = reputation.New(reputation.Config{}, n.bus, nil, nil); err != nil {
		t.Fatal(err)
	}
	n.gate = reputation.NewGate(n.rep)
	return n
}

type options struct {
	known func(peer.ID) []ma.Multiaddr
	ip    string
	chain string // "" = x
	key   crypto.PrivKey
	cfg   dialer.Config

	identity func(context.Context, string) (dialer.Identity, error)                               // nil = no HTTP
	greet    func(real func(context.Context, peer.ID) error) func(context.Context, peer.ID) error // nil = real
	members  []peer.AddrInfo
	gater    connmgr.ConnectionGater // nil = that of reputation
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func idOf(t *testing.T, key crypto.PrivKey) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) node(o options) *node {
	w.t.Helper()
	if o.key == nil {
		o.key = newKey(w.t)
	}
	n := newNode(w.t)
	if o.gater == nil {
		o.gater = n.gate
	}
	link := simnet.LinkSettings{BitsPerSecond: 20 * simlibp2p.OneMbps}
	h, err := libp2p.New(
		libp2p.Identity(o.key),
		libp2p.ConnectionGater(o.gater),
		libp2p.ListenAddrStrings("/ip4/"+o.ip+"/udp/9906/quic-v1"),
		simlibp2p.QUICSimnet(w.nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}),
		libp2p.Transport(libp2pquic.NewTransport), // no TCP: it would dial for real
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil),
	)
	if err != nil {
		w.t.Fatal(err)
	}
	fns := dialer.Functions{
		Resolve: w.resolve,
		Identity: func(context.Context, string) (dialer.Identity, error) {
			return dialer.Identity{}, dialer.ErrNotHTTP // no TCP here
		},
	}
	if o.identity != nil {
		fns.Identity = o.identity
	}
	fns.Known = o.known
	n.run(w.t, h, o, fns)
	synctest.Wait()
	return n
}

// run starts n on h; fns.Greet is set here.
func (n *node) run(t *testing.T, h host.Host, o options, fns dialer.Functions) {
	t.Helper()
	n.host = h
	log := slog.New(slog.NewTextHandler(n.log, nil))
	id := o.chain
	if id == "" {
		id = "x"
	}
	net := fakeChain{chain.Status{Network: "consortium", ChainID: id, Genesis: chain.Hash{id[0]}}}
	n.Handshake = handshake.New(handshake.Config{Name: o.ip}, h, n.rep, net, n.bus, log, nil)
	fns.Greet = n.Greet
	if o.greet != nil {
		fns.Greet = o.greet(n.Greet)
	}
	var err error
	if n.Dialer, err = dialer.New(o.cfg, fns, h, n.rep, n.bus, log, n.reg); err != nil {
		t.Fatal(err)
	}
	if o.members != nil {
		n.Keep(o.members)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- n.Handshake.Run(ctx) }()
	go func() { done <- n.Dialer.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Errorf("Run: %v", err)
		}
		h.Close()
	})
}

// only returns the one static peer there is.
func (n *node) only(t *testing.T) dialer.StaticPeer {
	t.Helper()
	list := n.Static()
	if len(list) != 1 {
		t.Fatalf("%d static peers, want 1: %+v", len(list), list)
	}
	return list[0]
}

// metric reads one metric with a single label.
func (n *node) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

func items(s ...string) dialer.Config { return dialer.Config{Items: s} }
