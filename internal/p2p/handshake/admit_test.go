package handshake

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// A newcomer for whom another gives its place up gets in, and the other is
// told why it goes.
func TestAdmitEvicts(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		old, young, third := start(t, nw, 2, statusOf("x", 1)), start(t, nw, 3, statusOf("x", 1)), start(t, nw, 4, statusOf("x", 1))
		answer := map[peer.ID]func() (peer.ID, error){
			old.host.ID():   func() (peer.ID, error) { return "", nil },
			young.host.ID(): func() (peer.ID, error) { return old.host.ID(), nil },
			third.host.ID(): func() (peer.ID, error) { return "", errors.New("4 peers from your address are here already") },
		}
		full := start(t, nw, 1, statusOf("x", 1), func(c *Config) {
			c.Admit = func(p peer.ID) (peer.ID, error) { return answer[p]() }
			c.Slot = func(p peer.ID) (string, string) {
				if p == young.host.ID() {
					return "", "pex"
				}
				return "", ""
			}
		})
		for _, n := range []*node{full, old, young, third} {
			defer n.stop()
		}
		sub := old.bus.Subscribe()
		for _, n := range []*node{old, young} {
			dial(t, n, full)
			if err := n.Greet(t.Context(), full.host.ID()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		if ready := full.readyIDs(); len(ready) != 1 || ready[0] != young.host.ID() {
			t.Errorf("ready are %v, want %s alone", ready, young.host.ID())
		}
		if got := events[event.PeerDisconnected](sub); len(got) != 1 || got[0].Goodbye != wire.GoodbyeTooManyPeers {
			t.Errorf("the evicted peer heard %+v", got)
		}
		if p, _ := full.Peer(young.host.ID()); p.Slot != "inbound" || p.Source != "pex" || p.MinRTT <= 0 {
			t.Errorf("the newcomer is %+v", p)
		}
		dial(t, third, full)
		var refusal *Refusal
		if err := third.Greet(t.Context(), full.host.ID()); !errors.As(err, &refusal) || refusal.Code != wire.TooManyPeers || refusal.Text != "4 peers from your address are here already" {
			t.Errorf("greet: %v", err)
		}
	})
}

// One too many in handshake is closed at once, and who is ready never is.
func TestArriveClosesTheExcess(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		ready, silent := start(t, nw, 2, statusOf("x", 1)), newHost(t, nw, 3)
		defer silent.Close()
		var excess atomic.Value
		excess.Store(peer.ID(""))
		full := start(t, nw, 1, statusOf("x", 1), func(c *Config) {
			c.Arrive = func(peer.ID) (peer.ID, string) { return excess.Load().(peer.ID), "crowded here" }
		})
		defer full.stop()
		defer ready.stop()
		dial(t, ready, full)
		if err := ready.Greet(t.Context(), full.host.ID()); err != nil {
			t.Fatal(err)
		}
		connect := func() {
			if err := silent.Connect(t.Context(), peer.AddrInfo{ID: full.host.ID(), Addrs: full.host.Addrs()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		excess.Store(ready.host.ID()) // is not in handshake any more
		connect()
		if n := len(full.Peers()); n != 2 {
			t.Fatalf("%d peers, want 2", n)
		}
		if err := silent.Network().ClosePeer(full.host.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		excess.Store(silent.ID())
		sub, told := full.bus.Subscribe(), full.bus.Subscribe()
		connect()
		if got := events[event.PeerDisconnected](sub); len(got) != 1 || got[0].By != "us" || len(full.readyIDs()) != 1 {
			t.Errorf("events %+v, ready %v", got, full.readyIDs())
		}
		if got := events[event.PeerRefused](told); len(got) != 1 || got[0].Peer != silent.ID() || got[0].Reason != "crowded here" || got[0].By != "us" {
			t.Errorf("told of %+v", got)
		}
		if n := counted(t, full.metrics.results, "crowded"); n != 1 {
			t.Errorf("%v counted", n)
		}
	})
}

// A peer has two streams of each protocol here at once; more are reset, and
// the peer is greeted all the same.
func TestStreamsOfOnePeer(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		n := start(t, nw, 1, statusOf("x", 1))
		defer n.stop()
		h := newHost(t, nw, 2)
		defer h.Close()
		if err := h.Connect(t.Context(), peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []protocol.ID{StatusProtocol, GoodbyeProtocol} {
			reset := 0
			for range 50 {
				st, err := h.NewStream(t.Context(), n.host.ID(), id)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := st.Write([]byte{1}); err != nil { // half a frame
					t.Fatal(err)
				}
				_ = st.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := st.Read(make([]byte, 1)); errors.Is(err, network.ErrReset) {
					reset++
				}
			}
			if reset < 50-maxStreams-2*6 { // in 50 s, each of them ends after 10 s and one more may come
				t.Errorf("%s: %d of 50 streams were reset", id, reset)
			}
		}
		if got := counted(t, n.metrics.results, "streams"); got < 50 {
			t.Errorf("%v refused streams are counted", got)
		}
		time.Sleep(greetTimeout + time.Second)
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.streams) != 0 {
			t.Errorf("streams are still counted: %v", n.streams)
		}
	})
}

// Whoever is told of ready peers hears of each before it is told that it is one,
// and again where it connects once more.
func TestReadyIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		var told atomic.Int64
		n := start(t, nw, 1, statusOf("x", 1), func(c *Config) {
			c.Ready = func(peer.ID) { told.Add(1) }
		})
		defer n.stop()
		p := start(t, nw, 2, statusOf("x", 1))
		defer p.stop()
		dial(t, p, n)
		time.Sleep(time.Second)
		if got := told.Load(); got != 0 {
			t.Fatalf("told %d times of a peer that has not greeted", got)
		}
		if err := p.Greet(t.Context(), n.host.ID()); err != nil {
			t.Fatal(err)
		}
		if got := told.Load(); got != 1 {
			t.Fatalf("told %d times when the peer knows that it is ready", got)
		}
		n.connected(n.host.Network().ConnsToPeer(p.host.ID())[0])
		if got := told.Load(); got != 2 {
			t.Errorf("told %d times after another connection, want 2", got)
		}
	})
}
