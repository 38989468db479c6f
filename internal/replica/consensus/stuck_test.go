package consensus

import (
	"math/rand/v2"
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

// The network is gone and the streams stand, as they do for half a minute: that
// records wait then is no fault of the engine, and it does not begin anew.
func TestSilentNetworkIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(5, 8))))
		tn.start()
		tn.await(tn.submit(5))
		deaf := func(on bool) {
			for _, n := range tn.nodes {
				n.deaf.Store(on)
			}
		}
		deaf(true)
		ids := tn.submit(5)
		time.Sleep(30 * time.Second)
		for _, n := range tn.nodes {
			if _, _, connected, _ := n.engine.State(); connected != len(tn.nodes) || n.sessions() != 1 {
				t.Errorf("%s: %d connected, %d sessions", n.id.ShortString(), connected, n.sessions())
			}
		}
		deaf(false)
		began, beat := time.Now(), heartbeat(tn.genesis.Config.Params)
		tn.await(append(ids, tn.submit(5)...))
		if d := time.Since(began); d > 2*beat {
			t.Errorf("it took %v", d)
		}
		tn.stop()
	})
}

func TestAudible(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name    string
		up      bool
		heard   time.Duration // ago
		waiting int           // messages of it that the library does not take
		want    int
	}{
		{"heard a moment ago", true, silentAfter - 1, 0, 1},
		{"silent", true, silentAfter, 0, 0},
		{"silent, for it waits for our library", true, time.Hour, 1, 1},
		{"cannot be reached", false, 0, 0, 0},
		{"cannot be reached, and waits for our library", false, 0, 1, 0},
	} {
		p := &peers{out: map[uint64]*outbox{2: {up: tt.up}}, heard: map[uint64]time.Time{2: now.Add(-tt.heard)}, waiting: map[uint64]int{}}
		p.waits(2, tt.waiting)
		if got := p.audible(now); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
		p.waits(2, -tt.waiting)
		if len(p.waiting) > 0 {
			t.Errorf("%s: kept after it was taken", tt.name)
		}
	}
}
