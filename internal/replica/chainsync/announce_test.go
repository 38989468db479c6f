package chainsync

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

func wantInvalid(t *testing.T, err error, o chain.Offence) {
	t.Helper()
	var bad *chain.InvalidError
	if !errors.As(err, &bad) || bad.Offence != o {
		t.Errorf("%v, want %s", err, o)
	}
}

// TestAnnouncedBlock: the next block is fetched at once, from whoever told of
// it, and what follows it may be told before it is here.
func TestAnnouncedBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 3)
		full := openLedger(t, c, nil)
		grow(t, c, full, 5)
		n := &lan{tb: t}
		follower := n.join(c, nil)
		n.join(c, nil)
		source := n.join(c, full)
		stop := follower.follow()
		follower.await(5)
		synctest.Wait()
		sub := follower.bus.Subscribe()
		defer sub.Close()
		start := time.Now()
		for range 3 {
			b := put(t, full, c.Next(c.Record("thing", nil)))
			if err := follower.Announced(t.Context(), source.id, announcement(b)); err != nil {
				t.Fatal(err)
			}
			if err := follower.Announced(t.Context(), source.id, announcement(b)); !errors.Is(err, chain.ErrKnown) {
				t.Errorf("announced twice: %v", err)
			}
		}
		follower.await(8)
		if d := time.Since(start); d > 10*time.Millisecond {
			t.Errorf("took %s of virtual time", d)
		}
		synctest.Wait()
		stored := 0
		events, _ := sub.Take(1024)
		for _, e := range events {
			switch e := e.Data.(type) {
			case event.BlockStored:
				if stored++; e.Source != "gossip" || e.From != source.id {
					t.Errorf("block %d by %q from %s", e.Height, e.Source, e.From)
				}
			case event.SyncChanged:
				if e.State != Synced {
					t.Errorf("following made the state %q", e.State)
				}
			}
		}
		if stored != 3 {
			t.Errorf("%d blocks stored", stored)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		noCharges(t, follower)
	})
}

// TestAnnouncedAlongALine: each node sees the next one only, hears of a block
// before its neighbour has the body, and still gets it in no time.
func TestAnnouncedAlongALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		n := &lan{tb: t}
		nodes := []*node{n.join(c, nil), n.join(c, nil), n.join(c, nil)}
		for i, nd := range nodes {
			if i > 0 {
				nd.sees = nodes[i-1 : i]
			}
			nd.narrow = true
		}
		stops := []func() error{nodes[1].follow(), nodes[2].follow()}
		synctest.Wait()
		b := c.Next(c.Record("thing", nil))
		for i := 2; i > 0; i-- { // the far one hears first
			if err := nodes[i].Announced(t.Context(), nodes[i-1].id, announcement(b)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		start := time.Now()
		put(t, nodes[0].ledger, b)
		nodes[2].await(1)
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("took %s", d)
		}
		for i, stop := range stops {
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			noCharges(t, nodes[i+1])
		}
	})
}

// TestStallingAnnouncer: who tells of each block first and serves none is left
// aside after a few of them.
func TestStallingAnnouncer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		full := openLedger(t, c, nil)
		n := &lan{tb: t}
		follower, stalling := n.join(c, nil), n.join(c, full)
		n.join(c, full)
		stalling.handle = stallBodies(stalling.handle)
		stop := follower.follow()
		synctest.Wait()
		late := 0
		for range 60 {
			b := put(t, full, c.Next(c.Record("thing", nil)))
			start := time.Now()
			if err := follower.Announced(t.Context(), stalling.id, announcement(b)); err != nil {
				t.Fatal(err)
			}
			follower.await(b.Header.Height)
			if time.Since(start) > 100*time.Millisecond {
				late++
			}
			time.Sleep(time.Second - time.Since(start))
		}
		if late == 0 || late > 10 {
			t.Errorf("%d of 60 blocks were late", late)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOrphanLeadsToSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 3)
		full := openLedger(t, c, nil)
		n := &lan{tb: t}
		follower, source := n.join(c, nil), n.join(c, full)
		stop := follower.follow()
		time.Sleep(time.Minute)
		synctest.Wait()
		grow(t, c, full, 39)
		b := put(t, full, c.Next(c.ConfigRecord(c.AddValidator)))
		start := time.Now()
		if err := follower.Announced(t.Context(), source.id, announcement(b)); !errors.Is(err, chain.ErrOrphan) {
			t.Fatalf("announcement of block 40: %v", err)
		}
		follower.await(40)
		if d := time.Since(start); d > 10*time.Millisecond {
			t.Errorf("took %s of virtual time", d)
		}
		// the set changed: what follows is judged by the new one
		next := put(t, full, c.Next(c.Record("thing", nil)))
		if err := follower.Announced(t.Context(), source.id, announcement(next)); err != nil {
			t.Fatal(err)
		}
		follower.await(41)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		noCharges(t, follower)
	})
}

func TestAnnouncedVerdicts(t *testing.T) {
	c := ledgertest.New(t, 4)
	stranger := ledgertest.New(t, 4)
	n := &lan{tb: t}
	nd := n.join(c, nil)
	from := testID(t, "somebody")
	blocks := grow(t, c, nd.ledger, 3)
	ctx := t.Context()

	next := c.Build(c.Record("thing", nil))
	forged := *next
	forged.Certificate.Votes = slices.Clone(next.Certificate.Votes)
	forged.Certificate.Votes[0].Sig[0] ^= 1
	wantInvalid(t, nd.Announced(ctx, from, announcement(&forged)), chain.ForgedBlock)
	few := *next
	few.Certificate.Votes = next.Certificate.Votes[:2]
	wantInvalid(t, nd.Announced(ctx, from, announcement(&few)), chain.ForgedBlock)
	wantInvalid(t, nd.Announced(ctx, from, announcement(stranger.Next())), chain.ForgedBlock)
	garbage := announcement(next)
	garbage.Header = garbage.Header[1:]
	wantInvalid(t, nd.Announced(ctx, from, garbage), chain.Malformed)

	// a block that our own engine committed is relayed once, not its forgery
	old := *blocks[1]
	old.Certificate = forged.Certificate
	wantInvalid(t, nd.Announced(ctx, from, announcement(&old)), chain.ForgedBlock)
	if err := nd.Announced(ctx, from, announcement(blocks[1])); err != nil {
		t.Errorf("first word of a stored block: %v", err)
	}
	old.Certificate.Votes = blocks[1].Certificate.Votes[1:]
	if err := nd.Announced(ctx, from, announcement(&old)); !errors.Is(err, chain.ErrKnown) {
		t.Errorf("second word of a stored block, by another quorum: %v", err)
	}
	lie := *blocks[1].Header
	lie.Time++
	wantInvalid(t, nd.Announced(ctx, from, announcement(&consortium.Block{Header: &lie, Certificate: blocks[1].Certificate, Body: blocks[1].Body})), chain.ForgedBlock)

	// headers may run ahead of the bodies
	for range 3 {
		if err := nd.Announced(ctx, from, announcement(c.Next(c.Record("thing", nil)))); err != nil {
			t.Fatal(err)
		}
	}
	c.Next()
	far := c.Next()
	if err := nd.Announced(ctx, from, announcement(far)); !errors.Is(err, chain.ErrOrphan) {
		t.Errorf("block with a gap before it: %v", err)
	}
	bad := *far
	bad.Certificate = forged.Certificate
	wantInvalid(t, nd.Announced(ctx, from, announcement(&bad)), chain.ForgedBlock)

	// ours to end, nobody's fault
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := nd.Announced(gone, from, announcement(far)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	noCharges(t, nd) // verdicts charge, Announced does not
}

// TestAnnouncedBehindConfig: what follows a change that is not in the ledger
// yet cannot be judged, and is not called a forgery.
func TestAnnouncedBehindConfig(t *testing.T) {
	for name, edit := range map[string]func(c *ledgertest.Chain) func(*consortium.Config){
		"set changes": func(c *ledgertest.Chain) func(*consortium.Config) { return c.AddValidator },
		"set stays": func(*ledgertest.Chain) func(*consortium.Config) {
			return func(cfg *consortium.Config) { cfg.Params.BatchRecords = 7 }
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := ledgertest.New(t, 1)
			n := &lan{tb: t}
			nd := n.join(c, nil)
			from := testID(t, "somebody")
			change := c.Next(c.ConfigRecord(edit(c)))
			if err := nd.Announced(t.Context(), from, announcement(change)); err != nil {
				t.Fatal(err)
			}
			next := c.Next(c.Record("thing", nil))
			if err := nd.Announced(t.Context(), from, announcement(next)); !errors.Is(err, chain.ErrOrphan) {
				t.Errorf("block behind the change: %v", err)
			}
			put(t, nd.ledger, change)
			if err := nd.Announced(t.Context(), from, announcement(next)); err != nil {
				t.Errorf("once the change is in force: %v", err)
			}
		})
	}
}
