package consensus

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/consortium"
)

// seeds are those that a test runs: CONSENSUS_SEED alone, or as many as
// CONSENSUS_SEEDS says, else n.
func seeds(n int) iter.Seq[uint64] {
	if s, err := strconv.Atoi(os.Getenv("CONSENSUS_SEEDS")); err == nil {
		n = s
	}
	first := uint64(0)
	if s, err := strconv.ParseUint(os.Getenv("CONSENSUS_SEED"), 10, 64); err == nil {
		first, n = s, 1
	}
	return func(yield func(uint64) bool) {
		for i := range uint64(n) {
			if !yield(first + i) {
				return
			}
		}
	}
}

// stalls is how long records waited that were given right after a fault.
type stalls []time.Duration

// mostly fails the test unless 95 of 100 are within limit; one is free.
func (s stalls) mostly(t *testing.T, limit time.Duration) {
	t.Helper()
	late := 0
	for _, v := range s {
		if v > limit {
			late++
		}
	}
	if late > max(1, len(s)/20) {
		t.Errorf("%d of %d took longer than %v", late, len(s), limit)
	}
}

func (s stalls) String() string {
	sorted := slices.Sorted(slices.Values(s))
	at := func(p int) time.Duration { return sorted[(len(sorted)-1)*p/100].Round(time.Millisecond) }
	return fmt.Sprintf("of %d: p50 %v, p90 %v, p95 %v, p99 %v, worst %v", len(s), at(50), at(90), at(95), at(99), at(100))
}

// links gives each message 1 to 20 ms on its way.
func links(rnd *rand.Rand) netOption {
	var mu sync.Mutex
	return func(tn *testNet, _ *consortium.Params) {
		tn.delay = func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Millisecond + time.Duration(rnd.Int64N(int64(19*time.Millisecond)))
		}
	}
}

// episode loads a network, lets fault happen to the leader, and measures.
func episode(t *testing.T, seed uint64, n int, busy bool, fault func(rnd *rand.Rand, leader *testNode)) (d time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		tn := newTestNet(t, n, inVirtualTime, links(rand.New(rand.NewPCG(seed, 8))))
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
			n.start()
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond) // tickers of their own
		}
		tn.await(tn.submit(20))
		for range rnd.IntN(100) {
			if busy {
				tn.submit(1 + rnd.IntN(5))
			}
			time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
		}
		began := time.Now()
		fault(rnd, tn.nodes[0])
		tn.await(tn.submit(20))
		d = time.Since(began)
		for _, n := range tn.nodes {
			if !slices.Contains(tn.running(), n) {
				n.start()
			}
		}
		tn.await(tn.submit(5))
		tn.stop()
	})
	return d
}

// A dead leader costs its heartbeat and a second.
func TestStallAfterDeadLeader(t *testing.T) {
	for _, n := range []int{3, 4, 7} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/busy=%v", n, busy), func(t *testing.T) {
				var all stalls
				for seed := range seeds(3) {
					d := episode(t, seed, n, busy, func(_ *rand.Rand, leader *testNode) { leader.kill() })
					if d > 3*time.Second {
						t.Logf("seed %d: %v", seed, d)
					}
					all = append(all, d)
				}
				t.Log(all)
				all.mostly(t, 3*time.Second)
			})
		}
	}
}

// A leader that is killed and back at once costs less than a dead one.
func TestStallAfterRestartedLeader(t *testing.T) {
	for _, n := range []int{3, 4} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/busy=%v", n, busy), func(t *testing.T) {
				var all stalls
				for seed := range seeds(3) {
					d := episode(t, seed, n, busy, func(rnd *rand.Rand, leader *testNode) {
						leader.kill()
						time.Sleep(time.Duration(100+rnd.IntN(1400)) * time.Millisecond)
						leader.start()
					})
					if d > 4*time.Second {
						t.Logf("seed %d: %v", seed, d)
					}
					all = append(all, d)
				}
				t.Log(all)
				all.mostly(t, 4*time.Second)
			})
		}
	}
}
