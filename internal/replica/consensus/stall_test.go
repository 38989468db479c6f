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
)

// askSync makes the library of n sync, as any timeout of a view change does.
func (n *testNode) askSync() {
	s := n.engine.live.Load()
	s.bft.HandleMessage(s.Leader(), &smartbftprotos.Message{Content: &smartbftprotos.Message_HeartBeat{
		HeartBeat: &smartbftprotos.HeartBeat{View: s.view.Load() + 1},
	}})
}

func (n *testNode) sessions() int { return strings.Count(n.told.String(), "engine started") }

// A sync that lasts brings the block that the view decides meanwhile. The
// library then waits for ever for somebody to take the answer of a view that
// has ended: it heard others vote two blocks further, and nothing followed.
func TestSyncOvertakesDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		synctest.Wait()
		last := tn.nodes[3]
		hold := make(chan struct{})
		last.pull = func(context.Context) bool { <-hold; return false }
		last.askSync()
		synctest.Wait()
		tn.submit(1)
		time.Sleep(100 * time.Millisecond) // all four decide
		before := last.ledger.Tip().Head.Height
		close(hold)
		time.Sleep(time.Second)
		if h := last.ledger.Tip().Head.Height; h != before+1 {
			t.Fatalf("height %d after %d, want the block that was synced", h, before)
		}
		last.deaf.Store(true)
		for range 2 {
			tn.submit(1)
			time.Sleep(100 * time.Millisecond)
		}
		last.deaf.Store(false)
		began := time.Now()
		tn.await(tn.submit(1))
		if d := time.Since(began); d > 3*restartMin {
			t.Errorf("it took %v", d)
		}
		tn.stop()
	})
}

// aheadOf reports whether another node has more than n.
func (tn *testNet) aheadOf(n *testNode) func(context.Context) bool {
	return func(context.Context) bool {
		height := n.ledger.Tip().Head.Height
		return slices.ContainsFunc(n.reachable(), func(o *testNode) bool { return o.ledger.Tip().Head.Height > height })
	}
}

// behind gives a node whose library never gets a block by a sync, so that it
// can not follow once it missed some.
func behind(tn *testNet) *testNode {
	last := tn.nodes[len(tn.nodes)-1]
	last.ahead = tn.aheadOf(last)
	last.pull = func(context.Context) bool { return last.engine.live.Load() != nil }
	return last
}

func (tn *testNet) missed(n *testNode) {
	n.deaf.Store(true)
	for range 3 {
		tn.submit(1)
		time.Sleep(100 * time.Millisecond)
	}
	n.deaf.Store(false)
}

// Whatever is the matter with the library: who stays behind begins anew.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		last := behind(tn)
		tn.start()
		tn.await(tn.submit(1))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := last.sessions(); got != 1 {
			t.Fatalf("%d sessions while nothing was wrong", got)
		}
		tn.missed(last)
		began := time.Now()
		tn.await(tn.submit(1))
		synctest.Wait()
		if d := time.Since(began); d < stallMin || d > 8*time.Second || last.sessions() != 2 {
			t.Errorf("after %v and %d sessions", d, last.sessions())
		}
		tn.stop()
	})
}

// Where it does not help, it is not done again and again.
func TestWatchdogIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		last := tn.nodes[3]
		last.stop()
		last.ahead = func(context.Context) bool { return true }
		last.start()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := last.sessions(); got < 6 || got > 12 { // 1 + one after 5, 5, 10, 20, 40, 80, 120 s …
			t.Errorf("%d sessions in ten minutes", got)
		}
		tn.stop()
	})
}

// A library that does not stop is left behind, and does nothing any more.
func TestHungLibraryIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		last := behind(tn)
		hold := make(chan struct{})
		var held atomic.Bool
		last.pull = func(context.Context) bool {
			if last.engine.live.Load() == nil || !held.CompareAndSwap(false, true) {
				return false
			}
			<-hold // whatever ctx says
			return true
		}
		tn.start()
		synctest.Wait() // the nudge at the start makes it sync
		old := last.engine.live.Load()
		tn.await(tn.submit(1))
		synctest.Wait()
		if !old.dead.Load() || last.sessions() != 2 {
			t.Errorf("dead: %v, %d sessions", old.dead.Load(), last.sessions())
		}
		close(hold)
		synctest.Wait()
		tn.await(tn.submit(5))
		tn.stop()
		if !strings.Contains(last.told.String(), "left behind") {
			t.Error("it was not told")
		}
	})
}

func TestPace(t *testing.T) {
	p := pace{wait: restartMin}
	for i, step := range []struct {
		height uint64
		want   time.Duration
	}{{7, 5}, {7, 10}, {7, 20}, {8, 5}, {8, 10}, {8, 20}, {8, 40}, {8, 80}, {8, 120}, {8, 120}, {9, 5}} {
		if p.next(step.height); p.wait != step.want*time.Second {
			t.Errorf("step %d: %v, want %v s", i, p.wait, int(step.want))
		}
	}
}

func TestWatch(t *testing.T) {
	const stall = 3 * time.Second
	start := time.Now()
	w := watch{until: start.Add(60 * time.Second)}
	for _, step := range []struct {
		at           time.Duration // seconds
		height       uint64
		due          bool
		ahead, stall bool
	}{
		{0, 1, false, false, false},
		{1, 1, true, false, false}, // idle: asked every 3 s
		{2, 1, false, false, false},
		{4, 1, true, true, false}, // a moment before the block comes
		{5, 2, false, false, false},
		{7, 2, true, true, false},
		{8, 2, true, false, false}, // it was nothing
		{11, 2, true, true, false},
		{12, 2, true, true, false},
		{13, 2, true, true, false},
		{14, 2, true, true, false}, // for long enough, but the session is young
		{60, 2, true, true, true},
		{61, 3, false, false, false},
		{63, 3, true, true, false},
		{66, 3, true, true, true},
	} {
		now := start.Add(step.at * time.Second)
		due := w.due(step.height, stall, now)
		if due != step.due {
			t.Fatalf("at %d s: due %v", step.at, due)
		}
		if due && w.answer(step.ahead, step.height, stall, now) != step.stall {
			t.Fatalf("at %d s: want stall %v", step.at, step.stall)
		}
	}
	if w.answer(true, 4, stall, start.Add(80*time.Second)) {
		t.Error("the tip moved while others were asked")
	}
}
