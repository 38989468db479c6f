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
		v := votePlace{ownVote: ownVote{seq: seq, view: 1}}
		copy(v.header[:], header)
		return v
	}
	var w voteWatch
	w.note(7, vote(5, 1), genuine)
	told := 0
	for range 1000 {
		if other, twice := w.note(7, vote(5, 2), genuine); twice {
			told++
			if other.header != (chain.Hash{1}) {
				t.Errorf("the other vote is for %s", other.header)
			}
		}
	}
	if told != 1 || checks != 2 {
		t.Errorf("told %d times, %d checks", told, checks)
	}
	w.note(8, vote(5, 1, forged), genuine)
	w.note(8, vote(6, 1), genuine) // its next height does not hide this one
	w.note(8, vote(5, 1), genuine)
	if _, twice := w.note(8, vote(5, 2), genuine); !twice {
		t.Error("a forged vote hides a double vote")
	}
	checks = 0
	w.note(9, vote(5, 1), genuine)
	for i := range 1000 {
		if _, twice := w.note(9, vote(5, byte(i), forged), genuine); twice {
			t.Fatal("named for a forged vote")
		}
	}
	if checks > votesTried+1 {
		t.Errorf("%d checks of forged votes", checks)
	}
	later := func(v votePlace) votePlace { v.view = 2; return v }
	w.note(6, vote(5, 1), genuine)
	if _, twice := w.note(6, later(vote(5, 2)), genuine); twice {
		t.Error("named for votes in two views, as who leaves a view may give them")
	}
	if _, twice := w.note(6, vote(5, 3), genuine); twice {
		t.Error("named for a vote of a view before the one that is kept")
	}
	if _, twice := w.note(6, later(vote(5, 1)), genuine); !twice {
		t.Error("not named for two votes in a later view")
	}
}
