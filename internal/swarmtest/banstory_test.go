package swarmtest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// TestMisbehaviourIsBanned is the story of a ban from the wire on: a peer
// misbehaves, gets its points, is parted with and banned at 100, refused both
// ways, also after a restart, and comes back when the operator lifts the ban.
// The next time it is banned for longer.
func TestMisbehaviourIsBanned(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Alone)
		a.KeepBans = true
		a.cfg.Bans.Duration = 10 * time.Minute // the virtual time of a node is CPU
		s.Genesis("banstory", a)
		a.Start()
		for i := range 2 {
			a.Submit(fmt.Sprint("subject-", i), `{}`, parley.Committed)
		}
		v := s.newVillain()
		defer func() { v.close() }()
		if err := v.come(a); err != nil {
			t.Fatal(err)
		}
		w := &crime{villain: v, at: a, blocks: v.blocks(a)}
		sub := a.Events().Subscribe()
		defer sub.Close()
		time.Sleep(3 * time.Second)
		w.onTopic("record", []byte{0x0a, 0xff})
		spoilt := slices.Clone(w.blocks[0].Body[0].Records[0])
		spoilt[len(spoilt)-1] ^= 1
		w.onTopic("record", wire.EncodeRecords([][]byte{spoilt}))
		if d, ok := a.PeerDetail(v.id()); !ok || d.Reputation.Points != 35 || d.Reputation.Standing != "watched" || !d.Ready {
			t.Errorf("after two misdeeds: %+v", d.Reputation)
		}
		w.onTopic("block", announcement(w.next()))
		s.Until("it is banned and gone", 5*time.Second, func() bool { return !connected(a, v.id()) && len(a.Bans("", "", false)) == 1 })

		ban := a.Bans("", "", false)[0]
		if ban.Target != v.id().String() || ban.Origin != "auto" || ban.Reason != string(chain.ForgedBlock) || ban.Until == nil || ban.Until.Sub(ban.Created) != 10*time.Minute {
			t.Errorf("%+v", ban)
		}
		if !v.heard(wire.GoodbyeBanned) {
			t.Errorf("it was told %v, want %d", v.byes, wire.GoodbyeBanned)
		}
		var told []string
		for events, _ := sub.Take(1000); len(events) > 0; events, _ = sub.Take(1000) {
			for _, e := range events {
				switch e := e.Data.(type) {
				case event.PeerPenalized:
					told = append(told, fmt.Sprint(e.Reason, " ", e.Total))
				case event.PeerBanned:
					told = append(told, fmt.Sprint("banned ", e.Target == v.id().String()))
				case event.PeerDisconnected:
					told = append(told, fmt.Sprint("gone by ", e.By, ": ", e.Reason))
				}
			}
		}
		slices.Sort(told)
		if want := []string{"banned true", "forged_block 100", "gone by us: banned", "invalid_tx 35", "malformed 25"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		story := func(when string) {
			t.Helper()
			d, ok := a.PeerDetail(v.id())
			if want := []charge{{chain.Malformed, 25}, {chain.InvalidTx, 10}, {chain.ForgedBlock, 65}}; !ok || !slices.Equal(a.charges(v), want) {
				t.Errorf("%s: %v %+v, want %v", when, ok, d.Reputation.Reasons, want)
			}
			if d.Reputation.Standing != "banned" || d.Reputation.Offences != 1 {
				t.Errorf("%s: %+v", when, d.Reputation)
			}
		}
		story("banned")
		away := func(when string) {
			t.Helper()
			hits := a.Bans("", "", false)[0].Hits
			if err := v.come(a); err == nil {
				t.Errorf("%s: it is let in", when)
			}
			if now := a.Bans("", "", false)[0].Hits; now <= hits {
				t.Errorf("%s: %d refusals after %d", when, now, hits)
			}
			if _, err := a.ConnectPeer(context.Background(), v.node.listenAddr()+"/p2p/"+v.id().String()); err == nil {
				t.Errorf("%s: the node dials it", when)
			}
		}
		away("banned")
		a.Stop()
		a.Start()
		away("after a restart")
		story("after a restart")

		if err := a.Unban(context.Background(), v.id().String(), "test"); err != nil {
			t.Fatal(err)
		}
		if err := v.come(a); err != nil || !ready(a, v.id()) {
			t.Fatalf("unbanned: %v", err)
		}
		if d, ok := a.PeerDetail(v.id()); !ok || d.Reputation.Points != 0 || d.Reputation.Standing != "normal" || len(d.Reputation.Reasons) != 3 {
			t.Errorf("unbanned: %+v", d.Reputation)
		}
		time.Sleep(3 * time.Second)
		w.onTopic("block", announcement(w.next()))
		s.Until("it is banned again", 5*time.Second, func() bool { return len(a.Bans("", "", false)) == 1 })
		if ban := a.Bans("", "", false)[0]; ban.Offences != 2 || ban.Until.Sub(ban.Created) != 20*time.Minute {
			t.Errorf("the second time: %+v", ban)
		}
		time.Sleep(20*time.Minute + time.Second)
		if err := v.come(a); err != nil || !ready(a, v.id()) {
			t.Errorf("when the ban is over: %v", err)
		}
	})
}
