package consensus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
)

// Everything at once: validators lose their power and come back, messages are
// lost, some hear nothing, and where the set can bear a traitor the first one
// sends two blocks whenever it leads. No height has two blocks, nothing is
// lost, nobody else is named for two votes, and once all that ends the chain goes
// on.
func TestStorm(t *testing.T) {
	for _, n := range []int{3, 4, 5, 6, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var all stalls
			for seed := range seeds(2) {
				all = append(all, storm(t, seed, n))
			}
			t.Logf("from the last fault to agreement: %v", all)
		})
	}
}

func storm(t *testing.T, seed uint64, n int) (calm time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, uint64(n)))
		tn := newTestNet(t, n, inVirtualTime, links(rand.New(rand.NewPCG(seed, 8))))
		x := &traitor{t: t, tn: tn, self: tn.nodes[0], rnd: rnd, b: map[uint64]*smartbftprotos.PrePrepare{}}
		x.acts.Store(n >= 4)
		loss := 0 // of 100 messages; guarded by tn.mu, as is lost
		lost := rand.New(rand.NewPCG(seed, 9))
		for _, v := range tn.nodes {
			v.ahead = tn.aheadOf(v)
			v.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				drop := lost.IntN(100) < loss
				tn.mu.Unlock()
				if drop {
					return nil
				}
				if v == x.self && x.acts.Load() {
					return x.equivocate(to, m)
				}
				return m
			}
		}
		tn.start()
		all := tn.rage(rnd, func(part int) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			loss = part
		})
		x.acts.Store(false)
		up := tn.running()
		for _, v := range tn.nodes {
			v.deaf.Store(false)
			if !slices.Contains(up, v) {
				v.start()
			}
		}
		began := time.Now()
		tn.gossipAgain(all)
		tn.await(append(tn.submit(5), all...))
		calm = time.Since(began)
		tn.stop()
		if n >= 4 {
			tn.accusesNobody(x.self)
		} else {
			tn.accusesNobody(nil)
		}
		for _, v := range tn.nodes {
			if told := v.told.String(); strings.Contains(told, "left behind") {
				t.Errorf("seed %d: a library did not stop at %s: %s", seed, v.id.ShortString(), told)
			}
		}
	})
	return calm
}

// gossipAgain gives to all what one still holds, as who accepted a record does.
func (tn *testNet) gossipAgain(ids []chain.Hash) {
	for _, id := range ids {
		for _, n := range tn.nodes {
			if raw, ok := n.pool.Get(id); ok && !n.ledger.Committed(id) {
				tn.gossip(raw)
				break
			}
		}
	}
}

// rage submits records and strikes at random, and leaves nothing lost on the way.
func (tn *testNet) rage(rnd *rand.Rand, lose func(percent int)) (all []chain.Hash) {
	for range 25 {
		if count := rnd.IntN(20); len(tn.running()) > 0 {
			all = append(all, tn.submit(count)...)
		}
		time.Sleep(time.Duration(rnd.IntN(2500)) * time.Millisecond)
		lose([]int{0, 0, 5, 20, 60}[rnd.IntN(5)])
		up := tn.running()
		for _, v := range tn.nodes {
			switch {
			case !slices.Contains(up, v):
				if rnd.IntN(2) == 0 {
					v.start()
				}
			case rnd.IntN(4) == 0:
				v.kill()
			}
			v.deaf.Store(rnd.IntN(6) == 0)
		}
	}
	lose(0)
	return all
}
