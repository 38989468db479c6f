package handshake

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

func TestGreetMakesBothReady(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 7)), start(t, nw, 2, statusOf("x", 9))
		defer a.stop()
		defer b.stop()
		subA, subB := a.bus.Subscribe(), b.bus.Subscribe()
		dial(t, a, b)
		if p, ok := a.Peer(b.host.ID()); !ok || p.Ready || len(a.Ready()) != 0 {
			t.Fatalf("before the handshake: %+v, %v", p, ok)
		}
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		if !b.IsReady(a.host.ID()) {
			t.Fatal("the answering side is not ready when the greeting side is")
		}
		time.Sleep(time.Second)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatalf("greet when ready: %v", err)
		}
		p, _ := a.Peer(b.host.ID())
		if p.Name != "node2" || p.Agent != "parley/test" || p.APIPort != 8080 || p.Claimed.Height != 9 || p.Direction != "outbound" ||
			p.Transport != "quic-v1" || p.Security != "tls" || p.Source != "outbound" {
			t.Errorf("a sees %+v", p)
		}
		q, _ := b.Peer(a.host.ID())
		if q.Name != "node1" || q.Claimed.Height != 7 || q.Direction != "inbound" || q.Slot != "inbound" {
			t.Errorf("b sees %+v", q)
		}
		for _, l := range []time.Duration{p.Latency, q.Latency} {
			if l < 15*time.Millisecond || l > 100*time.Millisecond {
				t.Errorf("latency %v, the link has 20ms and more", l)
			}
		}
		if got := events[event.PeerReady](subA); len(got) != 1 || got[0].Height != 9 || got[0].Name != "node2" || got[0].Services[1] != "api" {
			t.Errorf("events at a: %+v", got)
		}
		if got := events[event.PeerReady](subB); len(got) != 1 || got[0].Direction != "inbound" {
			t.Errorf("events at b: %+v", got)
		}
		a.Validated(b.host.ID(), chain.Head{Height: 12})
		a.Validated(b.host.ID(), chain.Head{Height: 11})
		if r := a.Ready(); len(r) != 1 || r[0].Validated.Height != 12 || r[0].Claimed.Height != 12 || r[0].Genesis != (chain.Hash{1: 'x'}) {
			t.Errorf("ready peers %+v", r)
		}
		if n := counted(t, a.metrics.results, "ok"); n != 1 {
			t.Errorf("%v handshakes counted", n)
		}
	})
}

func TestWrongChainIsToldOnBothSides(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("y", 1))
		defer a.stop()
		defer b.stop()
		subA, subB := a.bus.Subscribe(), b.bus.Subscribe()
		dial(t, a, b)
		err := a.Greet(t.Context(), b.host.ID())
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Code != wire.WrongGenesis || refusal.ByUs || refusal.Text != "chain x is not chain y" {
			t.Fatalf("greet: %v", err)
		}
		time.Sleep(5 * time.Second)
		for name, n := range map[string]*node{"a": a, "b": b} {
			if len(n.Peers()) != 0 || len(n.host.Network().Conns()) != 0 {
				t.Errorf("%s is still connected", name)
			}
			log := n.log.String()
			if !strings.Contains(log, "peer refused") || !strings.Contains(log, "chain x is not chain y") ||
				!strings.Contains(log, "x (genesis") || !strings.Contains(log, "y (genesis") {
				t.Errorf("log of %s: %s", name, log)
			}
		}
		for _, sub := range []*event.Subscription{subA, subB} {
			got := events[event.PeerRefused](sub)
			if len(got) != 1 || got[0].Place != "handshake" || got[0].Reason != "chain x is not chain y" {
				t.Errorf("events %+v", got)
			}
		}
		if s := b.rep.Score(a.host.ID()); s.Points != 0 {
			t.Errorf("another network costs %d points", s.Points)
		}
	})
}

func TestNewcomerGreetsAgainWithItsChain(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b, c := start(t, nw, 1, chain.Status{Network: "consortium"}), start(t, nw, 2, statusOf("x", 3)), start(t, nw, 3, statusOf("y", 3))
		defer a.stop()
		defer b.stop()
		defer c.stop()
		for _, n := range []*node{b, c} {
			dial(t, a, n)
			if err := a.Greet(t.Context(), n.host.ID()); err != nil {
				t.Fatal(err)
			}
		}
		if r := b.Ready(); len(r) != 1 || !r[0].Genesis.IsZero() {
			t.Fatalf("b sees %+v", r)
		}
		a.chain.set(statusOf("x", 3)) // seconds after its first status
		a.ChainKnown()
		time.Sleep(5 * time.Second)
		if r := b.Ready(); len(r) != 1 || r[0].Genesis.IsZero() {
			t.Errorf("b still sees %+v", r)
		}
		if len(c.Peers()) != 0 {
			t.Errorf("the node of another chain is still a peer: %+v", c.Peers())
		}
		if s := b.rep.Score(a.host.ID()); s.Points != 0 {
			t.Errorf("the second status cost %d points", s.Points)
		}
		if err := a.greet(t.Context(), b.host.ID()); err == nil {
			t.Error("a third status within a minute was answered")
		}
		if s := b.rep.Score(a.host.ID()); s.Points != 20 {
			t.Errorf("the third status cost %d points, want 20 for a violation", s.Points)
		}
		time.Sleep(statusEvery)
		if err := a.greet(t.Context(), b.host.ID()); err != nil {
			t.Errorf("status after a minute: %v", err)
		}
	})
}

func TestSilentInboundPeerIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		sub, subA := b.bus.Subscribe(), a.bus.Subscribe()
		dial(t, a, b)
		time.Sleep(9 * time.Second)
		if len(b.Peers()) != 1 {
			t.Fatal("closed before its time")
		}
		time.Sleep(3 * time.Second)
		if len(b.Peers()) != 0 {
			t.Fatal("a peer that never greeted is still connected")
		}
		if got := events[event.PeerDisconnected](sub); len(got) != 1 || got[0].By != "us" || got[0].DurationS < 10 {
			t.Errorf("events %+v", got)
		}
		if got := events[event.PeerDisconnected](subA); len(got) != 1 || got[0].By != "them" || got[0].Goodbye != wire.GoodbyeFault {
			t.Errorf("events at the silent one %+v", got)
		}
		if s := b.rep.Score(a.host.ID()); s.Points != 4 {
			t.Errorf("%d points, want 4 for a timeout", s.Points)
		}
	})
}

func TestBadVersions(t *testing.T) {
	for name, tt := range map[string]struct {
		frame  []byte
		raw    bool
		points int
	}{
		"malformed": {frame: []byte{0x0a, 0xff}, points: 25},
		"oversize":  {frame: []byte{0x81, 0x80, 0x80, 0x01}, raw: true, points: 40},
		"silent":    {raw: true, points: 0}, // cut by the deadline of the stream
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *simnet.Simnet) {
				a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
				defer a.stop()
				defer b.stop()
				dial(t, a, b)
				st, err := a.host.NewStream(t.Context(), b.host.ID(), StatusProtocol)
				if err != nil {
					t.Fatal(err)
				}
				if tt.raw {
					_, err = st.Write(tt.frame)
				} else {
					err = wire.WriteFrame(st, tt.frame)
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				if s := b.rep.Score(a.host.ID()); s.Points != tt.points {
					t.Errorf("%d points, want %d: %+v", s.Points, tt.points, s.Reasons)
				}
				if b.IsReady(a.host.ID()) {
					t.Error("ready after nonsense")
				}
				if name == "oversize" && len(b.Peers()) != 0 {
					t.Error("a discouraged peer is still connected")
				}
				time.Sleep(10 * time.Second)
				if len(b.Peers()) != 0 {
					t.Error("still connected")
				}
			})
		})
	}
}

// places admits n peers.
func places(n int) func(peer.ID) (peer.ID, error) {
	return func(peer.ID) (peer.ID, error) {
		if n--; n < 0 {
			return "", errors.New("all places are taken")
		}
		return "", nil
	}
}

func TestFullNodeTurnsAwayInbound(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		full := start(t, nw, 1, statusOf("x", 1), func(c *Config) { c.Admit = places(1) })
		a, b, c := start(t, nw, 2, statusOf("x", 1)), start(t, nw, 3, statusOf("x", 1)), start(t, nw, 4, statusOf("x", 1))
		for _, n := range []*node{full, a, b, c} {
			defer n.stop()
		}
		full.host.ConnManager().Protect(c.host.ID(), tagMember)
		for _, n := range []*node{a, c} {
			dial(t, n, full)
			if err := n.Greet(t.Context(), full.host.ID()); err != nil {
				t.Fatal(err)
			}
		}
		sub := b.bus.Subscribe()
		dial(t, b, full)
		var refusal *Refusal
		if err := b.Greet(t.Context(), full.host.ID()); !errors.As(err, &refusal) || refusal.RefusalCode() != wire.TooManyPeers {
			t.Fatalf("greet: %v", err)
		}
		time.Sleep(3 * time.Second)
		if len(b.Peers()) != 0 || len(full.Ready()) != 2 {
			t.Error("the full node kept the wrong peers")
		}
		if got := events[event.PeerDisconnected](sub); len(got) != 1 {
			t.Errorf("events %+v", got)
		}
		if p, _ := full.Peer(c.host.ID()); p.Slot != "static" || p.Source != "member" {
			t.Errorf("a member is %+v", p)
		}
	})
}

func TestShutdownSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		sub := b.bus.Subscribe()
		time.Sleep(30 * time.Second)
		a.stop()
		time.Sleep(time.Second)
		got := events[event.PeerDisconnected](sub)
		if len(got) != 1 || got[0].Goodbye != wire.GoodbyeShutdown || got[0].Text != "the node stops" || got[0].By != "them" || got[0].DurationS < 30 {
			t.Errorf("events %+v", got)
		}
	})
}

// Whoever stops tells the end of each of its connections before it is gone.
func TestStopTellsOfEachEnd(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := wired(t, newHost(t, nw, 1), 1, statusOf("x", 1))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		synctest.Wait()
		sub := a.bus.Subscribe()
		defer sub.Close()
		for i := 2; i < 5; i++ {
			b := start(t, nw, i, statusOf("x", 1))
			defer b.stop()
			dial(t, b, a)
			if err := b.Greet(t.Context(), a.host.ID()); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		gone := events[event.PeerDisconnected](sub) // before the host is closed
		if len(gone) != 3 {
			t.Errorf("%d ends were told, want 3", len(gone))
		}
		for _, e := range gone {
			if e.By != "us" || e.Reason != "the node stops" {
				t.Errorf("%+v", e)
			}
		}
		a.host.Close()
	})
}

// What the operator's own dial is for is told with the connection, and a
// trusted peer has a place of its own.
func TestSourceAndTrust(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1), func(c *Config) {
			c.Admit = places(1)
			c.Source = func(peer.ID) string { return "operator" }
		})
		defer a.stop()
		b, c, d := start(t, nw, 2, statusOf("x", 1)), start(t, nw, 3, statusOf("x", 1)), start(t, nw, 4, statusOf("x", 1))
		for _, n := range []*node{b, c, d} {
			defer n.stop()
		}
		sub := a.bus.Subscribe()
		defer sub.Close()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		if told := events[event.PeerReady](sub); len(told) != 1 || told[0].Source != "operator" || told[0].Slot != "outbound" {
			t.Errorf("told of our own dial: %+v", told)
		}
		a.host.ConnManager().Protect(d.host.ID(), "trusted")
		for _, n := range []*node{c, d} { // the second comes when all places are taken
			dial(t, n, a)
			if err := n.Greet(t.Context(), a.host.ID()); err != nil {
				t.Fatal(err)
			}
		}
		if p, _ := a.Peer(c.host.ID()); p.Source != "inbound" || p.Slot != "inbound" {
			t.Errorf("who came by himself: %+v", p)
		}
		if p, _ := a.Peer(d.host.ID()); p.Source != "inbound" || p.Slot != "static" || !p.Ready {
			t.Errorf("who is trusted: %+v", p)
		}
	})
}

func TestGoodbyeWithoutClosing(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		sub := b.bus.Subscribe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.sayGoodbye(ctx, b.host.ID(), wire.Goodbye{Code: wire.GoodbyeWrongNetwork, Text: "not ours"}); err != nil {
			t.Fatal(err)
		}
		if b.IsReady(a.host.ID()) {
			t.Error("ready after its goodbye")
		}
		time.Sleep(3 * time.Second)
		if len(b.Peers()) != 0 {
			t.Error("still connected")
		}
		taken, _ := sub.Take(100)
		var got []string
		for _, e := range taken {
			got = append(got, e.Type)
			if r, ok := e.Data.(event.PeerRefused); ok && r.Reason != "not ours" {
				t.Errorf("refused: %+v", r)
			}
		}
		if strings.Join(got, " ") != "peer.refused peer.disconnected" {
			t.Errorf("events %q", got)
		}
	})
}

func TestGreetErrors(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		if err := a.Greet(t.Context(), a.host.ID()); !errors.Is(err, ErrSelf) {
			t.Errorf("greet self: %v", err)
		}
		if err := a.Greet(t.Context(), b.host.ID()); err == nil {
			t.Error("greeted a peer that is not connected")
		}
		b.nonce = a.nonce // one key and one process under two ids
		dial(t, a, b)
		var refusal *Refusal
		if err := a.Greet(t.Context(), b.host.ID()); !errors.As(err, &refusal) || refusal.Code != wire.Self {
			t.Errorf("greet with our own nonce: %v", err)
		}
	})
}

// Two rooms that greet the same peer at once send one status between them, and
// a peer that parts late is charged with nothing.
// One room parts with a peer while another one wants to greet it, over a
// connection that lives a moment longer: that is no second status.
// Who parts twice at once closes nothing that came after the first was done.
// A second reason to part does not cut off the goodbye of the first.
