package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// Validators that start again in the middle of view changes to three different
// views meet in one.
func TestSpreadOverViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		for i, last := range []uint64{2, 1} {
			tn.nodes[i].memory.entries = [][]byte{marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{
				ViewChange: &smartbftprotos.ViewChange{NextView: last},
			}})}
			if err := tn.nodes[i].ledger.SetMark([]byte("memory")); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
		}
		tn.start()
		began := time.Now()
		tn.await(tn.submit(5))
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("it took %v", d)
		} else {
			t.Log(d)
		}
		tn.stop()
	})
}

// Two that answer each other's votes, for as many views as there are, come to an
// end at once; who is still behind later is helped again.
func TestHelpEnds(t *testing.T) {
	sides, now := [2]help{}, time.Now()
	votes := []int{0, 0, 1} // under way, by the side that gets them, one for each view
	answers := 0
	for len(votes) > 0 && answers < 1000 {
		to := votes[0]
		votes = votes[1:]
		if sides[to].due(2, now) {
			answers++
			votes = append(votes, 1-to)
		}
	}
	if answers != 2*helpMost {
		t.Errorf("%d answers, want %d of each side", answers, helpMost)
	}
	if sides[0].due(2, now.Add(helpSpan/2)) || !sides[0].due(3, now) {
		t.Error("too soon, another validator")
	}
	if !sides[0].due(2, now.Add(helpSpan)) {
		t.Error("it is not helped again")
	}
}
