package consensus

import (
	"testing"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
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

// One vote of each validator for the block in flight waits until it is taken, and
// no vote of another view gets in its way.
func TestEarlyVoteInFlight(t *testing.T) {
	header := chain.Hash{7}
	vote := func(proposed, view uint64, size int) (*smartbftprotos.Message, ownVote) {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{
			View: proposed, Seq: 7, Signature: &smartbftprotos.Signature{Value: make([]byte, size)},
		}}}, ownVote{7, header, view}
	}
	e := &early{joined: 3, begun: 3}
	var b ballot // what we voted for ourselves
	const given, kept, dropped = "given", "kept", "dropped"
	check := func(from, proposed, view uint64, size int, want string) {
		t.Helper()
		m, v := vote(proposed, view, size)
		counted, counts := b.counted(v.seq, v.header)
		got := given
		if e.holdVote(from, m, v, counted, counts) {
			got = dropped
			for _, h := range e.held {
				if h.m == m {
					got = kept
				}
			}
		}
		if got != want {
			t.Errorf("in view %d, changing to %d: a vote of view %d for a block of view %d is %s, want %s", e.begun, e.joined, view, proposed, got, want)
		}
	}
	check(4, 3, 3, 64, given)
	check(4, 2, 2, 64, given) // old: the library's matter
	check(4, 2, 3, 64, dropped)
	check(4, 3, 2, 64, dropped)
	check(4, 3, 5, 64, kept)
	check(4, 3, 4+earlyViews, 64, dropped)
	e.at(5, 3)
	for range 2 * heldPerValidator {
		check(4, 3, 5, 64, kept)
		check(1, 4, 5, 64, kept)
	}
	check(3, 3, 3, 64, dropped) // of the view that we leave
	check(3, 3, 4, 64, dropped)
	check(3, 3, 6, 64, kept)
	check(4, 3, 5, heldVote, dropped)
	if _, ok := b.castInFlight(ownVote{7, header, 5}, 0); !ok {
		t.Fatal("no vote")
	}
	check(2, 3, 5, 64, kept) // the view for the block in flight is not there yet
	if due := e.deciding(true); len(due) != 3 || len(e.held) != 1 {
		t.Errorf("handed over: %v, held %d", due, len(e.held))
	}
	check(4, 3, 5, 64, given)
	check(4, 3, 3, 64, dropped) // it would take the place of the right one
	check(4, 3, 4, 64, dropped)
	e.deciding(false)
	check(4, 3, 5, 64, kept)
	if due := e.at(5, 5); len(due) != 0 || len(e.held) != 1 {
		t.Errorf("%d handed over to a view that has begun, %d kept", len(due), len(e.held))
	}
	e.restart(3) // and its log has the vote of view 5
	check(4, 3, 5, 64, given)
	check(4, 3, 3, 64, dropped)
	check(4, 3, 6, 64, kept)
	if e.at(7, 3); len(e.held) != 0 {
		t.Errorf("%d kept for a view that is passed over", len(e.held))
	}
}
