package consensus

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// A new view comes early, and a sync overtakes it before it may be handed over. The
// library would die of its block in flight, or accuse the leader.
func TestEarlyNewViewAfterSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 7, inVirtualTime)
		first, second, last := tn.nodes[0], tn.nodes[1], tn.nodes[6]
		stage := 0
		var may atomic.Bool
		may.Store(true)
		for _, n := range tn.nodes {
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				prepare, commit := m.GetPrepare() != nil, m.GetCommit() != nil
				if stage == 1 && (prepare && to != second || commit) || stage == 2 && to == last && m.GetViewChange() != nil {
					return nil
				}
				return m
			}
		}
		last.pull = func(context.Context) bool { return !may.Load() }
		at := func(s int) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			stage = s
		}
		tn.start()
		tn.await(tn.submit(1))
		at(1)
		may.Store(false)
		ids := tn.submit(1)
		time.Sleep(200 * time.Millisecond)
		first.kill()
		at(2)
		for second.ledger.Tip().Head.Height < 2 {
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		for range 4 {
			ids = append(ids, tn.submitTo(tn.nodes[1:6], 1)...)
			for _, n := range tn.nodes[1:6] {
				n.until(func() bool { return n.hasAll(ids) })
			}
		}
		may.Store(true)
		last.engine.live.Load().nudge()
		time.Sleep(300 * time.Millisecond)
		tn.await(append(ids, tn.submit(2)...))
		if told := last.told.String(); strings.Contains(told, "Expected decisions in view") || last.engine.live.Load().view.Load() != 1 {
			t.Errorf("view %d: %s", last.engine.live.Load().view.Load(), told)
		}
		tn.stop()
	})
}
