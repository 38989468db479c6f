package consensus

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// dry is a pool that gives nothing to the first session of a node: a stall that
// no other watch knows.
type dry struct {
	Pool
	of    *testNode
	first atomic.Pointer[session]
}

func (d *dry) Next(most, mostBytes int, skip func(chain.Hash) bool) [][]byte {
	s := d.of.engine.live.Load()
	d.first.CompareAndSwap(nil, s)
	if s == nil || s == d.first.Load() {
		return nil
	}
	return d.Pool.Next(most, mostBytes, skip)
}

// Whatever keeps blocks from coming: while records wait and a quorum is there,
// the engines begin anew, one after the other and no more than it takes.
func TestStuckBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		for _, n := range tn.nodes {
			n.feed = func(p Pool) Pool { return &dry{Pool: p, of: n} }
		}
		tn.start()
		time.Sleep(time.Minute) // idle: nothing waits
		began := time.Now()
		tn.await(tn.submit(5))
		d, beat := time.Since(began), heartbeat(tn.genesis.Config.Params)
		if d < stuckBeats*beat-aheadEvery || d > (stuckBeats+2)*beat { // it looks now and then
			t.Errorf("it took %v, heartbeat %v", d, beat)
		}
		synctest.Wait()
		sum := 0
		for _, n := range tn.nodes {
			sum += n.sessions()
		}
		// A start takes a second, half a heartbeat, and then the next one is due.
		if more := sum - len(tn.nodes); more < 1 || more > 2 {
			t.Errorf("%d more sessions than nodes, want one or two", more)
		}
		tn.stop()
	})
}

func TestStuck(t *testing.T) {
	const patience = 10 * time.Second
	start := time.Now()
	w := stuck{since: start}
	for _, step := range []struct {
		at          time.Duration // seconds
		height      uint64
		could, want bool
	}{
		{1, 1, true, false},
		{10, 1, true, false},
		{11, 1, true, true},
		{12, 2, true, false},  // a block
		{21, 2, false, false}, // nothing waits, or nobody is there
		{30, 2, true, false},
		{31, 2, true, true},
	} {
		if got := w.look(step.height, step.could, patience, start.Add(step.at*time.Second)); got != step.want {
			t.Fatalf("at %d s: %v", step.at, got)
		}
	}
}
