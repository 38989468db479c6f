package chainsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// grow appends n blocks of one record each, every tenth empty, and returns them.
func grow(tb testing.TB, c *ledgertest.Chain, l *ledger.Ledger, n int) []*consortium.Block {
	tb.Helper()
	var blocks []*consortium.Block
	for range n {
		var records [][]byte
		if (c.Head().Height+1)%10 != 0 {
			records = append(records, c.Record(fmt.Sprint("thing ", c.Head().Height), []byte("body")))
		}
		blocks = append(blocks, put(tb, l, c.Next(records...)))
	}
	return blocks
}

func put(tb testing.TB, l *ledger.Ledger, b *consortium.Block) *consortium.Block {
	tb.Helper()
	if err := l.Append(b, "own", ""); err != nil {
		tb.Fatal(err)
	}
	return b
}

func announcement(b *consortium.Block) wire.BlockAnnouncement {
	return wire.BlockAnnouncement{Header: b.Header.Encode(), Certificate: b.Certificate.Encode(), Subtrees: b.Body.SubtreeIDs()}
}

func sameChain(t *testing.T, a, b *ledger.Ledger) {
	t.Helper()
	if a.Tip().Head != b.Tip().Head {
		t.Fatalf("heads %v and %v", a.Tip().Head, b.Tip().Head)
	}
	if a.Tip().Records != b.Tip().Records {
		t.Fatalf("records %d and %d", a.Tip().Records, b.Tip().Records)
	}
	for h := uint64(1); h <= a.Tip().Head.Height; h += 97 {
		x, errX := a.Block(h)
		y, errY := b.Block(h)
		if errX != nil || errY != nil || x.Header.Hash() != y.Header.Hash() ||
			!slices.Equal(consortium.EncodeBody(x.Body), consortium.EncodeBody(y.Body)) {
			t.Fatalf("block %d differs: %v %v", h, errX, errY)
		}
	}
}

func noCharges(t *testing.T, nd *node) {
	t.Helper()
	nd.mu.Lock()
	defer nd.mu.Unlock()
	if len(nd.charges) > 0 {
		t.Errorf("honest peers were charged: %v", nd.charges)
	}
}

func TestNewcomerSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 3)
		full := openLedger(t, c, nil)
		grow(t, c, full, 2000)
		n := &lan{tb: t}
		newcomer := n.join(c, nil)
		var servers []*node
		for range 3 {
			servers = append(servers, n.join(c, full))
		}
		sub := newcomer.bus.Subscribe()
		defer sub.Close()
		stop := newcomer.follow()
		newcomer.await(2000)
		synctest.Wait()
		sameChain(t, full, newcomer.ledger)
		noCharges(t, newcomer)
		if s := newcomer.State(); s.State != Synced || s.LagBlocks != 0 || s.Target != 2000 {
			t.Errorf("state %+v", s)
		}
		for _, s := range servers {
			if newcomer.validated[s.id] != full.Tip().Head {
				t.Errorf("head of %s not validated: %v", s.id, newcomer.validated[s.id])
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var states []string
		from := map[string]bool{}
		for {
			events, _ := sub.Take(1024)
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				switch e := e.Data.(type) {
				case event.SyncChanged:
					states = append(states, e.State)
				case event.BlockStored:
					if e.Source != "sync" {
						t.Errorf("block %d from source %q", e.Height, e.Source)
					}
					from[e.From.String()] = true
				}
			}
		}
		if len(states) == 0 || states[len(states)-1] != Synced {
			t.Errorf("states on the bus: %v", states)
		}
		if len(from) < 2 {
			t.Errorf("bodies came from %d peers", len(from))
		}
	})
}

// TestBadPeers: the result is right, and exactly the bad ones are charged.
func TestBadPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 4)
		full := openLedger(t, c, nil)
		for range 60 { // pieces of several blocks, so that each peer gets some
			var records [][]byte
			for range 5 {
				records = append(records, c.Record("thing", make([]byte, 10_000)))
			}
			put(t, full, c.Next(records...))
		}
		n := &lan{tb: t}
		newcomer := n.join(c, nil)
		honest := []*node{n.join(c, full), n.join(c, full)}
		stalling, lying, forging, cutting := n.join(c, full), n.join(c, full), n.join(c, full), n.join(c, full)
		stalling.handle = stallBodies(stalling.handle)
		lying.handle = lieBodies(full)
		forging.handle = forgeHeaders(full)
		cutting.handle = cutBodies(full)
		stop := newcomer.follow()
		newcomer.await(60)
		time.Sleep(20 * time.Second) // for late timeouts
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		sameChain(t, full, newcomer.ledger)
		for _, h := range honest {
			if got := newcomer.charged(h); len(got) > 0 {
				t.Errorf("honest peer charged with %v", got)
			}
		}
		for _, bad := range []struct {
			name string
			node *node
			want chain.Offence
		}{
			{"lying", lying, chain.InvalidBlock}, {"forging", forging, chain.ForgedBlock}, {"cutting", cutting, chain.InvalidBlock},
		} {
			if got := newcomer.charged(bad.node); !slices.Equal(got, []chain.Offence{bad.want}) {
				t.Errorf("%s peer charged with %v, want %s", bad.name, got, bad.want)
			}
		}
		for _, o := range newcomer.charged(stalling) {
			if o != chain.Timeout && o != chain.Stall {
				t.Errorf("stalling peer charged with %s", o)
			}
		}
	})
}

// TestStallIsCharged: with nobody else to win the race, silence is charged and
// does not keep the node from its next peer.
func TestStallIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		full := openLedger(t, c, nil)
		grow(t, c, full, 20)
		n := &lan{tb: t}
		newcomer, stalling := n.join(c, nil), n.join(c, full)
		stalling.handle = stallBodies(stalling.handle)
		stop := newcomer.follow()
		time.Sleep(10 * time.Second)
		if got := newcomer.charged(stalling); !slices.Equal(got, []chain.Offence{chain.Timeout}) {
			t.Errorf("charged with %v", got)
		}
		n.join(c, full)
		newcomer.bus.Publish(event.PeerReady{})
		newcomer.await(20)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 3)
		full := openLedger(t, c, nil)
		grow(t, c, full, 300)
		n := &lan{tb: t}
		newcomer := n.join(c, nil)
		n.join(c, full)
		stop := newcomer.follow()
		newcomer.await(100)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		at := newcomer.height()
		if at == 300 {
			t.Log("was done before it could be stopped")
		}
		if err := newcomer.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.wg.Wait()
		sameChain(t, full, newcomer.ledger)
		noCharges(t, newcomer)
	})
}

// TestConfigChanges: a new validator set, and then a config that keeps the
// set, in the middle of the chain.
func TestConfigChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		full := openLedger(t, c, nil)
		grow(t, c, full, 30)
		put(t, full, c.Next(c.ConfigRecord(func(cfg *consortium.Config) {
			for range 3 {
				c.AddValidator(cfg)
			}
		})))
		grow(t, c, full, 30)
		put(t, full, c.Next(c.ConfigRecord(func(cfg *consortium.Config) { cfg.Params.BatchRecords = 100 })))
		grow(t, c, full, 30)
		put(t, full, c.Next(c.ConfigRecord(func(cfg *consortium.Config) { cfg.Validators = cfg.Validators[:3] })))
		n := &lan{tb: t}
		newcomer := n.join(c, nil)
		server := n.join(c, full)
		if err := newcomer.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameChain(t, full, newcomer.ledger)
		if e := newcomer.ledger.Tip().Config.Epoch; e != 3 {
			t.Errorf("epoch %d", e)
		}
		noCharges(t, newcomer)
		if newcomer.validated[server.id].Height != 93 {
			t.Errorf("validated %v", newcomer.validated[server.id])
		}
		n.wg.Wait()
	})
}

func TestCatchUpAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		n := &lan{tb: t}
		nd := n.join(c, nil)
		start := time.Now()
		if err := nd.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.join(c, nil) // at height 0, like us
		if err := nd.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		hung := n.join(c, nil)
		hung.handle = func(_ context.Context, st chain.Stream) error { return hang(st) }
		if err := nd.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("took %s", d)
		}
		n.wg.Wait()
	})
}

func TestCatchUpIsExclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		n := &lan{tb: t}
		nd := n.join(c, nil)
		stop := nd.follow()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := nd.CatchUp(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("CatchUp beside Follow: %v", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestForkHalts: two certified blocks of one height end Follow.
func TestForkHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		full := openLedger(t, c, nil)
		n := &lan{tb: t}
		nd := n.join(c, nil)
		n.join(c, full)
		other := c.Build(c.Record("other", nil))
		grow(t, c, full, 5)
		stop := nd.follow()
		nd.await(5)
		synctest.Wait()
		if err := nd.Announced(t.Context(), n.nodes[1].id, announcement(other)); !errors.Is(err, ledger.ErrFork) {
			t.Errorf("announcement of a fork: %v", err)
		}
		synctest.Wait()
		if err := stop(); !errors.Is(err, ledger.ErrFork) {
			t.Errorf("Follow ended with %v", err)
		}
		if err := nd.CatchUp(t.Context()); !errors.Is(err, ledger.ErrFork) {
			t.Errorf("CatchUp after a fork: %v", err)
		}
	})
}
