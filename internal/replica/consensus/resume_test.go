package consensus

import (
	"testing"
	"testing/synctest"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
)

// One validator stored block s and went away. Two others had voted for s, were
// in a view change, and crashed. They and the fourth make a quorum: they must
// find s again, and no other block at its height.
func TestVoteSurvivesCrashInViewChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		tn.await(tn.submit(1))
		for _, n := range tn.nodes {
			n.stop()
		}
		first := tn.nodes[0]
		last := first.ledger.Tip().Head.Height
		if last < 2 {
			t.Fatalf("height %d", last)
		}
		change, err := proto.Marshal(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{}}})
		if err != nil {
			t.Fatal(err)
		}
		for i, old := range tn.nodes[1:] {
			n := tn.newNode(old.key) // as old before the block was stored
			for h := uint64(1); h < last; h++ {
				b, err := first.ledger.Block(h)
				if err != nil {
					t.Fatal(err)
				}
				if err := n.ledger.Append(b, "sync", first.id); err != nil {
					t.Fatal(err)
				}
			}
			if entries := old.memory.content(); i < 2 {
				if len(entries) != 2 {
					t.Fatalf("log of %d entries, want proposal and commit", len(entries))
				}
				n.memory.entries = append(entries, change)
			}
			if err := old.ledger.Close(); err != nil {
				t.Fatal(err)
			}
			tn.nodes[i+1] = n
		}
		for _, n := range tn.nodes[1:] {
			n.start()
		}
		tn.await(append([]chain.Hash{}, tn.submit(5)...))
		tn.compare()
		first.start()
		tn.await(tn.submit(5))
		tn.stop()
	})
}
