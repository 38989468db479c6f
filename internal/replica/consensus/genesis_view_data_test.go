package consensus

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// N=4 at height 0, validator 1 a traitor: it proposes nothing, and its view data come
// early with a signature that is none.
func TestGenesisViewData(t *testing.T) {
	for _, bad := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(2, 8))))
			for _, n := range tn.nodes {
				n.ahead = tn.aheadOf(n)
			}
			x := tn.nodes[0]
			x.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				if m.GetPrePrepare() != nil || m.GetViewData() != nil || m.GetNewView() != nil {
					return nil
				}
				return m
			}
			tn.start()
			time.Sleep(time.Second)
			tn.submit(1)
			told := map[uint64]bool{}
			began := time.Now()
			for time.Since(began) < 10*time.Minute && tn.nodes[1].ledger.Tip().Head.Height == 0 {
				time.Sleep(time.Millisecond)
				for i, n := range tn.nodes[1:] {
					s := n.engine.live.Load()
					if s == nil {
						continue
					}
					j, _ := s.early.views()
					// told a view ahead, so that it is held and comes first
					w := j + 1
					for w%4 != uint64(i+1) {
						w++
					}
					if bad && !told[w] {
						told[w] = true
						raw := marshal(t, &smartbftprotos.ViewData{NextView: w, LastDecision: &smartbftprotos.Proposal{}})
						m := &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{RawViewData: raw, Signer: 1, Signature: []byte("none")}}}
						s.hear(1, m)
					}
				}
			}
			if d := time.Since(began); d > 4*time.Second { // 12 s where the data count
				t.Errorf("bad %v: it took %v", bad, d)
			}
			t.Logf("bad %v: after %v heights %d %d %d, view %d", bad, time.Since(began), tn.nodes[1].ledger.Tip().Head.Height, tn.nodes[2].ledger.Tip().Head.Height, tn.nodes[3].ledger.Tip().Head.Height, tn.nodes[1].engine.live.Load().early.joinedView())
			for _, n := range tn.running() {
				n.stop()
			}
			for _, n := range tn.nodes {
				_ = n.ledger.Close()
			}
		})
	}
}
