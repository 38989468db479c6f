package consensus

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
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

// A new view comes while a sync lasts that brings blocks well past the one that was
// in flight in it. The library would die of that, or wait for itself for ever: it
// gets it when the sync is over, where it is out of date.
func TestSyncOvertakesNewView(t *testing.T) {
	for range 5 { // now and then the last one is not behind, and there is nothing to overtake
		came := false
		synctest.Test(t, func(t *testing.T) { came = syncOvertakesNewView(t) })
		if came {
			return
		}
	}
	t.Error("the last one was not behind when the new view came, five times")
}

// syncOvertakesNewView tells whether the case came about.
func syncOvertakesNewView(t *testing.T) bool {
	tn := newTestNet(t, 7, inVirtualTime)
	first, others, last := tn.nodes[0], tn.nodes[1:6], tn.nodes[6]
	losses, hold := tn.losses(), make(chan struct{})
	var lasts atomic.Bool
	tn.start()
	tn.await(tn.submit(5))
	time.Sleep(time.Second)
	all := func(ids []chain.Hash) []chain.Hash {
		for _, n := range others {
			n.until(func() bool { return n.hasAll(ids) })
		}
		return ids
	}
	last.pull = func(context.Context) bool {
		if !lasts.Load() {
			return true // it brings nothing
		}
		<-hold
		return false
	}
	last.deaf.Store(true)
	ids := all(tn.submit(1)) // which it misses
	last.deaf.Store(false)
	late := losses[1].begin(isNewView, last)
	ids = append(ids, tn.blockInFlight(slices.Concat(losses[:1], losses[2:6]), first)...)
	<-late
	for range 2 {
		ids = append(ids, all(append(ids, tn.submitTo(others, 1)...))...)
	}
	losses[1].end()
	s, height := last.engine.live.Load(), last.ledger.Tip().Head.Height
	lasts.Store(true)
	last.askSync()
	synctest.Wait()
	s.hear(2, losses[1].kept[0])
	synctest.Wait()
	if now := last.ledger.Tip().Head.Height; now != height {
		t.Errorf("height %d, then %d", height, now)
	}
	close(hold)
	if others[0].ledger.Tip().Head.Height < height+4 {
		tn.stop()
		return false
	}
	began := time.Now()
	tn.await(append(ids, tn.submit(5)...))
	if d := time.Since(began); d > restartPause {
		t.Errorf("it took %v", d)
	}
	if last.sessions() != 1 || s.syncing.Load() {
		t.Errorf("%d sessions, a sync lasts: %v: %s", last.sessions(), s.syncing.Load(), last.told.String())
	}
	tn.stop()
	return true
}

// The leader's proposal reaches a validator while a sync lasts that has brought
// just that block, as it does one that starts a moment late. It is no fault of the
// leader, and one complaint is enough where three vote.
func TestSyncOvertakesProposal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		others, last := tn.nodes[:2], tn.nodes[2]
		losses, hold := tn.losses(), make(chan struct{})
		var lasts atomic.Bool
		last.pull = func(context.Context) bool {
			if lasts.Load() {
				b, err := others[0].ledger.Block(last.ledger.Tip().Head.Height + 1)
				if err == nil {
					err = last.ledger.Append(b, "sync", others[0].id)
				}
				if err != nil {
					t.Error(err)
				}
				<-hold
			}
			return true
		}
		tn.start()
		tn.await(tn.submit(5))
		time.Sleep(time.Second)
		late := losses[0].begin(isProposal, last)
		ids := tn.submit(1)
		<-late
		for _, n := range others {
			n.until(func() bool { return n.hasAll(ids) })
		}
		losses[0].end()
		lasts.Store(true)
		last.askSync()
		synctest.Wait()
		last.engine.live.Load().hear(1, losses[0].kept[0])
		synctest.Wait()
		lasts.Store(false)
		close(hold)
		began := time.Now()
		tn.await(append(ids, tn.submit(5)...))
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
		for _, n := range tn.nodes {
			if view := n.engine.live.Load().view.Load(); view != 0 || n.sessions() != 1 {
				t.Errorf("%s: view %d, %d sessions: %s", n.id.ShortString(), view, n.sessions(), n.told.String())
			}
		}
		tn.stop()
	})
}
