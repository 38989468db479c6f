package swarmtest

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
)

// A ban is a ban: the peer is disconnected, refused both ways, refused still
// after a restart, and returns once it is unbanned.
func TestBan(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Alone)
		a.KeepBans = true
		s.Genesis("bans", a)
		b := s.Add(Alone, Peers(a.Addr()))
		c := s.Add(Alone, Peers(a.Addr()))
		for _, n := range []*Node{a, b, c} {
			n.Start()
		}
		s.Until("all are connected", 20*time.Second, func() bool { return ready(a, b.ID()) && ready(a, c.ID()) })

		bad := b.ID()
		ban, closes, err := a.Ban(context.Background(), parley.BanRequest{Target: bad.String(), Forever: true, Actor: "test"}, false)
		if err != nil || ban.Kind != "peer" || len(closes) != 1 || closes[0] != bad {
			t.Fatalf("%+v %v %v", ban, closes, err)
		}
		s.Until("the banned one is gone", 5*time.Second, func() bool { return !connected(a, bad) && !connected(b, a.ID()) })
		away := func(what string) {
			t.Helper()
			for range 180 {
				time.Sleep(time.Second)
				if ready(a, bad) {
					t.Fatalf("%s: the banned one is back", what)
				}
			}
			if !ready(a, c.ID()) {
				t.Errorf("%s: another one is gone", what)
			}
		}
		away("banned")
		if _, err := b.ConnectPeer(context.Background(), a.Addr()); err == nil {
			t.Error("the banned one came in")
		}
		if hits := a.Bans("", "", false)[0].Hits; hits == 0 {
			t.Error("no refusal was counted")
		}
		if _, err := a.ConnectPeer(context.Background(), b.Addr()); err == nil {
			t.Error("we dialled whom we banned")
		}
		a.Stop()
		a.Start()
		s.Until("the other one is back", time.Minute, func() bool { return ready(a, c.ID()) })
		away("after a restart")
		if err := a.Unban(context.Background(), bad.String(), "test"); err != nil {
			t.Fatal(err)
		}
		s.Until("the unbanned one is back", 15*time.Minute, func() bool { return ready(a, bad) })

		// An address: whoever is there goes.
		if _, closes, err = a.Ban(context.Background(), parley.BanRequest{Target: c.ip + "/32", For: time.Hour, Force: true}, false); err != nil || len(closes) != 1 {
			t.Fatalf("%v %v", closes, err)
		}
		s.Until("who is at a banned address is gone", 5*time.Second, func() bool { return !connected(a, c.ID()) })
		time.Sleep(10 * time.Second) // its connection lingers
		hits := a.Bans("", "", false)[0].Hits
		if _, err := c.ConnectPeer(context.Background(), a.Addr()); err == nil {
			t.Error("who is at a banned address came in")
		}
		if now := a.Bans("", "", false)[0].Hits; now <= hits {
			t.Errorf("%d refusals after %d", now, hits)
		}
		time.Sleep(time.Hour)
		s.Until("and back when the ban is over", 15*time.Minute, func() bool { return ready(a, c.ID()) })
	})
}

func ready(n *Node, p peer.ID) bool {
	v, ok := n.Peer(p)
	return ok && v.Ready
}

func connected(n *Node, p peer.ID) bool {
	_, ok := n.Peer(p)
	return ok
}
