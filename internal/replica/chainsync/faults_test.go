package chainsync

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// tally counts the bodies that handlers were asked for, by height.
type tally struct {
	mu    sync.Mutex
	asked map[uint64]int
}

// counts wraps a handler; each answer takes a while, as on a real path.
func (c *tally) counts(serve handler, takes time.Duration) handler {
	return func(ctx context.Context, st chain.Stream) error {
		req, err := readRequest(st)
		if err != nil {
			return err
		}
		if req.Kind == wire.SyncBodies {
			time.Sleep(takes)
			c.mu.Lock()
			for h := req.From; h < req.From+uint64(req.Count); h++ {
				c.asked[h]++
			}
			c.mu.Unlock()
		}
		return serve(ctx, again(st, req))
	}
}

// bigBlocks appends n blocks of about 50 kB, so that each piece has a few.
func bigBlocks(t *testing.T, c *ledgertest.Chain, l *ledger.Ledger, n int) {
	for range n {
		put(t, l, c.Next(someRecords(c, 5, 10_000)...))
	}
}

// TestBadPeersCostTime: beside three honest peers, one that stalls, one that
// lies and one that is slow cost a second or two, whatever the length.
func TestBadPeersCostTime(t *testing.T) {
	run := func(t *testing.T, bad bool) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			c := ledgertest.New(t, 4)
			full := openLedger(t, c, nil)
			bigBlocks(t, c, full, 240)
			n := &lan{tb: t}
			newcomer := n.join(c, nil)
			served := &tally{asked: map[uint64]int{}}
			for range 3 {
				h := n.join(c, full)
				h.handle = served.counts(h.handle, 100*time.Millisecond)
			}
			var lying *node
			if bad {
				stalling, slow := n.join(c, full), n.join(c, full)
				stalling.handle = stallBodies(stalling.handle)
				slow.handle = (&tally{asked: map[uint64]int{}}).counts(slow.handle, 1500*time.Millisecond)
				lying = n.join(c, full)
				lying.handle = lieBodies(full)
			}
			start := time.Now()
			stop := newcomer.follow()
			newcomer.await(240)
			took = time.Since(start)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			sameChain(t, full, newcomer.ledger)
			if lying != nil && !slices.Contains(newcomer.charged(lying), chain.InvalidBlock) {
				t.Errorf("the liar was charged with %v", newcomer.charged(lying))
			}
			twice := 0
			for _, times := range served.asked {
				twice += times - 1
			}
			if twice > 80 {
				t.Errorf("%d of 240 bodies were asked for again", twice)
			}
		})
		return took
	}
	clean, attacked := run(t, false), run(t, true)
	t.Logf("clean %s, with three bad peers %s", clean, attacked)
	if attacked > clean+2500*time.Millisecond {
		t.Errorf("with three bad peers %s, without %s", attacked, clean)
	}
}

// TestResumeAfterCrash: the power fails in the middle of a sync. What was
// appended stays and is not asked for again.
func TestResumeAfterCrash(t *testing.T) {
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			c := ledgertest.New(t, 4)
			full := openLedger(t, c, nil)
			bigBlocks(t, c, full, 200)
			fs := vfs.NewCrashableMem()
			open := func(fs vfs.FS) (*ledger.Ledger, *event.Bus) {
				bus := event.NewBus(4096)
				l, err := ledger.Open(ledger.Options{Dir: "ledger", FS: fs, Bus: bus, Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = l.Close() })
				return l, bus
			}
			l, bus := open(fs)
			if err := l.Init(c.Genesis()); err != nil {
				t.Fatal(err)
			}
			n := &lan{tb: t}
			served := &tally{asked: map[uint64]int{}}
			for range 3 {
				h := n.join(c, full)
				h.handle = served.counts(h.handle, 50*time.Millisecond)
			}
			first := n.joinOn(l, bus)
			stop := first.follow()
			first.await(30 + 80*seed)
			at := first.height()
			after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 2))})
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			n.drop(first)
			served.mu.Lock()
			served.asked = map[uint64]int{}
			served.mu.Unlock()

			l, bus = open(after)
			second := n.joinOn(l, bus)
			tip := second.height()
			if tip < at {
				t.Fatalf("height %d after the crash, %d was appended", tip, at)
			}
			stop = second.follow()
			second.await(200)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			sameChain(t, full, l)
			if err := l.Check(t.Context(), nil); err != nil {
				t.Error(err)
			}
			for h, times := range served.asked {
				if h <= tip || times > maxAskers {
					t.Errorf("body %d was asked for %d times, the tip was %d", h, times, tip)
				}
			}
			noCharges(t, second)
		})
	}
}

// TestManyEpochs: the set changes again and again in the middle of a sync, in
// steps that share no majority with where it began, and bad peers are there.
func TestManyEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		full := openLedger(t, c, nil)
		for i := range 12 {
			grow(t, c, full, 15)
			put(t, full, c.Next(c.ConfigRecord(func(cfg *consortium.Config) {
				if c.AddValidator(cfg); i > 6 {
					cfg.Validators = cfg.Validators[1:] // the old ones go
				}
			})))
		}
		grow(t, c, full, 5)
		n := &lan{tb: t}
		newcomer := n.join(c, nil)
		honest := []*node{n.join(c, full), n.join(c, full), n.join(c, full)}
		lying, forging := n.join(c, full), n.join(c, full)
		lying.handle, forging.handle = lieBodies(full), forgeHeaders(full)
		start := time.Now()
		stop := newcomer.follow()
		newcomer.await(full.Tip().Head.Height)
		took := time.Since(start)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		sameChain(t, full, newcomer.ledger)
		if e := newcomer.ledger.Tip().Config.Epoch; e != 12 {
			t.Errorf("epoch %d", e)
		}
		for _, h := range honest {
			if got := newcomer.charged(h); len(got) > 0 {
				t.Errorf("honest peer charged with %v", got)
			}
		}
		if took > 30*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestBrokenRule: a certified block that our rules refuse ends the sync, and is
// not the fault of who served it.
func TestBrokenRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		all := func(chain.Hash) bool { return true }
		full, err := ledger.Open(ledger.Options{Dir: "ledger", FS: vfs.NewMem(), Log: slog.New(slog.DiscardHandler), Verified: all})
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		if err := full.Init(c.Genesis()); err != nil {
			t.Fatal(err)
		}
		grow(t, c, full, 3)
		put(t, full, c.Next(ledgertest.New(t, 1).Record("signed for another chain", nil)))
		n := &lan{tb: t}
		newcomer := n.join(c, nil)
		n.join(c, full)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var bad *chain.InvalidError
		if err := newcomer.Follow(ctx); !errors.As(err, &bad) || bad.Offence != chain.InvalidBlock {
			t.Errorf("ended by %v", err)
		}
		if newcomer.height() != 3 {
			t.Errorf("height %d", newcomer.height())
		}
		noCharges(t, newcomer)
		n.wg.Wait()
	})
}
