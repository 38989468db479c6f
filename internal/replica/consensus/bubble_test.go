package consensus

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// In a bubble a second costs microseconds, and a goroutine that outlives Run
// fails the test.
func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(400))
		time.Sleep(10 * time.Minute) // an idle chain stays as it is
		if view, _, connected, _ := tn.nodes[3].engine.State(); view != 0 || connected != 4 {
			t.Errorf("after ten idle minutes: view %d, %d connected", view, connected)
		}
		if h := tn.nodes[0].ledger.Tip().Head.Height; h == 0 || tn.nodes[0].ledger.Tip().Records != 400 {
			t.Errorf("height %d, %d records", h, tn.nodes[0].ledger.Tip().Records)
		}
		tn.stop()
	})
}

// A dead leader costs a heartbeat and a second at most; see
// TestStallAfterDeadLeader for how often.
func TestLeaderDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(100))
		wait := heartbeat(tn.genesis.Config.Params)
		tn.nodes[0].stop()
		time.Sleep(wait + time.Second)
		began := time.Now()
		tn.await(tn.submit(100))
		if d := time.Since(began); d > time.Second {
			t.Errorf("a second after the heartbeat the next records took %v", d)
		}
		tn.nodes[0].start()
		tn.await(tn.submit(100))

		tn.nodes[1].stop()
		began = time.Now()
		tn.await(tn.submit(100))
		if d := time.Since(began); d > wait+time.Second {
			t.Errorf("under load stalled for %v", d)
		}
		tn.stop()
	})
}

// Random kills and restarts in the middle of the work, up to all at once:
// nothing that one has is missing at another, and the work goes on.
func TestRandomKills(t *testing.T) {
	for seed := range seeds(3) {
		synctest.Test(t, func(t *testing.T) { randomKills(t, seed, 15) })
	}
}

func randomKills(t *testing.T, seed uint64, rounds int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	tn := newTestNet(t, 4, inVirtualTime)
	for _, n := range tn.nodes {
		n.ahead = tn.aheadOf(n)
	}
	tn.start()
	var all []chain.Hash
	for range rounds {
		all = append(all, tn.submit(rnd.IntN(100))...)
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
		for _, n := range tn.nodes {
			up := false
			for _, r := range tn.running() {
				up = up || r == n
			}
			switch {
			case !up:
				n.start()
			case rnd.IntN(4) == 0:
				n.stop()
			}
		}
		time.Sleep(time.Duration(rnd.IntN(4000)) * time.Millisecond)
	}
	for _, n := range tn.nodes {
		up := false
		for _, r := range tn.running() {
			up = up || r == n
		}
		if !up {
			n.start()
		}
	}
	began := time.Now()
	all = append(all, tn.submit(10)...)
	tn.await(all[len(all)-10:])
	t.Logf("seed %d: %d records, height %d, last wait %v", seed, len(all), tn.nodes[0].ledger.Tip().Head.Height, time.Since(began))
	tn.stop()
}

// change makes a config record for the epoch after the present one.
func (tn *testNet) change(edit func(*consortium.Config)) chain.Hash {
	tn.t.Helper()
	next, err := consortium.DecodeConfig(tn.nodes[0].ledger.Tip().Config.Encode()) // a copy
	if err != nil {
		tn.t.Fatal(err)
	}
	next.Epoch++
	edit(next)
	change := &consortium.ConfigChange{Config: *next, Approvals: []consortium.Approval{consortium.Approve(tn.nodes[0].key, tn.genesis.Hash(), next)}}
	tn.nonce++
	r := &consortium.Record{Kind: consortium.KindConfig, Nonce: tn.nonce, Subject: consortium.SubjectConfig, MediaType: consortium.MediaTypeConfig, Body: change.Encode()}
	r.Sign(tn.nodes[0].key, tn.genesis.Hash())
	return tn.gossip(r.Encode())
}

// Validators come and go in the middle of the work, the leader too.
func TestValidatorsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		tn.start()
		tn.await(tn.submit(50))

		fourth := tn.newNode(ledgertest.Key("fourth"))
		tn.mu.Lock()
		tn.nodes = append(tn.nodes, fourth)
		tn.mu.Unlock()
		ids := tn.submit(100)
		id := tn.change(func(c *consortium.Config) {
			c.Validators = append(c.Validators, consortium.Validator{ID: c.NextID, Key: consortium.PublicKeyOf(fourth.key), Name: "fourth"})
			c.NextID++
		})
		tn.await(append(ids, id))
		if err := fourth.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		fourth.start()
		tn.await(tn.submit(100))
		tn.nodes[2].stop() // three of four are a quorum, with the new one
		tn.await(tn.submit(50))
		tn.nodes[2].start()
		tn.await(tn.submit(50))

		id = tn.change(func(c *consortium.Config) { c.Validators = c.Validators[1:] })
		tn.await([]chain.Hash{id})
		first := tn.nodes[0]
		<-first.ended
		if first.end != nil || first.engine.Leader() != 0 {
			t.Errorf("the removed leader: %v, leader %d", first.end, first.engine.Leader())
		}
		first.stop()
		tn.await(tn.submit(100))
		if err := first.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		tn.stop()
	})
}
