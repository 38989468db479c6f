package consortium

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A copy for the next epoch shares nothing with the config that it came from.
func TestNextIsACopy(t *testing.T) {
	c := sampleConfig(3)
	c.Authors = sortedKeys(2)
	before := c.Encode()
	next := c.Next()
	if next.Epoch != c.Epoch+1 {
		t.Errorf("epoch %d after %d", next.Epoch, c.Epoch)
	}
	next.Validators[0].Name, next.Validators[0].Addresses[0] = "other", "/other"
	next.Admins[0], next.Authors[0] = PublicKey{1}, PublicKey{2}
	if !slices.Equal(before, c.Encode()) {
		t.Error("the copy changed the config that it came from")
	}
}

func TestSetChanges(t *testing.T) {
	set := func(ids ...uint64) *ValidatorSet {
		var vs []Validator
		for _, id := range ids {
			vs = append(vs, Validator{ID: id, Key: PublicKey{byte(id)}})
		}
		return NewValidatorSet(vs)
	}
	added, removed := set(1, 2, 4).Changes(set(2, 5, 6))
	if d := cmp.Diff([][]uint64{{5, 6}, {1, 4}}, [][]uint64{added, removed}); d != "" {
		t.Error(d)
	}
	for n, want := range map[int]int{1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2, 10: 3, 13: 4} { // LEDGER 2
		var ids []uint64
		for i := range n {
			ids = append(ids, uint64(i)+1)
		}
		if got := set(ids...).Crashes(); got != want {
			t.Errorf("%d validators survive %d crashes, want %d", n, got, want)
		}
	}
}

// What lacks approvals is a proposal and no change; a wrong approval is neither.
func TestProposalLacksApprovals(t *testing.T) {
	c := sampleConfig(4)
	change := &ConfigChange{Config: *c.Next()}
	if err := CheckProposal(c, change, sampleGenesis(4).Hash()); err != nil {
		t.Errorf("without approvals: %v", err)
	}
	err := CheckChange(c, change, sampleGenesis(4).Hash())
	if bad, ok := errors.AsType[*RecordError](err); !ok || bad.Reason != NotAuthorised {
		t.Errorf("as a change: %v", err)
	}
	change.Approvals = []Approval{{Admin: c.Admins[0]}}
	if err := CheckProposal(c, change, sampleGenesis(4).Hash()); err == nil {
		t.Error("a wrong approval was taken")
	}
}
