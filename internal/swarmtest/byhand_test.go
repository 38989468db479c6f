package swarmtest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// connected reports whether n has x as a ready peer.
func (n *Node) connected(x *Node) bool {
	p, ok := n.Peer(x.ID())
	return ok && p.Ready
}

// Peers by hand: static peers are added and removed, trusted and disconnected
// while the node runs, and a restart changes nothing of it but what it has to.
func TestPeersByHand(t *testing.T) {
	Run(t, func(s *Swarm) {
		hub := s.Add(Alone)
		hub.Start()
		hub.Submit("x", `{}`, parley.Committed)
		a, b, c := s.Add(Peers(hub.Addr()), Alone), s.Add(Peers(hub.Addr()), Alone), s.Add(Alone)
		c.cfg.P2P.StaticPeers = []string{hub.Addr(), b.Addr()}
		for _, n := range []*Node{a, b, c} {
			n.Start()
		}
		s.Agree(60*time.Second, s.nodes...)
		s.Until("the configuration's peers", 10*time.Second, func() bool { return a.connected(hub) && b.connected(hub) && c.connected(hub) && c.connected(b) })
		ctx := s.T.Context()

		// once: an operator's connection is told as such and does not come back
		sub := a.Events().Subscribe()
		defer sub.Close()
		p, err := a.ConnectPeer(ctx, b.Addr())
		if err != nil || p.ID != b.ID() || !p.Ready || p.Source != "operator" || p.Static {
			t.Fatalf("connect: %+v, %v", p, err)
		}
		events, _ := sub.Take(1000)
		if !slices.ContainsFunc(events, func(e event.Envelope) bool {
			c, ok := e.Data.(event.PeerConnected)
			return ok && c.Peer == b.ID() && c.Source == "operator"
		}) {
			t.Errorf("the stream does not tell that it was by hand: %+v", events)
		}
		if _, err := a.DisconnectPeer(ctx, b.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		if a.connected(b) {
			t.Error("a connection by hand came back")
		}

		// for ever: it outlives drops, and a restart of either side
		added, err := a.AddPeer(ctx, b.Addr(), false)
		if err != nil || added.ID != b.ID() || added.State != "connected" {
			t.Fatalf("add: %+v, %v", added, err)
		}
		if _, err := a.DisconnectPeer(ctx, b.ID()); err != nil {
			t.Fatal(err)
		}
		s.Until("the static peer is back after a disconnect", 5*time.Second, func() bool { return a.connected(b) })
		if _, err := a.TrustPeer(c.ID()); err != nil {
			t.Fatal(err)
		}
		a.Stop()
		a.Start()
		s.Until("the added peer is back after a restart", 10*time.Second, func() bool { return a.connected(b) })
		if st := a.StaticPeers(); !slices.ContainsFunc(st, func(p parley.StaticPeer) bool { return p.Item == b.Addr() && p.Origin == "api" }) {
			t.Errorf("after a restart: %+v", st)
		}

		// trusted: over the restart as well, in a place of its own though it came by itself
		if p, err := c.ConnectPeer(ctx, a.Addr()); err != nil || !p.Ready {
			t.Fatalf("connect: %v", err)
		}
		if p, _ := a.Peer(c.ID()); !p.Trusted || p.Standing != "exempt" || p.Slot != "static" || p.Direction != "inbound" {
			t.Errorf("a trusted peer is %+v", p)
		}
		if p, err := a.UntrustPeer(c.ID()); err != nil || p.Trusted || p.Standing != "normal" || p.Slot != "inbound" {
			t.Errorf("one that is trusted no more is %+v, %v", p, err)
		}

		// removed: gone at once, and for good where it was added by hand
		if r, err := a.RemovePeer(ctx, b.ID().String()); err != nil || r.Note != "" || len(r.Items) != 1 {
			t.Fatalf("remove: %+v, %v", r, err)
		}
		if r, err := c.RemovePeer(ctx, b.Addr()); err != nil || !strings.Contains(r.Note, "until the next start") {
			t.Fatalf("remove one of the configuration: %+v, %v", r, err)
		}
		time.Sleep(3 * time.Minute)
		if a.connected(b) || c.connected(b) {
			t.Error("a removed peer is connected")
		}
		a.Stop()
		c.Stop()
		a.Start()
		c.Start()
		s.Until("the configuration's peer is back after a restart", 10*time.Second, func() bool { return c.connected(b) && a.connected(hub) })
		time.Sleep(time.Minute)
		if a.connected(b) {
			t.Error("what was added and removed is back after a restart")
		}

		// all of it is remembered, with the reason
		history, err := b.PeerHistory(ctx, a.ID(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		var ends []string
		for _, h := range history {
			if h.Event == "disconnected" && !strings.HasPrefix(h.Reason, "only looked") { // not by hand: a feeler
				ends = append(ends, h.By+" "+h.Reason)
			}
		}
		want := []string{"them the operator disconnected", "them the node stops", "them the operator disconnected", "them the operator disconnected"}
		if !slices.Equal(ends, want) {
			t.Errorf("ends of connections with node2: %q, want %q", ends, want)
		}
		refused, err := a.PeerHistory(ctx, "", 0, 100)
		if err != nil || slices.ContainsFunc(refused, func(h parley.HistoryEntry) bool { return h.Event == "" || h.At.IsZero() || h.Addr == "" }) {
			t.Errorf("history: %+v, %v", refused, err)
		}
	})
}

// Trust that is taken back from a peer of the configuration is back with the next
// start, and the answer says so.
func TestTrustedByConfiguration(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add()
		a.Start()
		id := a.ID().String()
		b := s.Add(Peers(a.Addr()), func(c *config.Config) { c.P2P.TrustedPeers = []string{id} })
		b.Start()
		s.Until("the peer", 30*time.Second, func() bool { return b.connected(a) })
		if p, _ := b.Peer(a.ID()); !p.Trusted {
			t.Errorf("%+v", p)
		}
		if n, err := b.UntrustPeer(a.ID()); err != nil || !strings.Contains(n.Note, "from the next start on") {
			t.Errorf("untrust: %q, %v", n.Note, err)
		}
		b.Stop()
		b.Start()
		if d, ok := b.PeerDetail(a.ID()); !ok || !d.Trusted {
			t.Errorf("after a restart: %+v", d)
		}
	})
}
