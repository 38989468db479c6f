package consensus

import (
	"testing"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// A vote for the same block in a later view is another vote: it binds after a
// power cut too.
func TestVoteInFlightOfTheSameBlock(t *testing.T) {
	h := &consortium.Header{Height: 5}
	two := (&consortium.Header{Height: 5, Time: 1}).Hash()
	b, err := recall(chain.Hash{}, logOf(t, h, 3, nil, []uint64{3})) // voted in view 3, left it for view 4
	if err != nil {
		t.Fatal(err)
	}
	if write, ok := b.castInFlight(ownVote{5, h.Hash(), 4}, 0); !write || !ok {
		t.Errorf("the vote again, in view 4: written %v, given %v", write, ok)
	}
	if b.cast(ownVote{5, two, 4}) {
		t.Error("a vote for another block in view 4")
	}
	if write, ok := b.castInFlight(ownVote{5, h.Hash(), 4}, 0); write || !ok {
		t.Errorf("the same vote told again: written %v, given %v", write, ok)
	}
}
