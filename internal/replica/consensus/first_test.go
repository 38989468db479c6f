package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
)

// headsOf is what the peers of n that run show.
func (tn *testNet) headsOf(n *testNode) func() map[peer.ID]uint64 {
	return func() map[peer.ID]uint64 {
		heads := map[peer.ID]uint64{}
		for _, other := range tn.running() {
			if other != n {
				heads[other.id] = other.ledger.Tip().Head.Height
			}
		}
		return heads
	}
}

func seeHeads(tn *testNet) {
	for _, n := range tn.nodes {
		n.heads = tn.headsOf(n)
	}
}

func (n *testNode) warned(text string) int { return strings.Count(n.told.String(), text) }

// idleFor fails the test if a block is made.
func (tn *testNet) idleFor(d time.Duration) {
	tn.t.Helper()
	before := tn.nodes[0].ledger.Tip().Head.Height
	tn.submit(1)
	time.Sleep(d)
	synctest.Wait()
	for _, n := range tn.running() {
		if h := n.ledger.Tip().Head.Height; h > before {
			tn.t.Fatalf("%s is at height %d after %d", n.id.ShortString(), h, before)
		}
	}
}

// A new network waits for the last validator, and for nothing else; later on
// it does not.
func TestFirstVoteNeedsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		seeHeads(tn)
		for _, n := range tn.nodes[:3] {
			n.start()
		}
		tn.idleFor(150 * time.Second)
		const held = "first start of this validator"
		if got := tn.nodes[0].warned(held); got != 3 { // after 5, 65 and 125 s
			t.Errorf("told %d times", got)
		}
		if tn.nodes[0].warned(tn.nodes[3].id.String()) == 0 || tn.nodes[0].warned(tn.nodes[1].id.String()) > 0 {
			t.Errorf("the missing one is not named, or others are: %s", tn.nodes[0].told.String())
		}
		began := time.Now()
		tn.nodes[3].start()
		tn.await(tn.submit(1))
		if d := time.Since(began); d > time.Second {
			t.Errorf("all there, and the first block took %v", d)
		}
		for _, n := range tn.nodes {
			n.stop()
		}
		for _, n := range tn.nodes[1:] {
			n.start()
		}
		tn.await(tn.submit(1))
		tn.stop()
	})
}

// A validator voted, lost its disk, and starts from the genesis file again,
// with one that did not see that block.
func TestWipedValidatorDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		seeHeads(tn)
		first, second := tn.nodes[0], tn.nodes[1]
		tn.start()
		time.Sleep(time.Second)
		second.stop()
		tn.await(tn.submit(1))
		first.stop()
		tn.nodes[2].stop()
		if err := tn.nodes[2].ledger.Close(); err != nil {
			t.Fatal(err)
		}
		third := tn.newNode(tn.nodes[2].key)
		tn.mu.Lock()
		tn.nodes[2] = third
		tn.mu.Unlock()
		third.heads = tn.headsOf(third)

		second.start()
		third.start()
		tn.idleFor(time.Minute)

		first.start() // it has the block
		<-third.ended
		if !errors.Is(third.end, ErrQuarantined) {
			t.Fatalf("the wiped one: %v", third.end)
		}
		third.end = nil
		if born, err := third.ledger.Born(); err != nil || born == 0 {
			t.Errorf("born at %d, %v", born, err)
		}
		if err := third.engine.Run(t.Context()); !errors.Is(err, ErrQuarantined) {
			t.Errorf("again, without a new block: %v", err)
		}
		ids := tn.submit(1)
		second.until(func() bool { return second.hasAll(ids) })
		if err := third.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		third.run() // it votes again: with two of three
		first.stop()
		tn.await(tn.submit(1))
		tn.stop()
	})
}

// The others may make blocks as soon as they have seen us. Who had none when
// we met is good.
func TestFirstVoteOfTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		for _, n := range tn.nodes[:3] {
			n.start()
		}
		tn.await(tn.submit(1))
		last := tn.nodes[3]
		met := false
		last.heads = func() map[peer.ID]uint64 { // asked first in Run, so after New
			if !met {
				met = true
				for _, n := range tn.nodes[:3] {
					last.bus.Publish(event.PeerReady{PeerConnected: event.PeerConnected{Peer: n.id}})
				}
				return nil
			}
			return tn.headsOf(last)()
		}
		last.start()
		tn.await(tn.submit(1))
		tn.nodes[0].stop()
		tn.await(tn.submit(1))
		tn.stop()
	})
}

// A head without its block proves nothing: we neither vote nor are we marked
// for ever.
func TestFirstVoteAfterALie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		seeHeads(tn)
		n := tn.nodes[0]
		var lie atomic.Uint64
		lie.Store(7)
		honest := n.heads
		n.heads = func() map[peer.ID]uint64 {
			heads := honest()
			if len(heads) > 0 {
				heads[tn.nodes[2].id] = lie.Load()
			}
			return heads
		}
		n.start()
		time.Sleep(time.Second)
		for _, other := range tn.nodes[1:] {
			other.heads = nil
			other.start()
		}
		time.Sleep(30 * time.Second)
		if n.engine.live.Load() != nil {
			t.Error("it votes")
		}
		if born, err := n.ledger.Born(); err == nil {
			t.Errorf("born at %d", born)
		}
		lie.Store(0)
		tn.await(tn.submit(1))
		synctest.Wait()
		if n.engine.live.Load() == nil {
			t.Error("it does not vote")
		}
		tn.stop()
	})
}

func TestFirstVoteWaived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		for _, n := range tn.nodes[:2] {
			n.heads, n.sole = tn.headsOf(n), true
			n.start()
		}
		tn.await(tn.submit(1))
		tn.stop()
	})
}

// Who has just started has no peers yet, and waits for one a moment before it
// catches up.
func TestMeetsBeforeItCatchesUp(t *testing.T) {
	for _, tt := range []struct {
		name       string
		validators int
		after      time.Duration // the other one is ready
		want       time.Duration
	}{{"soon", 2, 300 * time.Millisecond, 300 * time.Millisecond}, {"never", 2, time.Hour, meetTime}, {"alone", 1, time.Hour, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tn := newTestNet(t, tt.validators, inVirtualTime)
				n := tn.nodes[0]
				if err := n.ledger.SetMark([]byte("memory")); err != nil {
					t.Fatal(err)
				}
				began, pulled := time.Now(), time.Duration(-1)
				n.heads = func() map[peer.ID]uint64 {
					heads := map[peer.ID]uint64{n.id: 5}
					if time.Since(began) >= tt.after {
						heads[tn.nodes[1].id] = 1
					}
					return heads
				}
				n.pull = func(context.Context) bool {
					if pulled < 0 {
						pulled = time.Since(began)
					}
					return false
				}
				n.start()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if pulled < tt.want || pulled > tt.want+meetEvery {
					t.Errorf("caught up after %v, want %v", pulled, tt.want)
				}
				tn.stop()
			})
		})
	}
}

// The brake ends when the oldest of the crashes is long past.
func TestBrakeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 1, inVirtualTime)
		n := tn.nodes[0]
		e := &Engine{cfg: Config{WALDir: t.TempDir()}, ledger: n.ledger, log: testLog(t)}
		var marks []crash
		for _, ago := range []time.Duration{9 * time.Minute, 5 * time.Minute, time.Minute} {
			marks = append(marks, crash{Time: time.Now().Add(-ago), Reason: "bang"})
		}
		b, err := json.Marshal(marks)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(e.cfg.WALDir, "crashes.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		err = e.mayStart()
		var brake *BrakeError
		if !errors.As(err, &brake) || !errors.Is(err, ErrQuarantined) || !brake.Until.Equal(time.Now().Add(time.Minute)) {
			t.Fatalf("%v", err)
		}
		time.Sleep(time.Until(brake.Until))
		if err := e.mayStart(); err != nil {
			t.Errorf("at its end: %v", err)
		}
		tn.stop()
	})
}
