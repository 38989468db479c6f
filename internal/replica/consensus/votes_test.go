package consensus

import (
	"testing"

	"github.com/parley-p2p/parley/chain"
)

// A second vote is told once, however often it is sent, and no forged vote, nor
// a flood of them, keeps more than the last votes or costs more than a few
// checks.
func TestVoteWatch(t *testing.T) {
	const forged = 0xff
	checks := 0
	genuine := func(v votePlace) bool { checks++; return v.header[1] != forged }
	vote := func(seq uint64, header ...byte) votePlace {
		v := votePlace{view: 1, seq: seq}
		copy(v.header[:], header)
		return v
	}
	var w voteWatch
	w.note(7, vote(5, 1), 0, genuine)
	told := 0
	for range 1000 {
		if other, twice := w.note(7, vote(5, 2), 0, genuine); twice {
			told++
			if other.header != (chain.Hash{1}) {
				t.Errorf("the other vote is for %s", other.header)
			}
		}
	}
	if told != 1 || checks != 2 {
		t.Errorf("told %d times, %d checks", told, checks)
	}
	w.note(8, vote(5, 1, forged), 0, genuine)
	w.note(8, vote(6, 1), 0, genuine) // its next height does not hide this one
	w.note(8, vote(5, 1), 0, genuine)
	if _, twice := w.note(8, vote(5, 2), 0, genuine); !twice {
		t.Error("a forged vote hides a double vote")
	}
	checks = 0
	w.note(9, vote(5, 1), 0, genuine)
	for i := range 1000 {
		if _, twice := w.note(9, vote(5, byte(i), forged), 0, genuine); twice {
			t.Fatal("named for a forged vote")
		}
	}
	if checks > votesTried+1 {
		t.Errorf("%d checks of forged votes", checks)
	}
	w.note(6, vote(5, 1), 0, genuine)
	w.leaves(6, 2, 4) // asks for another view, tells its old vote again, and votes for the block in flight
	w.note(6, vote(5, 1), 0, genuine)
	if _, twice := w.note(6, vote(5, 2), 0, genuine); twice {
		t.Error("named for a vote in a view that it had left")
	}
	w.note(5, vote(5, 1), 0, genuine)
	if _, twice := w.note(5, vote(5, 2), 2, genuine); twice { // that it asked was lost
		t.Error("named for a vote in a view that this node has left")
	}
	later := func(v votePlace) votePlace { v.view = 2; return v }
	w.note(6, later(vote(5, 1)), 2, genuine)
	if _, twice := w.note(6, later(vote(5, 2)), 2, genuine); !twice {
		t.Error("not named for two votes in the view that it asked for")
	}
	w.leaves(4, 1<<60, 4) // and stays
	w.note(4, vote(4+votesLeft, 1), 1, genuine)
	if _, twice := w.note(4, vote(4+votesLeft, 2), 1, genuine); twice {
		t.Error("named for a vote in a view that it asked to leave lately")
	}
	w.note(4, vote(5+votesLeft, 1), 1, genuine)
	if _, twice := w.note(4, vote(5+votesLeft, 2), 1, genuine); !twice {
		t.Error("one question for a view is an excuse for ever")
	}
	w.leaves(4, 2, 4+votesLeft)
	if w.left[4].next != 2 {
		t.Error("a question that is over counts with the next one")
	}
}
