package discovery

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// Over real sockets, TCP, on one machine: one bootstrap peer is enough.
func TestOverTCP(t *testing.T) {
	var nodes []*Discovery
	var hosts []*host.Host
	var boot []string
	for i := range 6 {
		h, err := host.New(host.Options{Key: newKey(t), Listen: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/0")}})
		if err != nil {
			t.Fatal(err)
		}
		bus := event.NewBus(64)
		book, err := addrbook.Open(addrbook.Config{Net: testNet, Self: h.ID(), Private: true, Sources: 3}, bus, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := reputation.New(reputation.Config{}, bus, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		hand := handshake.New(handshake.Config{}, h, rep, fakeChain{chain.Status{Network: "consortium", ChainID: "x", Genesis: chain.Hash{1}}}, bus, quiet(), nil)
		fns := Functions{Ready: hand.IsReady, Connect: func(ctx context.Context, info peer.AddrInfo) error {
			if err := h.Connect(ctx, info); err != nil {
				return err
			}
			return hand.Greet(ctx, info.ID)
		}}
		cfg := Config{Private: true, Bootstrap: boot, Discovery: config.Discovery{DHT: config.DHTAuto, PEX: true, Rendezvous: true}}
		d, err := New(cfg, fns, h, book, bus, quiet(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- hand.Run(ctx) }()
		go func() { done <- d.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			h.Close()
		})
		if err := d.Start(testNet); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			boot = []string{h.Addrs()[0].String() + "/p2p/" + h.ID().String()}
		}
		nodes, hosts = append(nodes, d), append(hosts, h)
	}
	wait := func(what string, f func() bool) {
		t.Helper()
		poll, end := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
		defer poll.Stop()
		for !f() {
			select {
			case <-poll.C:
			case <-end:
				for i, n := range nodes {
					t.Errorf("node %d: %d connected, %+v", i, len(hosts[i].Network().Peers()), n.Status())
				}
				t.Fatalf("no %s after a minute", what)
			}
		}
	}
	wait("tables of 5 peers", func() bool {
		for _, n := range nodes {
			if n.Status().Peers < 5 {
				return false
			}
		}
		return true
	})
	key := Key("note", hosts[1].ID())
	if s, err := nodes[1].PutValue(t.Context(), key, []byte("x"), nil); err != nil || s.Peers != 5 {
		t.Fatalf("put: %v at %d peers", err, s.Peers)
	}
	if got, err := nodes[5].GetValue(t.Context(), key, 0, nil); err != nil || string(got.Value.Data) != "x" {
		t.Fatalf("get: %v", err)
	}
	// Two peers of one group may want one place in the book.
	wait("3 peers in the last book", func() bool { return len(nodes[5].intake.book.Entries()) >= 3 })
}
