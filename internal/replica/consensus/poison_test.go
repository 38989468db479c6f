package consensus

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// Two nodes on one tip judge alike, whatever each went through: one has seen
// most records before and remembers that it verified them, and wrote down
// rejections; the other has verified nothing and was started again.
func TestNodesOfDifferentPastsAgree(t *testing.T) {
	for seed := range seeds(1) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		c := ledgertest.New(t, 4)
		genesis := c.Genesis().Hash()
		seen := map[chain.Hash]bool{}
		oldHand, err := ledger.Open(ledger.Options{Dir: "l", FS: vfs.NewMem(), Log: testLog(t), Verified: func(id chain.Hash) bool { return seen[id] }})
		if err != nil {
			t.Fatal(err)
		}
		if err := oldHand.Init(c.Genesis()); err != nil {
			t.Fatal(err)
		}
		disk := vfs.NewMem()
		fresh := func() *ledger.Ledger {
			l, err := ledger.Open(ledger.Options{Dir: "l", FS: disk, Log: testLog(t)})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		newcomer := fresh()
		if err := newcomer.Init(c.Genesis()); err != nil {
			t.Fatal(err)
		}
		var old [][]byte
		for round := range 60 {
			if rnd.IntN(10) == 0 {
				if err := newcomer.Close(); err != nil {
					t.Fatal(err)
				}
				newcomer = fresh()
			}
			height := oldHand.Tip().Head.Height + 1
			pool := randomPool(rnd, c, old, height)
			for i, raw := range pool {
				if rnd.IntN(4) == 0 && len(raw) > 0 { // a mutation of any byte
					raw = bytes.Clone(raw)
					raw[rnd.IntN(len(raw))] ^= 1 << rnd.IntN(8)
					pool[i] = raw
				}
				if r, err := consortium.DecodeRecord(raw); err == nil && r.Verify(genesis) == nil && rnd.IntN(2) == 0 {
					seen[recordID(raw)] = true // as the mempool notes it
				}
				if rnd.IntN(5) == 0 {
					if _, err := oldHand.Reject(ledger.Refused{ID: recordID(raw), Reason: "expired", Detail: "by itself"}); err != nil {
						t.Fatal(err)
					}
				}
			}
			md := metadata(t, rnd.Uint64N(9), height)
			now := time.UnixMilli(int64(timeOf(oldHand.Tip()))).Add(time.Duration(rnd.IntN(4000)) * time.Millisecond)
			h1, b1, bad1, err1 := assemble(oldHand.Tip(), genesis, md, pool, now, oldHand.Committable)
			h2, b2, bad2, err2 := assemble(newcomer.Tip(), genesis, md, pool, now, newcomer.Committable)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			p := propose(h1, b1)
			if q := propose(h2, b2); p.Digest() != q.Digest() || len(bad1) != len(bad2) {
				t.Fatalf("seed %d, round %d: they propose other blocks of one pool: %d and %d records, %d and %d refused", seed, round, b1.Records(), b2.Records(), len(bad1), len(bad2))
			}
			for i, who := range []*ledger.Ledger{oldHand, newcomer} {
				if _, err := verified(who.Tip(), genesis, p, now, who.Committable); err != nil {
					t.Fatalf("seed %d, round %d: node %d refuses an honest block: %v", seed, round, i, err)
				}
			}
			// What is not to be in a block is refused by both.
			tampered := p
			if len(pool) > 0 {
				extra := consortium.Body(consortium.Pack(append(slices.Concat(recordsOf(b1)...), pool[rnd.IntN(len(pool))])))
				h := *h1
				h.Records, h.Subtrees, h.BodyBytes, h.Root = uint32(extra.Records()), uint16(len(extra)), uint32(extra.Size()), consortium.BlockRoot(extra.SubtreeIDs())
				tampered = propose(&h, extra)
			}
			_, errA := verified(oldHand.Tip(), genesis, tampered, now, oldHand.Committable)
			_, errB := verified(newcomer.Tip(), genesis, tampered, now, newcomer.Committable)
			if (errA == nil) != (errB == nil) {
				t.Fatalf("seed %d, round %d: one takes what the other refuses: %v, %v", seed, round, errA, errB)
			}
			block := c.Next(slices.Concat(recordsOf(b1)...)...)
			for _, l := range []*ledger.Ledger{oldHand, newcomer} {
				if err := l.Append(block, "sync", ""); err != nil {
					t.Fatal(err)
				}
			}
			old = append(old, slices.Concat(recordsOf(b1)...)...)
		}
		for _, l := range []*ledger.Ledger{oldHand, newcomer} {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// openDoor is a pool that gives out once what is put into it, whatever it is.
type openDoor struct {
	Pool
	mu    sync.Mutex
	extra [][]byte
}

func (o *openDoor) put(raws [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.extra = append(o.extra, raws...)
}

func (o *openDoor) Next(most, maxBytes int, skip func(chain.Hash) bool) [][]byte {
	o.mu.Lock()
	extra := o.extra
	o.extra = nil
	o.mu.Unlock()
	return append(extra, o.Pool.Next(most, maxBytes, skip)...)
}

// Records that pass the door and fail at the tip are in every library's pool,
// and neither stall the chain nor cost a view.
func TestPoisonNeverStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(8, 8))))
		var pools []*openDoor
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
			n.feed = func(p Pool) Pool {
				pools = append(pools, &openDoor{Pool: p})
				return pools[len(pools)-1]
			}
		}
		tn.start()
		first := tn.submit(3)
		tn.await(first)
		for round := range 30 {
			height := tn.nodes[0].ledger.Tip().Head.Height
			var poison [][]byte
			for i := range 5 { // of which some end before they can be ordered
				tn.nonce++
				r := &consortium.Record{Nonce: tn.nonce, NotAfter: height + 1 + uint64(i%2), Subject: "short", MediaType: "text/plain"}
				r.Sign(tn.author, tn.genesis.Hash())
				poison = append(poison, r.Encode())
			}
			if b, err := tn.nodes[0].ledger.Block(1 + uint64(round)%height); err == nil { // late gossip
				poison = append(poison, slices.Concat(recordsOf(b.Body)...)...)
			}
			for _, p := range pools {
				p.put(poison)
			}
			forged := bytes.Clone(poison[0])
			forged[len(forged)-1] ^= 1
			for _, raw := range [][]byte{forged, []byte("no record")} { // nobody feeds these
				_ = tn.nodes[0].engine.live.Load().bft.SubmitRequest(raw)
			}
			if round%10 == 5 { // two changes of one epoch: one of them is stale then
				tn.change(func(c *consortium.Config) { c.Params.AuthorPending++ })
				tn.change(func(c *consortium.Config) { c.Params.AuthorPending += 2 })
			}
			began := time.Now()
			tn.await(tn.submit(5))
			if d := time.Since(began); d > time.Second {
				t.Errorf("round %d: good records waited for %v", round, d)
			}
			for _, n := range tn.nodes {
				n.pool.Sweep(n.ledger.Tip().Head.Height+1, time.Now())
			}
		}
		time.Sleep(10 * time.Second)
		for _, n := range tn.nodes {
			if view, _, _, _ := n.engine.State(); view != 0 {
				t.Errorf("%s is in view %d\n%s", n.id.ShortString(), view, n.told.String())
			}
		}
		tn.stop()
	})
}

// SendTransaction does nothing: records are with all validators, so a dead
// leader that was given some first loses none.
func TestDeadLeaderLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		ids := tn.submit(200)
		tn.nodes[0].kill()
		tn.await(append(ids, tn.submit(20)...))
		tn.stop()
	})
}

// A validator that reads nothing costs the others nothing but a bounded queue,
// and one that floods costs them nothing but its own stream.
func TestSlowAndFloodingValidators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		for _, n := range tn.nodes[:3] {
			n.start()
		}
		tn.await(tn.submit(1))
		stuck := tn.nodes[3]
		ctx, cancel := context.WithCancel(t.Context())
		stuck.ctx, stuck.unread = ctx, true
		tn.mu.Lock()
		tn.live[stuck.id] = stuck
		tn.mu.Unlock()
		for range 20 {
			running := tn.nodes[:3]
			ids := tn.submitTo(running, 50)
			for _, n := range running {
				n.until(func() bool { return n.hasAll(ids) })
				o := n.engine.live.Load().peers.out[4]
				o.mu.Lock()
				if len(o.queue) > outMessages || o.bytes > outBytes {
					t.Errorf("%d messages, %d bytes wait for who does not read", len(o.queue), o.bytes)
				}
				o.mu.Unlock()
			}
		}
		flood, end := attach(t, tn.nodes[0], stuck)
		var flooding sync.WaitGroup
		flooding.Go(func() {
			fine, _ := samples(t)
			for i := 0; ctx.Err() == nil; i++ {
				if wire.WriteFrame(flood, encode(t, fine[i%len(fine)])) != nil {
					return
				}
				time.Sleep(10 * time.Microsecond)
			}
		})
		for range 10 {
			began := time.Now()
			ids := tn.submitTo(tn.nodes[:3], 50)
			for _, n := range tn.nodes[:3] {
				n.until(func() bool { return n.hasAll(ids) })
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("during a flood 50 records took %v", d)
			}
		}
		tn.mu.Lock()
		delete(tn.live, stuck.id)
		tn.mu.Unlock()
		cancel()
		_ = flood.Close()
		<-end
		flooding.Wait()
		stuck.wg.Wait()
		tn.stop()
	})
}

// settings are derived from the chain's parameters, and rotation stays off.
func TestSettings(t *testing.T) {
	p := consortium.DefaultParams()
	p.HeartbeatMS, p.IntervalMS, p.BatchRecords, p.MaxBlockBytes = 500, 7, 33, 256<<10
	c := settings(3, p)
	if c.LeaderRotation || c.DecisionsPerLeader != 0 || c.SpeedUpViewChange || c.SyncOnStart || c.SelfID != 3 {
		t.Errorf("%+v", c)
	}
	if c.LeaderHeartbeatTimeout != 500*time.Millisecond || c.ViewChangeTimeout != time.Second || c.ViewChangeResendInterval != 250*time.Millisecond ||
		c.RequestBatchMaxInterval != 7*time.Millisecond || c.RequestBatchMaxCount != 33 || c.RequestBatchMaxBytes != 256<<10 {
		t.Errorf("%+v", c)
	}
	if c.RequestMaxBytes != consortium.MaxRecord || feedSize >= poolSize || c.RequestPoolSize != poolSize || c.RequestAutoRemoveTimeout < 24*time.Hour ||
		c.RequestPoolSubmitTimeout > 100*time.Millisecond || c.IncomingMessageBufferSize != 1000 {
		t.Errorf("%+v", c)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}
