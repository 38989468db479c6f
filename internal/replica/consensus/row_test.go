package consensus

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Leaders die in a row under a light load, and most are back at once. No record
// waits for long, for whoever lacks the last block follows in the middle of the
// view change: one of four that lacks it is enough to stop the others.
func TestLeadersInARow(t *testing.T) {
	for seed := range seeds(1) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 17))
			r := &leaderRow{t: t, seed: seed, tn: newTestNet(t, 4, inVirtualTime, jitter(seed)), order: make(chan struct{}, 1), over: make(chan struct{})}
			for _, n := range r.tn.nodes {
				n.ahead = r.tn.aheadOf(n)
				n.start()
				time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
			}
			r.tn.await(r.submit())
			r.load.Go(r.feed)
			for i := range 40 {
				r.episode(rnd, i%5 < 4)
			}
			close(r.over)
			r.load.Wait()
			t.Logf("seed %d: dead %v; back at once %v; all up %v", seed, r.dead, r.fast, r.calm)
			r.tn.stop()
		})
	}
}

// jitter is links of one machine, on which a message is late now and then.
func jitter(seed uint64) netOption {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 18))
	return func(tn *testNet, _ *consortium.Params) {
		tn.delay = func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			if rnd.IntN(50) == 0 {
				return time.Duration(rnd.IntN(40_000)) * time.Microsecond
			}
			return time.Duration(100+rnd.IntN(1500)) * time.Microsecond
		}
	}
}

type leaderRow struct {
	t     *testing.T
	seed  uint64
	tn    *testNet
	order chan struct{} // holds one: whose turn it is, to submit or to end a node. Who waits for a mutex would stop the bubble's time, which the end of a node needs
	load  sync.WaitGroup
	over  chan struct{}

	dead, fast, calm stalls
}

func (r *leaderRow) submit() []chain.Hash {
	r.order <- struct{}{}
	defer func() { <-r.order }()
	return r.tn.submit(1)
}

// feed submits a record now and then, until it is over.
func (r *leaderRow) feed() {
	for {
		select {
		case <-r.over:
			return
		case <-time.After(23 * time.Millisecond):
			r.submit()
		}
	}
}

// wait is how long a record takes to be committed on all that run.
func (r *leaderRow) wait(what string, limit time.Duration) time.Duration {
	r.t.Helper()
	began := time.Now()
	r.tn.await(r.submit())
	d := time.Since(began)
	if d > limit {
		r.t.Errorf("seed %d, %s: a record waits %v, want at most %v", r.seed, what, d, limit)
	}
	return d
}

// episode is a second or so without a fault, and the end of a leader.
func (r *leaderRow) episode(rnd *rand.Rand, atOnce bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Duration(800+rnd.IntN(700)) * time.Millisecond); time.Now().Before(end); {
		r.calm = append(r.calm, r.wait("all are up", 3*time.Second))
		time.Sleep(25 * time.Millisecond)
	}
	_, leader, _, _ := r.tn.nodes[0].engine.State()
	n := r.tn.nodes[leader-1]
	time.Sleep(time.Duration(rnd.IntN(25_000)) * time.Microsecond)
	r.order <- struct{}{}
	n.kill()
	<-r.order
	if atOnce {
		time.Sleep(time.Duration(30+rnd.IntN(300)) * time.Millisecond)
		n.start()
		r.fast = append(r.fast, r.wait("back at once", 4*time.Second))
		return
	}
	r.dead = append(r.dead, r.wait("dead", 3*time.Second))
	n.start()
}
