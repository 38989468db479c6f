package consensus

import (
	"testing"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// What is said of a view waits until we are there, also where we are several
// views behind: nobody says it again.
func TestEarly(t *testing.T) {
	ids := []uint64{1, 2, 3, 4, 5}
	data := func(next uint64) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{
			RawViewData: marshal(t, &smartbftprotos.ViewData{NextView: next}),
		}}}
	}
	e := &early{joined: 3, begun: 3}
	const self = 2 // leads views 1, 6, 11
	for _, tt := range []struct {
		next uint64
		want bool
	}{{3, false}, {5, false}, {6, true}, {11, true}, {6 + 5*earlyViews, false}} {
		if got := e.hold(4, data(tt.next), self, ids); got != tt.want {
			t.Errorf("view data for view %d held: %v", tt.next, got)
		}
	}
	e.hold(5, data(6), self, ids)
	if due := e.at(5, 3); len(due) != 0 {
		t.Errorf("%d handed over in view 5", len(due))
	}
	due := e.at(6, 3)
	if len(due) != 1 || due[0].from != 5 { // 4 has gone on to 11
		t.Errorf("handed over in view 6: %v", due)
	}
	if due := e.at(11, 3); len(due) != 1 || due[0].from != 4 {
		t.Errorf("handed over in view 11: %v", due)
	}
	if due := e.at(11, 11); len(due) != 0 || len(e.held) != 0 {
		t.Errorf("%d twice, %d left", len(due), len(e.held))
	}
}

// One vote of each validator for the block in flight waits until it is taken.
func TestEarlyVoteInFlight(t *testing.T) {
	ids := []uint64{1, 2, 3, 4}
	vote := func(view uint64, size int) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{
			View: view, Seq: 7, Signature: &smartbftprotos.Signature{Value: make([]byte, size)},
		}}}
	}
	e := &early{joined: 3, begun: 3}
	if e.hold(4, vote(2, 64), 2, ids) || e.hold(4, vote(3, 64), 2, ids) {
		t.Error("held while no view changes")
	}
	e.at(5, 3)
	for range 2 * heldPerValidator {
		if !e.hold(4, vote(3, 64), 2, ids) || !e.hold(1, vote(4, 64), 2, ids) {
			t.Fatal("not held while the view changes")
		}
	}
	if e.hold(4, vote(3, heldVote), 2, ids) {
		t.Error("a vote of any size is held")
	}
	if due := e.deciding(true); len(due) != 2 || len(e.held) != 0 {
		t.Errorf("handed over: %v", due)
	}
	if e.hold(4, vote(3, 64), 2, ids) {
		t.Error("held although it would be taken")
	}
	e.deciding(false)
	e.hold(4, vote(3, 64), 2, ids)
	if due := e.at(5, 5); len(due) != 0 || len(e.held) != 0 {
		t.Errorf("%d handed over to a view that has begun, %d kept", len(due), len(e.held))
	}
}
