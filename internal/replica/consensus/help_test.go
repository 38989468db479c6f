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

// Two that bring each other up come to an end, and a laggard is answered in
// each view.
func TestHelpEnds(t *testing.T) {
	var h help
	now := time.Now()
	answers := 0
	for range 10 * helpMost {
		now = now.Add(helpEvery)
		if h.due(2, 5, now) {
			answers++
		}
	}
	if answers != helpMost {
		t.Errorf("%d answers", answers)
	}
	if !h.due(2, 6, now) || h.due(2, 6, now) || !h.due(3, 5, now) {
		t.Error("another view, too soon, another validator")
	}
}
