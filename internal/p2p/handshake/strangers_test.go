package handshake

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/chain"
)

// A peer of another network may come five times an hour; each time more costs
// it ten points, until it is kept away. Whom we dial ourselves pays nothing.
func TestStrangersMayComeFiveTimes(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("apples", 1)), start(t, nw, 2, statusOf("bananas", 1))
		defer a.stop()
		defer b.stop()
		points := func(at, of *node) int { return at.rep.Score(of.host.ID()).Points }
		come := func(from, to *node) {
			t.Helper()
			dial(t, from, to)
			if err := from.Greet(t.Context(), to.host.ID()); err == nil {
				t.Fatal("two chains agree")
			}
			time.Sleep(5 * time.Second)
		}
		for range 5 {
			come(b, a)
			time.Sleep(10 * time.Minute)
		}
		if n := points(a, b); n != 0 {
			t.Errorf("%d points for five times", n)
		}
		time.Sleep(10 * time.Minute) // the first is an hour ago
		come(b, a)
		if n := points(a, b); n != 0 {
			t.Errorf("%d points for five times within an hour", n)
		}
		time.Sleep(time.Hour)
		for i := range 9 {
			if come(b, a); points(a, b) != 10*max(0, i+1-5) {
				t.Errorf("%d points after %d times", points(a, b), i+1)
			}
		}
		if r := a.rep.Score(b.host.ID()).Reasons; len(r) != 4 || r[0].Reason != chain.Spam {
			t.Errorf("reasons %+v", r)
		}
		if !a.rep.Refused(b.host.ID()) {
			t.Error("it may come on")
		}
		c, d := start(t, nw, 3, statusOf("cherries", 1)), start(t, nw, 4, statusOf("dates", 1))
		defer c.stop()
		defer d.stop()
		for range 9 { // d greets who dials it
			dial(t, c, d)
			if err := d.Greet(t.Context(), c.host.ID()); err == nil {
				t.Fatal("two chains agree")
			}
			time.Sleep(5 * time.Second)
		}
		if points(b, a) != 0 || points(c, d) != 0 {
			t.Errorf("%d and %d points for who was dialled", points(b, a), points(c, d))
		}
	})
}

func TestStrangersAreBounded(t *testing.T) {
	s, now := strangers{}, time.Now()
	for range strangerTimes {
		s.often("often", now)
	}
	for range 100 {
		if !s.often("often", now) {
			t.Fatal("not too often")
		}
	}
	if n := len(s["often"]); n != strangerTimes {
		t.Errorf("%d times of one peer are kept", n)
	}
	for i := range 3 * maxStrangers {
		s.often(peer.ID(fmt.Sprint(i)), now)
	}
	if len(s) > 4096 {
		t.Errorf("%d peers are counted", len(s))
	}
	later := now.Add(strangerSpan)
	if s.often("late", later); len(s) != 1 {
		t.Errorf("%d peers are counted an hour later", len(s))
	}
}
