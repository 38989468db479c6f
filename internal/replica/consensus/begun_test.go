package consensus

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// What the library gets of a log says of no view that it has begun where it did not.
func TestOnlyBegun(t *testing.T) {
	change := func(view uint64) *smartbftprotos.SavedMessage {
		return &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: view}}}
	}
	begun := func(view uint64) *smartbftprotos.SavedMessage {
		return &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_NewView{NewView: &smartbftprotos.ViewMetadata{ViewId: view}}}
	}
	proposal := func(view uint64) *smartbftprotos.SavedMessage {
		return &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ProposedRecord{ProposedRecord: &smartbftprotos.ProposedRecord{
			PrePrepare: &smartbftprotos.PrePrepare{View: view, Seq: 5},
		}}}
	}
	for _, tt := range []struct {
		name string
		tip  uint64
		log  []*smartbftprotos.SavedMessage
		want int // entries that are kept
	}{
		{"the view of the tip is left", 2, []*smartbftprotos.SavedMessage{change(2)}, 1},
		{"and the next one, which did not begin", 2, []*smartbftprotos.SavedMessage{change(2), change(3), change(4)}, 1},
		{"a view began and is left", 2, []*smartbftprotos.SavedMessage{change(2), begun(3), change(3)}, 3},
		{"a view with a proposal is left", 2, []*smartbftprotos.SavedMessage{proposal(3), change(3), change(4)}, 2},
		{"a view that a sync jumped to", 0, []*smartbftprotos.SavedMessage{change(7), begun(9)}, 1},
	} {
		var log [][]byte
		for _, m := range tt.log {
			log = append(log, marshal(t, m))
		}
		if got := onlyBegun(log, tt.tip); len(got) != tt.want {
			t.Errorf("%s: %d entries", tt.name, len(got))
		}
	}
}

// N=4. Validator 4 has a block for which it, 3 and the traitor voted, and is gone. 2
// has left two views, of which the second did not begin, and starts again. With the
// traitor it would be f+1 that say that this one has begun: 3 would take its vote for
// dead, and the three decide another block.
func TestViewThatDidNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		T, second, third, last := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
		x := &traitor{t: t, tn: tn, self: T, b: map[uint64]*smartbftprotos.PrePrepare{}}
		stage, h := 0, uint64(0)
		for _, n := range tn.nodes {
			n.ahead = func(context.Context) bool { return false }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				_, confirms, _ := isConfirmation(m)
				switch {
				case stage == 0:
				case m.GetPrepare() != nil && !confirms && to == second && stage < 3, m.GetCommit() != nil && to != last && stage < 3:
					return nil // slow links: 3, 4 and the traitor vote, and 4 decides
				case m.GetViewData() != nil && stage < 3:
					return nil // no view begins
				case n == T && m.GetStateTransferResponse() != nil:
					return &smartbftprotos.Message{Content: &smartbftprotos.Message_StateTransferResponse{
						StateTransferResponse: &smartbftprotos.StateTransferResponse{ViewNum: 1, Sequence: h},
					}}
				case n == T && m.GetViewData() != nil:
					return x.resign(m, func(d *smartbftprotos.ViewData) { d.InFlightProposal, d.InFlightPrepared = nil, false })
				case n == T && m.GetHeartBeat() != nil:
					return nil
				}
				return m
			}
		}
		at := func(s int) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			stage = s
		}
		tn.start()
		tn.await(tn.submit(1))
		tn.mu.Lock()
		stage, h = 1, T.ledger.Tip().Head.Height+1
		tn.mu.Unlock()
		tn.submit(1)
		last.until(func() bool { return last.ledger.Tip().Head.Height == h })
		last.kill()
		at(2)
		for range 60_000 {
			time.Sleep(time.Millisecond)
			if next, _ := second.engine.live.Load().ballot.stands(); next >= 2 {
				break
			}
		}
		if next, _ := second.engine.live.Load().ballot.stands(); next < 2 || third.ledger.Tip().Head.Height >= h {
			t.Fatal("two views are not left, or the block is not with 4 alone")
		}
		second.kill()
		second.start()
		synctest.Wait()
		if begun := second.engine.live.Load().early.begunView(); begun != 0 {
			t.Errorf("view %d has begun for who only left it", begun)
		}
		at(3)
		time.Sleep(time.Minute)
		last.ahead = nil
		last.start()
		time.Sleep(20 * time.Second)
		tn.endAt(h)
	})
}
