package reputation

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

// judge is a book with its bans, both running.
type judge struct {
	*Book
	bans  *Bans
	sub   *event.Subscription
	facts map[peer.ID]Facts
	stop  func()
}

func newJudge(t *testing.T, cfg Config, bans BansConfig) *judge {
	t.Helper()
	bus := event.NewBus(4096)
	b, err := OpenBans(t.Context(), bans, bus, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Bans, cfg.Alarms = b, event.NewAlarms(bus, slog.New(slog.DiscardHandler))
	book, err := New(cfg, bus, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	j := &judge{Book: book, bans: b, sub: bus.Subscribe(), facts: map[peer.ID]Facts{}}
	book.Facts(func(p peer.ID) Facts { return j.facts[p] })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- book.Run(ctx) }()
	go func() { done <- b.Run(ctx) }()
	j.stop = func() {
		t.Helper()
		cancel()
		if err := errors.Join(<-done, <-done, b.Close()); err != nil {
			t.Error(err)
		}
	}
	return j
}

// Points add up to a ban of a day, the next within 30 days is twice as long,
// and who comes back begins with none.
func TestPointsBan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, p := t.TempDir(), newID(t)
		bans := BansConfig{File: filepath.Join(dir, "bans.db"), Dir: dir, Self: newID(t)}
		cfg := Config{File: filepath.Join(dir, "reputation.json")}
		j := newJudge(t, cfg, bans)
		for i, want := range []time.Duration{24, 48, 96, 7 * 24, 7 * 24} {
			if j.Penalize(p, chain.Malformed, "frame") {
				t.Error("out for 25 points")
			}
			j.Penalize(p, chain.InvalidBlock, "height 812")
			if s := j.Score(p); s.Standing != Discouraged {
				t.Errorf("%d: %+v", i, s)
			}
			j.Penalize(p, chain.InvalidBlock, "height 813")
			synctest.Wait()
			s := j.Score(p)
			v, ok := j.bans.Check(Target{Peer: p})
			if !ok || s.Standing != Banned || s.Points != 100 || s.Offences != i+1 || v.Reason != "invalid_block" || v.Note != "height 813" || v.Origin != OriginAuto {
				t.Fatalf("%d: %+v %+v", i, s, v)
			}
			if got := v.Until.Sub(v.Created); got != want*time.Hour {
				t.Errorf("ban %d is for %v, want %v", i+1, got, want*time.Hour)
			}
			if i == 0 { // it stays over a restart
				j.stop()
				j = newJudge(t, cfg, bans)
				if s := j.Score(p); s.Standing != Banned || s.Points != 100 || len(s.Reasons) != 3 {
					t.Errorf("after a restart: %+v", s)
				}
			}
			time.Sleep(want*time.Hour - time.Minute)
			if !j.Refused(p) {
				t.Error("let in before its time")
			}
			time.Sleep(time.Minute + 2*time.Second)
			if s := j.Score(p); s.Points != 0 || s.Standing != Normal || j.Refused(p) {
				t.Errorf("after the ban: %+v", s)
			}
		}
		time.Sleep(31 * 24 * time.Hour)
		j.Penalize(p, chain.ForgedBlock, "")
		synctest.Wait()
		if v, _ := j.bans.Check(Target{Peer: p}); v.Offences != 1 {
			t.Errorf("after a good month: %+v", v)
		}
		j.stop()
	})
}

// An unban by hand takes the points with it.
func TestUnbanForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newID(t)
		j := newJudge(t, Config{}, BansConfig{Self: newID(t)})
		defer j.stop()
		j.Penalize(p, chain.ForgedBlock, "")
		synctest.Wait()
		if err := j.bans.Remove(t.Context(), Target{Peer: p}, "me"); err != nil {
			t.Fatal(err)
		}
		if s := j.Score(p); s.Points != 0 || j.Refused(p) || len(j.AllRefused()) != 0 {
			t.Errorf("%+v", s)
		}
		// An operator's ban of an exempt peer holds.
		j.Exempt(func(q peer.ID) bool { return q == p })
		if _, _, err := j.bans.Add(t.Context(), BanRequest{Target: p.String()}); err != nil {
			t.Fatal(err)
		}
		if !j.Refused(p) || j.Score(p).Standing != Banned || !slices.Equal(j.AllRefused(), []peer.ID{p}) {
			t.Error("the operator's ban of an exempt peer does not hold")
		}
	})
}

// Whom another node of the fleet banned is kept away for a while, and not banned.
func TestFleetWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, Config{}, BansConfig{Self: newID(t)})
		defer j.stop()
		p := newID(t)
		j.warned(p, "spam")
		j.warned(p, "spam")
		if s := j.Score(p); s.Standing != Discouraged || s.Points != 40 || !j.Refused(p) || j.bans.Count() != 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(21 * time.Minute)
		if j.Refused(p) {
			t.Error("it does not end")
		}
	})
}

// Five banned peers of one address have it banned, unless many honest ones may
// be behind it.
func TestStrikes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, Config{}, BansConfig{Self: newID(t)})
		defer j.stop()
		for _, c := range []struct {
			addr, near string
			struck     bool
		}{
			{"203.0.113.7", "203.0.113.7", true}, {"2001:db8::1", "2001:db8::ffff", true},
			{"10.0.0.1", "10.0.0.1", false}, {"127.0.0.1", "127.0.0.1", false}, {"100.64.1.1", "100.64.1.1", false}, {"fe80::1", "fe80::1", false}, {"", "203.0.113.9", false},
		} {
			for i := range 5 {
				near, _ := netip.ParseAddr(c.near)
				if j.bans.Banned("", near) {
					t.Errorf("%s is banned after %d", c.near, i)
				}
				p := newID(t)
				addr, _ := netip.ParseAddr(c.addr)
				j.facts[p] = Facts{Addr: addr}
				j.Penalize(p, chain.ForgedBlock, "")
				synctest.Wait()
				time.Sleep(time.Hour)
			}
			near := netip.MustParseAddr(c.near)
			if got := j.bans.Banned("", near); got != c.struck {
				t.Errorf("%s banned: %v, want %v", c.near, got, c.struck)
			}
			if c.addr == "203.0.113.7" {
				j.refuses(t, c.addr)
			}
		}
	})
}

// refuses wants the gate to turn away whoever is at a, and to count that.
func (j *judge) refuses(t *testing.T, a string) {
	t.Helper()
	m, err := ma.NewMultiaddr("/ip4/" + a + "/tcp/1")
	if err != nil {
		t.Fatal(err)
	}
	if g := NewGate(j.Book); g.InterceptAddrDial("p", m) || g.InterceptAccept(addrs{m}) {
		t.Error("a banned address passes the gate")
	}
	if v, _ := j.bans.Check(Target{Prefix: netip.MustParsePrefix(a + "/32")}); v.Hits != 2 {
		t.Errorf("%d hits, want 2", v.Hits)
	}
	relayed, err := ma.NewMultiaddr("/ip4/" + a + "/tcp/1/p2p/12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj/p2p-circuit")
	if err != nil {
		t.Fatal(err)
	}
	if j.bannedAddr(relayed) {
		t.Error("who comes through a relay is taken for the relay")
	}
}

// Three peers that we chose ourselves at the threshold: nobody is banned for
// ten minutes, but all are kept away. Peers that came to us change nothing.
func TestBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, Config{}, BansConfig{Self: newID(t)})
		defer j.stop()
		bad := func(outbound bool) peer.ID {
			p := newID(t)
			j.facts[p] = Facts{Outbound: outbound}
			j.Penalize(p, chain.ForgedBlock, "")
			synctest.Wait()
			return p
		}
		for range 10 {
			bad(false)
		}
		bad(true)
		bad(true)
		if j.bans.Count() != 12 || j.alarms.On("ban_brake") {
			t.Errorf("%d banned, brake %v", j.bans.Count(), j.alarms.On("ban_brake"))
		}
		third := bad(true)
		in := bad(false)
		if j.bans.Count() != 12 || !j.alarms.On("ban_brake") || !j.Refused(third) || !j.Refused(in) {
			t.Errorf("%d banned, brake %v", j.bans.Count(), j.alarms.On("ban_brake"))
		}
		time.Sleep(brakeFor + time.Second)
		time.Sleep(lookEvery)
		if j.alarms.On("ban_brake") {
			t.Error("the brake does not end")
		}
		for range 21 {
			bad(false)
		}
		if !j.alarms.On("ban_storm") {
			t.Error("21 automatic bans are no storm")
		}
		time.Sleep(stormWithin + lookEvery)
		if j.alarms.On("ban_storm") {
			t.Error("the storm does not end")
		}
		j.Penalize(third, chain.ForgedBlock, "") // again
		synctest.Wait()
		if j.bans.Count() != 34 {
			t.Errorf("%d banned after the brake", j.bans.Count())
		}
	})
}

// Points outlive a restart; a broken file is begun anew.
func TestPointsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, p := filepath.Join(t.TempDir(), "reputation.json"), newID(t)
		j := newJudge(t, Config{File: path}, BansConfig{})
		j.Penalize(p, chain.InvalidBlock, "x")
		j.stop()
		time.Sleep(5 * time.Minute)
		j = newJudge(t, Config{File: path}, BansConfig{})
		if s := j.Score(p); s.Points != 45 || s.Standing != Discouraged || len(s.Reasons) != 1 {
			t.Errorf("%+v", s)
		}
		j.stop()
		if err := os.WriteFile(path, []byte(`[{"peer":`), 0o600); err != nil {
			t.Fatal(err)
		}
		j = newJudge(t, Config{File: path}, BansConfig{})
		if s := j.Score(p); s.Points != 0 {
			t.Errorf("%+v", s)
		}
		j.stop()
	})
}

// A peer that is never banned is told of when it is closed for its points; the
// alarm ends when nothing more was seen of it.
func TestMisbehavingMemberIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, Config{}, BansConfig{Self: newID(t)})
		defer j.stop()
		member, other := newID(t), newID(t)
		j.Exempt(func(p peer.ID) bool { return p == member })
		j.Penalize(other, chain.InvalidBlock, "")
		j.Penalize(member, chain.Malformed, "")
		if j.alarms.On("member_misbehaving") {
			t.Error("told for a stranger, or for little")
		}
		j.Penalize(member, chain.Malformed, "")
		if a, on := j.alarms.Get("member_misbehaving"); !on || a.Evidence["peer"] != member || a.Evidence["points"] != 50 {
			t.Errorf("told %v: %+v", on, a)
		}
		j.alarms.Forget(time.Now().Add(time.Hour), time.Hour)
		if j.alarms.On("member_misbehaving") {
			t.Error("the alarm does not end")
		}
	})
}
