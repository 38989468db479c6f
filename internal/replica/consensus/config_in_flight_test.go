package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// A config block is in flight in a new view. The library begins anew with the view
// of that block, and the same view number comes again by another new view.
func TestConfigBlockInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		first, second := tn.nodes[0], tn.nodes[1]
		stage := 0
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
			n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				prepare, commit := m.GetPrepare() != nil, m.GetCommit() != nil
				if stage == 1 && (prepare && to != second || commit) {
					return nil
				}
				return m
			}
		}
		tn.start()
		tn.await(tn.submit(1))
		tn.mu.Lock()
		stage = 1
		tn.mu.Unlock()
		id := tn.change(func(c *consortium.Config) { c.Params.BatchRecords++ })
		time.Sleep(200 * time.Millisecond)
		tn.mu.Lock()
		stage = 2
		tn.mu.Unlock()
		first.kill()
		for _, n := range tn.nodes[1:] {
			n.until(func() bool { return n.hasAll([]chain.Hash{id}) })
		}
		synctest.Wait()
		for _, n := range tn.nodes[1:] {
			s := n.engine.live.Load()
			if next := s.early.joinedView() + 1; s.ballot.passed(next, n.ledger.Tip().Head.Height+1) {
				t.Errorf("%s takes no new view of view %d", n.id.ShortString(), next)
			}
		}
		ids := tn.submitTo(tn.nodes[1:], 3)
		for _, n := range tn.nodes[1:] {
			n.until(func() bool { return n.hasAll(ids) })
		}
		first.start()
		tn.stop()
	})
}
