package consensus

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// All lose their power, with a block in flight that some voted for in a later view
// than that of the tip, in which all begin again. The views between bring the same
// block, and they may not vote for it there: they have to get on to a view in which
// they may, and must not begin anew in the first one for ever.
func TestVotesOfALaterView(t *testing.T) {
	for _, tt := range []struct {
		n     int
		votes []int  // validators that voted in view
		view  uint64 // the others voted in view 0
	}{
		{4, []int{3}, 2},
		{4, []int{2, 3}, 2},
		{4, []int{3, 4}, 12},
		{4, []int{2, 3, 4}, 30},
		{7, []int{3, 4, 5}, 12},
	} {
		t.Run(fmt.Sprint(tt.n, tt.votes, tt.view), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tn := newTestNet(t, tt.n, inVirtualTime, links(rand.New(rand.NewPCG(3, 8))))
				for _, n := range tn.nodes {
					n.ahead = tn.aheadOf(n)
					n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
				}
				losses := tn.losses()
				tn.start()
				tn.await(tn.submit(5))
				ids := tn.blockInFlight(losses, tn.nodes[0])
				for _, v := range tt.votes {
					tn.nodes[v-1].votesIn(t, tt.view)
				}
				quorum := tn.genesis.Config.Set().Quorum()
				up := tn.nodes[1 : 1+quorum] // each of them is needed
				for _, n := range tn.running() {
					n.kill()
				}
				for _, n := range up {
					n.start()
				}
				began := time.Now()
				ids = append(ids, tn.submit(5)...)
				tn.await(ids)
				t.Log(time.Since(began), "view", up[0].engine.live.Load().view.Load())
				tn.stop()
			})
		})
	}
}

// votesIn makes the log of a validator that voted for a block in flight, as it is
// where it votes for it again in a later view.
func (n *testNode) votesIn(t *testing.T, view uint64) {
	s := n.engine.live.Load()
	_, v := s.ballot.stands()
	for _, raw := range n.memory.content() {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		p := m.GetProposedRecord().GetPrePrepare()
		if p == nil || p.Seq != v.seq {
			continue
		}
		h, err := consortium.DecodeHeader(p.Proposal.Header)
		if err != nil || h.Hash() != v.header {
			t.Fatal("the log has another proposal", err)
		}
		change := &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: view - 1}}}
		if err := s.wal.Append(marshal(t, change), false); err != nil {
			t.Fatal(err)
		}
		v.view = view
		if err := s.keepVote(types.Proposal{Header: p.Proposal.Header, Payload: p.Proposal.Payload, Metadata: p.Proposal.Metadata, VerificationSequence: int64(p.Proposal.VerificationSequence)}, v, p.View); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the log has no proposal")
}
