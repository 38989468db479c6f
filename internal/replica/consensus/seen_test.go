package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// voted waits until a validator has voted for a block.
func (n *testNode) voted(t *testing.T, height uint64) {
	t.Helper()
	for range 10_000 {
		if _, v := n.engine.live.Load().ballot.stands(); v.seq == height {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s does not vote", n.id.ShortString())
}

// N=4. The leader sends one block to two, for which one of them votes, and another
// to the third, and is never seen again. That none of the three speaks against the
// block that one voted for, and that another one shows it as well, takes more than
// that all do the same.
func TestLeaderSendsTwoBlocksAndIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		first, rest := tn.nodes[0], tn.nodes[1:]
		x := &traitor{t: t, tn: tn, self: first, b: map[uint64]*smartbftprotos.PrePrepare{}}
		first.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			switch {
			case !x.acts.Load():
			case m.GetPrePrepare() != nil && to == tn.nodes[3]:
				return &smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: x.other(m.GetPrePrepare())}}
			case m.GetCommit() != nil, m.GetPrepare() != nil && to != tn.nodes[2]:
				return nil
			}
			return m
		}
		tn.start()
		tn.await(tn.submit(1))
		h := first.ledger.Tip().Head.Height + 1
		x.acts.Store(true)
		ids := tn.submit(1)
		tn.nodes[2].voted(t, h)
		first.kill()
		began := time.Now()
		for _, n := range rest {
			n.until(func() bool { return n.hasAll(ids) })
		}
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("it took %v", d)
		}
		tn.stop()
	})
}

// N=4. The leader is gone after one of three voted for its block. The only other one
// that has the block loses its power in the view change, and comes back.
func TestProposalSurvivesCrashInViewChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		first, second, third := tn.nodes[0], tn.nodes[1], tn.nodes[2]
		stage := 0
		for _, n := range tn.nodes {
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				_, confirms, _ := isConfirmation(m)
				switch {
				case stage == 0:
				case m.GetPrePrepare() != nil && to == tn.nodes[3], m.GetPrepare() != nil && !confirms && to != third && stage == 1:
					return nil
				case m.GetViewData() != nil && stage == 1:
					return nil
				}
				return m
			}
		}
		tn.start()
		tn.await(tn.submit(1))
		h := first.ledger.Tip().Head.Height + 1
		tn.mu.Lock()
		stage = 1
		tn.mu.Unlock()
		ids := tn.submit(1)
		third.voted(t, h)
		first.kill()
		for range 10_000 {
			time.Sleep(time.Millisecond)
			if second.engine.live.Load().early.joinedView() == 1 {
				break
			}
		}
		second.kill()
		tn.mu.Lock()
		stage = 2
		tn.mu.Unlock()
		second.start()
		began := time.Now()
		for _, n := range tn.nodes[1:] {
			n.until(func() bool { return n.hasAll(ids) })
		}
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("it took %v", d)
		}
		tn.stop()
	})
}
