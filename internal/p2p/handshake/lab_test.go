package handshake

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// fakeChain is a network that is all status.
type fakeChain struct {
	mu     sync.Mutex
	status chain.Status
}

func (f *fakeChain) ID() chain.NetworkID { return chain.NetworkID{Kind: "consortium"} }

func (f *fakeChain) Status() chain.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeChain) set(s chain.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = s
}

func (f *fakeChain) CheckStatus(remote chain.Status) error {
	ours := f.Status()
	if ours.Genesis.IsZero() || remote.Genesis.IsZero() || ours.Genesis == remote.Genesis {
		return nil
	}
	return &chain.MismatchError{Code: chain.WrongGenesis, Text: fmt.Sprintf("chain %s is not chain %s", remote.ChainID, ours.ChainID)}
}

func (f *fakeChain) Run(ctx context.Context, _ chain.Services) error { return nil }

func statusOf(id string, height uint64) chain.Status {
	return chain.Status{
		Network: "consortium", ChainID: id, Genesis: chain.Hash{1: id[0]},
		Head: chain.Head{Height: height, Hash: chain.Hash{2: byte(height)}}, Services: chain.Full | chain.API,
	}
}

// node is one host with its handshake.
type node struct {
	*Handshake
	host  host.Host
	chain *fakeChain
	rep   *reputation.Book
	bus   *event.Bus
	log   *lockedBuffer
	stop  func()
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

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// bubble runs f with a simulated network in virtual time.
func bubble(t *testing.T, f func(t *testing.T, nw *simnet.Simnet)) {
	t.Helper()
	bubbleWith(t, simnet.StaticLatency(10*time.Millisecond), f)
}

// bubbleWith is bubble with lines of its own.
func bubbleWith(t *testing.T, latency func(*simnet.Packet) time.Duration, f func(t *testing.T, nw *simnet.Simnet)) {
	t.Helper()
	old := runtime.GOMAXPROCS(1) // timers of a bubble under the race detector, golang/go#78156
	defer runtime.GOMAXPROCS(old)
	synctest.Test(t, func(t *testing.T) {
		nw := &simnet.Simnet{LatencyFunc: latency}
		nw.Start()
		f(t, nw)
		time.Sleep(time.Minute) // QUIC drains
		nw.Close()
	})
}

func newHost(t *testing.T, nw *simnet.Simnet, i int) host.Host {
	t.Helper()
	link := simnet.LinkSettings{BitsPerSecond: 20 * simlibp2p.OneMbps}
	h, err := libp2p.New(
		libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/1.%d.0.1/udp/8000/quic-v1", i)),
		simlibp2p.QUICSimnet(nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// start makes node i of a chain; cfg may change the config.
func start(t *testing.T, nw *simnet.Simnet, i int, status chain.Status, cfg ...func(*Config)) *node {
	t.Helper()
	n := wired(t, newHost(t, nw, i), i, status, cfg...)
	n.run(t)
	return n
}

// wired is a node that does not run yet.
func wired(t *testing.T, h host.Host, i int, status chain.Status, cfg ...func(*Config)) *node {
	t.Helper()
	n := &node{host: h, chain: &fakeChain{status: status}, bus: event.NewBus(1024), log: &lockedBuffer{}}
	logger := slog.New(slog.NewTextHandler(n.log, nil))
	var err error
	if n.rep, err = reputation.New(reputation.Config{}, n.bus, logger, nil); err != nil {
		t.Fatal(err)
	}
	c := Config{Name: fmt.Sprintf("node%d", i), UserAgent: "parley/test", APIPort: 8080}
	for _, f := range cfg {
		f(&c)
	}
	n.Handshake = New(c, n.host, n.rep, n.chain, n.bus, logger, nil)
	return n
}

func (n *node) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	synctest.Wait()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		n.host.Close()
	})
}

func dial(t *testing.T, from, to *node) {
	t.Helper()
	if err := from.host.Connect(t.Context(), peer.AddrInfo{ID: to.host.ID(), Addrs: to.host.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

// events drains what sub has of one type.
func events[E event.Event](sub *event.Subscription) []E {
	var list []E
	for {
		got, _ := sub.Take(100)
		if len(got) == 0 {
			return list
		}
		for _, e := range got {
			if v, ok := e.Data.(E); ok {
				list = append(list, v)
			}
		}
	}
}

// counted reads one counter of a vector with a single label.
func counted(t *testing.T, c prometheus.Collector, label string) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}
