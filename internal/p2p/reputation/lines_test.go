package reputation

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// Another threshold, and another duration, are for what happens after it.
func TestThresholdAndDurationChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j := newJudge(t, Config{Threshold: 1000}, BansConfig{Dir: dir, Self: newID(t)})
		defer j.stop()
		charge := func(p peer.ID, n int) Standing {
			j.PenalizeByHand(p, n, "")
			synctest.Wait()
			return j.Score(p).Standing
		}
		many, some, other := newID(t), newID(t), newID(t)
		for range 9 {
			charge(many, 100)
		}
		if s := charge(some, 60); s != Normal {
			t.Errorf("60 of 1000 points: %s", s)
		}
		j.SetThreshold(50)
		j.bans.SetDuration(2 * time.Hour)
		for _, p := range []peer.ID{many, some} {
			if s := j.Score(p); s.Standing == Banned || s.Points > 100 {
				t.Errorf("banned for what was before: %+v", s)
			}
			if s := charge(p, 1); s != Banned {
				t.Errorf("one more point of %+v", j.Score(p))
			}
			if v, ok := j.bans.Check(Target{Peer: p}); !ok || v.Until.Sub(v.Created) != 2*time.Hour {
				t.Errorf("the ban is %+v", v)
			}
		}
		if s := charge(other, 20); s != Discouraged {
			t.Errorf("20 of 50 points: %s", s)
		}
		j.SetThreshold(200)
		if s := charge(other, 60); s != Discouraged { // at 0.4 again
			t.Errorf("80 of 200 points: %s", s)
		}
		if s := charge(other, 100); s == Banned {
			t.Error("banned at 180 of 200 points")
		}
		j.bans.SetDuration(time.Minute)
		if b, _, err := j.bans.Add(t.Context(), BanRequest{Target: "192.0.2.1"}); err != nil || b.Until.Sub(b.Created) != time.Minute {
			t.Errorf("a ban without an end: %+v %v", b, err)
		}
		if v, _ := j.bans.Check(Target{Peer: many}); v.Until.Sub(v.Created) != 2*time.Hour {
			t.Errorf("an older ban ends at another time: %+v", v)
		}
		if n := j.Penalize(other, chain.Timeout, ""); !n {
			t.Error("a discouraged peer may stay")
		}
	})
}
