package swarmtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// reload gives a running node another configuration, which changes just these
// keys.
func (n *Node) reload(keys string, edit func(*config.Config)) {
	n.swarm.T.Helper()
	edit(&n.cfg)
	r, err := n.Reload(n.swarm.T.Context(), n.cfg, false)
	if got := strings.Join(r.Changed, " "); err != nil || got != keys || len(r.NeedsRestart) > 0 {
		n.swarm.T.Errorf("%s: changed %q, waiting %q, %v; want %q", n.Name, got, r.NeedsRestart, err, keys)
	}
}

// refuses gives it one that is wrong, for a reason: nothing changes.
func (n *Node) refuses(why string, edit func(*config.Config)) {
	n.swarm.T.Helper()
	bad, before := n.cfg, n.LiveConfig()
	edit(&bad)
	r, err := n.Reload(n.swarm.T.Context(), bad, false)
	if err == nil || !strings.Contains(err.Error(), why) || len(r.Changed) > 0 {
		n.swarm.T.Errorf("%s: changed %q, %v; want an error with %q", n.Name, r.Changed, err, why)
	}
	if diff := config.Changed(before, n.LiveConfig()); len(diff) > 0 {
		n.swarm.T.Errorf("%s: %q changed although it was refused", n.Name, diff)
	}
}

// Static peers by a reload: a new one is dialled and held, a former one is parted
// with, unless there is another reason for the connection.
func TestStaticPeersByReload(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		hub := s.Add(Alone)
		s.Genesis("reload", hub)
		a, b, c, d := s.Add(Peers(hub.Addr()), Alone), s.Add(Peers(hub.Addr()), Alone), s.Add(Peers(hub.Addr()), Alone), s.Add(Alone)
		d.cfg.P2P.StaticPeers = []string{hub.Addr(), a.Addr()} // it dials a
		for _, n := range []*Node{hub, a, b, c, d} {
			n.Start()
		}
		s.Until("all are there", 30*time.Second, func() bool {
			return a.connected(hub) && b.connected(hub) && c.connected(hub) && d.connected(hub) && d.connected(a)
		})

		a.reload("p2p.static_peers", Peers(hub.Addr(), b.Addr(), c.Addr(), d.Addr()))
		s.Until("the new ones are there", 3*time.Second, func() bool { return a.connected(b) && a.connected(c) })
		if _, err := b.DisconnectPeer(t.Context(), a.ID()); err != nil {
			t.Fatal(err)
		}
		s.Until("a new one is held", 5*time.Second, func() bool { return a.connected(b) })
		if p, _ := a.Peer(b.ID()); !p.Static || p.Slot != "static" || p.Standing != "exempt" {
			t.Errorf("a new static peer is %+v", p)
		}

		a.refuses("p2p.static_peers: item 1", func(c *config.Config) {
			c.Bans.Threshold, c.P2P.TrustedPeers, c.P2P.StaticPeers = 50, []string{b.ID().String()}, []string{"12 monkeys"}
		})
		a.refuses(`p2p.trusted_peers: "nobody"`, func(c *config.Config) { c.P2P.StaticPeers, c.P2P.TrustedPeers = nil, []string{"nobody"} })

		// c becomes a trusted one, d is there by itself, hub is a member: all of them stay
		a.reload("p2p.static_peers p2p.trusted_peers", func(x *config.Config) {
			x.P2P.StaticPeers, x.P2P.TrustedPeers = nil, []string{c.ID().String()}
		})
		if a.connected(b) || !a.connected(c) || !a.connected(d) || !a.connected(hub) || len(a.StaticPeers()) != 1 {
			t.Errorf("connected with b %v, c %v, d %v, hub %v; kept %+v", a.connected(b), a.connected(c), a.connected(d), a.connected(hub), a.StaticPeers())
		}
		time.Sleep(3 * time.Minute)
		if a.connected(b) || !a.connected(c) || !a.connected(d) {
			t.Error("a former static peer is back, or another one is gone")
		}
		if p, _ := a.Peer(d.ID()); p.Static || p.Slot != "inbound" || p.Standing != "normal" {
			t.Errorf("who dialled by itself is %+v", p)
		}
		history, err := b.PeerHistory(t.Context(), a.ID(), 0, 1)
		if err != nil || len(history) != 1 || history[0].By != "them" || history[0].Reason != "no static peer any more" {
			t.Errorf("%+v, %v", history, err)
		}

		// an allow-list: who loses its standing may not stay, at once
		a.reload("p2p.allow_peers", func(c *config.Config) { c.P2P.AllowPeers = []string{d.ID().String()} })
		if !a.connected(c) || !a.connected(d) || !a.connected(hub) {
			t.Error("the list parted with trusted peers, members or with whom it names")
		}
		a.reload("p2p.trusted_peers", func(c *config.Config) { c.P2P.TrustedPeers = nil })
		if a.connected(c) || !a.connected(d) {
			t.Error("who is no trusted peer any more and not on the list is there")
		}
		a.reload("p2p.static_peers", Peers(c.ip+":1", b.Addr())) // nobody is at the first
		s.Until("a static peer passes the list", 10*time.Second, func() bool { return a.connected(b) })

		// the next start comes to the same
		a.Stop()
		a.Start()
		s.Until("the peers of the configuration", time.Minute, func() bool { return a.connected(b) && a.connected(d) && a.connected(hub) })
	})
}

// Trust by a reload: who has it is let in, has a place of its own and is never
// banned for points; who loses it is as everybody else.
func TestTrustByReload(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add(Alone)
		s.Genesis("trust", a)
		b := s.Add(Alone, Peers(a.Addr()))
		a.Start()
		b.Start()
		s.Until("the peer", 20*time.Second, func() bool { return a.connected(b) })
		points := func(n int) {
			t.Helper()
			if _, err := a.PenalizePeer(b.ID(), n, "test"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		points(50)
		if a.connected(b) {
			t.Fatal("a discouraged peer may stay")
		}
		a.reload("p2p.trusted_peers", func(c *config.Config) { c.P2P.TrustedPeers = []string{b.ID().String()} })
		if p, err := b.ConnectPeer(t.Context(), a.Addr()); err != nil || !p.Ready {
			t.Fatalf("a discouraged peer that is trusted now is refused: %v", err)
		}
		if p, _ := a.Peer(b.ID()); !p.Trusted || p.Slot != "static" || p.Direction != "inbound" || p.Standing != "exempt" {
			t.Errorf("a trusted peer is %+v", p)
		}
		sub := a.Events().Subscribe()
		defer sub.Close()
		points(100)
		if len(a.Bans("", "", false)) > 0 {
			t.Error("a trusted peer was banned")
		}
		events, _ := sub.Take(1000)
		if !slices.ContainsFunc(events, func(e event.Envelope) bool {
			v, ok := e.Data.(event.AlarmRaised)
			return ok && v.Code == "member_misbehaving"
		}) {
			t.Error("no alarm tells of a trusted peer that misbehaves")
		}
		s.Until("it is back after its pause", 15*time.Minute, func() bool { return a.connected(b) })
		a.reload("p2p.trusted_peers", func(c *config.Config) { c.P2P.TrustedPeers = nil })
		if p, _ := a.Peer(b.ID()); p.Trusted || p.Slot == "static" || p.Standing == "exempt" {
			t.Errorf("who is no trusted peer any more is %+v", p)
		}
		points(100)
		if list := a.Bans("peer", "auto", false); len(list) != 1 || list[0].Target != b.ID().String() || a.connected(b) {
			t.Errorf("who is no trusted peer any more is not banned for points: %+v", list)
		}
	})
}

// A full ban list keeps no node from its start, nor a reload from what else it
// brings: the targets without a place are told.
func TestReloadWithFullBanList(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		file := filepath.Join(t.TempDir(), "bad.txt")
		a := s.Add(Alone, func(c *config.Config) { c.Bans.MaxEntries, c.Bans.Import = 1, []string{file} })
		s.Genesis("full", a)
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("192.0.2.1\n192.0.2.2\n")
		leftOut := func() bool {
			return slices.ContainsFunc(a.Findings(), func(f event.FindingChanged) bool { return f.Title == "bans_left_out" })
		}
		a.Start()
		s.Until("what is left out is told", 10*time.Second, leftOut)
		a.reload("bans.threshold", func(c *config.Config) { c.Bans.Threshold = 40 })
		if !leftOut() || len(a.Bans("", "", false)) != 1 {
			t.Errorf("left out %v, banned %+v", leftOut(), a.Bans("", "", false))
		}
		if err := a.Unban(t.Context(), "192.0.2.1", "test"); err != nil {
			t.Fatal(err)
		}
		write("192.0.2.2\n")
		a.reload("bans.import", func(*config.Config) {})
		s.Until("it is over", 10*time.Second, func() bool { return !leftOut() })
	})
}

// What leads to a ban, how long it holds, and the files of bans.
func TestBansByReload(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add(Alone)
		s.Genesis("bans", a)
		b, c := s.Add(Alone, Peers(a.Addr())), s.Add(Alone, Peers(a.Addr()))
		for _, n := range []*Node{a, b, c} {
			n.Start()
		}
		s.Until("the peers", 20*time.Second, func() bool { return a.connected(b) && a.connected(c) })
		if _, err := a.PenalizePeer(b.ID(), 39, "before"); err != nil {
			t.Fatal(err)
		}
		a.reload("bans.duration bans.threshold", func(c *config.Config) { c.Bans.Threshold, c.Bans.Duration = 40, 2*time.Hour })
		time.Sleep(time.Second)
		if len(a.Bans("", "", false)) > 0 {
			t.Error("banned for what was below the threshold")
		}
		if _, err := a.PenalizePeer(b.ID(), 2, "after"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if list := a.Bans("peer", "auto", false); len(list) != 1 || list[0].Until.Sub(list[0].Created) != 2*time.Hour || a.connected(b) {
			t.Errorf("with 41 of 40 points: %+v", list)
		}
		a.refuses("bans.threshold: 1 is not from 10", func(c *config.Config) { c.Bans.Threshold, c.Bans.Duration = 1, time.Hour })

		file := filepath.Join(a.cfg.DataDir, "bad.txt")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a.refuses("bans.import: open ", func(c *config.Config) { c.Bans.Import, c.Bans.Duration = []string{"none.txt"}, time.Hour })
		write("192.0.2.1\n" + strings.Repeat("x", 1<<20))
		a.refuses("bans.import: bad.txt: ", func(c *config.Config) { c.Bans.Import, c.Bans.Duration = []string{"bad.txt"}, time.Hour })
		if list := a.Bans("", "import", false); len(list) > 0 {
			t.Errorf("a file that was refused banned %+v", list)
		}
		write("192.0.2.1\nnonsense\n")
		a.reload("bans.import", func(c *config.Config) { c.Bans.Import = []string{"bad.txt"} })
		a.reload("", func(*config.Config) {})
		if list := a.Bans("", "import", false); len(list) != 1 || list[0].Until.Sub(list[0].Created) != 2*time.Hour || !a.connected(c) {
			t.Errorf("by the file: %+v", list)
		}
		write("192.0.2.1\n" + c.ID().String() + "\n")
		a.reload("bans.import", func(*config.Config) {}) // the same file, with another line
		s.Until("who is in the file is gone", 5*time.Second, func() bool { return !a.connected(c) && !c.connected(a) })

		// a peer that the same reload makes a static one is protected
		if err := a.Unban(t.Context(), c.ID().String(), "test"); err != nil {
			t.Fatal(err)
		}
		a.reload("p2p.trusted_peers", func(x *config.Config) { x.P2P.TrustedPeers = []string{c.ID().String()} })
		if b, err := a.BanOf(c.ID().String()); err != nil || b != nil {
			t.Errorf("a trusted peer is banned by a file: %+v, %v", b, err)
		}
	})
}

// What is advertised changes at once, for who is connected.
func TestAdvertiseByReload(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add(Alone)
		s.Genesis("advertise", a)
		b := s.Add(Alone, Peers(a.Addr()))
		a.Start()
		b.Start()
		s.Until("the peer", 20*time.Second, func() bool { return b.connected(a) })
		knows := func(addr string) bool {
			d, _ := b.PeerDetail(a.ID())
			return slices.Contains(d.Addresses, addr)
		}
		p, _ := b.Peer(a.ID())
		for _, entry := range []string{"8.8.8.8", "8.8.4.4:7000"} {
			a.reload("p2p.advertise", func(c *config.Config) { c.P2P.Advertise = []string{entry} })
			want := map[string]string{"8.8.8.8": "/ip4/8.8.8.8/udp/9906/quic-v1", "8.8.4.4:7000": "/ip4/8.8.4.4/udp/7000/quic-v1"}[entry]
			s.Until("it knows "+want, time.Second, func() bool { return knows(want) })
			if told := a.Info().Advertised; !slices.Contains(told, want+"/p2p/"+a.ID().String()) {
				t.Errorf("the node tells of %q", told)
			}
		}
		a.refuses("the peer id is not this node's", func(c *config.Config) {
			c.P2P.Advertise = []string{"/ip4/8.8.8.8/tcp/1/p2p/" + b.ID().String()}
		})
		a.reload("p2p.advertise", func(c *config.Config) { c.P2P.Advertise = []string{"0.0.0.0"} }) // which nobody can dial
		s.Until("nothing is advertised", time.Second, func() bool {
			return len(a.Info().Advertised) == 1 && !knows("/ip4/8.8.4.4/udp/7000/quic-v1")
		})
		if now, _ := b.Peer(a.ID()); !now.ConnectedAt.Equal(p.ConnectedAt) {
			t.Error("the connection is another one")
		}
	})
}
