package discovery

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
)

// slow is a link on which who greets learns the end of the handshake so much
// after who was greeted.
func slow(f *Functions, by time.Duration) {
	var mu sync.Mutex
	greeting := map[peer.ID]int{}
	count := func(p peer.ID, n int) {
		mu.Lock()
		defer mu.Unlock()
		greeting[p] += n
	}
	connect, ready := f.Connect, f.Ready
	f.Connect = func(ctx context.Context, info peer.AddrInfo) error {
		count(info.ID, 1)
		defer count(info.ID, -1)
		if err := connect(ctx, info); err != nil {
			return err
		}
		time.Sleep(by)
		return nil
	}
	f.Ready = func(p peer.ID) bool {
		mu.Lock()
		defer mu.Unlock()
		return greeting[p] == 0 && ready(p)
	}
}

// Six nodes and one bootstrap peer: each has the five others in its table soon,
// though a node that is greeted asks its greeter before that one knows that they
// are peers, and is refused. And they stay there while everybody comes again and
// again to ask.
func TestTablesAreWhole(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		cfg := Config{Discovery: config.Discovery{DHT: config.DHTAuto, PEX: true, Rendezvous: true}}
		var nodes []*node
		for range 6 {
			nodes = append(nodes, l.node(options{cfg: cfg, fns: func(f *Functions) { slow(f, 300*time.Millisecond) }}))
			cfg.Bootstrap = []string{nodes[0].p2p()}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		for until := time.Now().Add(25 * time.Minute); time.Now().Before(until); time.Sleep(time.Second) {
			for i, n := range nodes {
				if s := n.Status(); s.Peers != len(nodes)-1 {
					t.Fatalf("%v before the end node %d has %d peers in its table: %+v", time.Until(until), i, s.Peers, s)
				}
			}
		}
	})
}

// Who connects keeps its place in the table until it has shaken hands, and loses
// it where it never does.
func TestMemberComesAgain(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		a, c := l.node(options{cfg: onlyDHT}), l.node(options{cfg: onlyDHT})
		var mute atomic.Bool
		b := l.node(options{cfg: onlyDHT, fns: func(f *Functions) {
			connect := f.Connect
			f.Connect = func(ctx context.Context, info peer.AddrInfo) error {
				if mute.Load() {
					return errors.New("it says nothing")
				}
				return connect(ctx, info)
			}
		}})
		a.meet(c)
		b.meet(a)
		time.Sleep(time.Minute)
		if !a.tableHas(b.host.ID()) {
			t.Fatal("they do not know each other")
		}
		mute.Store(true)
		b.host.RemoveStreamHandler(handshake.StatusProtocol)
		if err := b.host.Network().ClosePeer(a.host.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := b.host.Connect(t.Context(), a.info()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !a.tableHas(b.host.ID()) {
			t.Error("a peer that came again, and has not shaken hands yet, lost its place")
		}
		time.Sleep(time.Hour)
		if a.tableHas(b.host.ID()) {
			t.Error("a peer that does not shake hands is in the table for an hour")
		}
	})
}

// A peer that answered nothing for long gets its place when it asks, over the
// same connection. Until then it was asked a few times.
func TestWhoAsksIsConsidered(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		var awake atomic.Bool
		a, c := l.node(options{cfg: onlyDHT}), l.node(options{cfg: onlyDHT})
		b := l.node(options{cfg: onlyDHT, fns: func(f *Functions) {
			ready := f.Ready
			f.Ready = func(p peer.ID) bool { return awake.Load() && ready(p) }
		}})
		a.meet(c)
		b.meet(a)
		time.Sleep(30 * time.Minute)
		if a.tableHas(b.host.ID()) {
			t.Fatal("a peer that answers nothing is in the table")
		}
		if n := b.counter("parley_discovery_refused_total", "not_ready"); n < considerMost || n > 60 {
			t.Errorf("it was asked %v times in half an hour", n)
		}
		awake.Store(true)
		k, _ := b.parts()
		k.newcomers.consider(t.Context(), a.host.ID())
		time.Sleep(time.Second)
		if !a.tableHas(b.host.ID()) {
			t.Error("a peer that asks has no place in the table")
		}
	})
}

// Peers that are ready and silent hold up neither others nor the refresh.
func TestSilentNewcomers(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: publicDHT, fns: func(f *Functions) { f.Connect = nil }})
		k, _ := n.parts()
		for range 3 * considerWidth {
			h := l.host(l.address(), newKey(t))
			h.SetStreamHandler(kadID, func(st network.Stream) { _, _ = io.Copy(io.Discard, st) })
			if err := h.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				k.newcomers.offer(h.ID())
			}
		}
		good := l.node(options{cfg: publicDHT, fns: func(f *Functions) { f.Connect = nil }})
		good.meet(n)
		k.newcomers.offer(good.host.ID())
		time.Sleep(40 * time.Second) // three rounds of 10 s
		if !n.tableHas(good.host.ID()) {
			t.Error("silent peers keep one that answers out")
		}
		time.Sleep(5 * time.Minute)
		for _, h := range l.hosts {
			if h != n.host {
				_ = h.Network().ClosePeer(n.host.ID())
			}
		}
		time.Sleep(2 * time.Minute)
		k.newcomers.mu.Lock()
		defer k.newcomers.mu.Unlock()
		if len(k.newcomers.silent)+len(k.newcomers.asking) > 0 {
			t.Errorf("%d peers that are gone are remembered, %d are being asked", len(k.newcomers.silent), len(k.newcomers.asking))
		}
	})
}
