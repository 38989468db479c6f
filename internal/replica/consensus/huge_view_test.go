package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// One traitor, leader of view 1: instead of its new view it sends one whose first
// view data, its own, are for a view far away, and nothing else ever after.
func TestNewViewOfAFarView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		L, T := tn.nodes[0], tn.nodes[1]
		x := &traitor{t: t, tn: tn, self: T, b: map[uint64]*smartbftprotos.PrePrepare{}}
		stage := 0
		var poison *smartbftprotos.Message
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
			n.ahead = tn.aheadOf(n)
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				if stage == 0 || n != T {
					return m
				}
				if poison != nil {
					return poison
				}
				if m.GetNewView() != nil {
					poison = x.twin(m, func(d *smartbftprotos.ViewData) { d.NextView = 1<<40 + 1 })
					return poison
				}
				return m
			}
		}
		tn.start()
		tn.await(tn.submit(1))
		h := L.ledger.Tip().Head.Height + 1
		tn.mu.Lock()
		stage = 1
		tn.mu.Unlock()
		for _, n := range tn.nodes {
			n.engine.live.Load().bft.Complain(0, true)
		}
		tn.submit(1)
		began := time.Now()
		honest := []*testNode{L, tn.nodes[2], tn.nodes[3]}
		for range 300 {
			time.Sleep(time.Second)
			if L.ledger.Tip().Head.Height >= h {
				break
			}
		}
		for _, n := range honest {
			if s := n.engine.live.Load(); s != nil {
				j, b := s.early.views()
				t.Log(n.id.ShortString(), "height", n.ledger.Tip().Head.Height, "joined", j, "begun", b, "own", s.confirms.own.view, "sessions", n.sessions())
			}
		}
		t.Log("poisoned", poison != nil, "after", time.Since(began))
		if L.ledger.Tip().Head.Height < h {
			t.Error("the chain stands")
		}
		tn.endAt(h)
	})
}
