package reputation

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// Points by hand lead where all points lead, and bad numbers do no harm.
func TestPenalizeByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJudge(t, Config{}, BansConfig{})
		j.PenalizeByHand("a", 20, "slow")
		j.PenalizeByHand("b", -5, "")
		j.PenalizeByHand("c", 1_000_000, "liar")
		time.Sleep(time.Second)
		synctest.Wait()
		for p, want := range map[peer.ID]int{"a": 20, "b": 1} {
			s := j.Score(p)
			if s.Points != want || len(s.Reasons) != 1 || s.Reasons[0].Reason != chain.Manual {
				t.Errorf("%s: %+v, want %d points", p, s, want)
			}
		}
		if !j.Refused("c") || j.Refused("a") {
			t.Error("who got the most is not refused, or who got few is")
		}
		j.stop()
	})
}
