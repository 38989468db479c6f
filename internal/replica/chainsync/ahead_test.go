package chainsync

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

func TestAhead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		serve  func(c *ledgertest.Chain, other *node) handler // nil: as it is
		kept   bool
		blocks int
		change bool // of the set, before the last block
		want   bool
		charge bool
	}{
		{name: "nobody has more"},
		{name: "one block more", blocks: 1, want: true},
		{name: "behind a change, by one we keep", blocks: 2, change: true, kept: true, want: true},
		{name: "behind a change, by a stranger", blocks: 2, change: true},
		{name: "forged", blocks: 1, charge: true, serve: func(_ *ledgertest.Chain, o *node) handler {
			return forgedHead(o.ledger)
		}},
		{name: "silent", blocks: 1, serve: func(*ledgertest.Chain, *node) handler {
			return func(_ context.Context, st chain.Stream) error { return hang(st) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := ledgertest.New(t, 3)
				n := &lan{tb: t}
				nd, other := n.join(c, nil), n.join(c, nil)
				for _, b := range grow(t, c, nd.ledger, 3) {
					put(t, other.ledger, b)
				}
				for i := range tt.blocks {
					if tt.change && i == 0 {
						put(t, other.ledger, c.Next(c.ConfigRecord(c.AddValidator)))
						continue
					}
					put(t, other.ledger, c.Next(c.Record("thing", nil)))
				}
				if tt.serve != nil {
					other.handle = tt.serve(c, other)
				}
				if tt.kept {
					nd.keeps = other
				}
				start := time.Now()
				if got := nd.Ahead(t.Context()); got != tt.want {
					t.Errorf("ahead: %t", got)
				}
				if d := time.Since(start); d > catchUpTime {
					t.Errorf("took %s", d)
				}
				if charged := len(nd.charged(other)) > 0; charged != tt.charge {
					t.Errorf("charges: %v", nd.charged(other))
				}
				n.wg.Wait()
			})
		})
	}
}

func forgedHead(l *ledger.Ledger) handler {
	return func(_ context.Context, st chain.Stream) error {
		if _, err := readRequest(st); err != nil {
			return err
		}
		h, cert, err := l.Header(l.Tip().Head.Height)
		if err != nil {
			return err
		}
		cert.Votes[0].Sig[0] ^= 1
		return wire.WriteFrame(st, wire.HeaderAnswer{Header: h.Encode(), Certificate: cert.Encode()}.Encode())
	}
}

// TestForkIsTold: a fork is told to who waits for it, whether an announcement
// or a peer's head shows it, also where no session appends.
func TestForkIsTold(t *testing.T) {
	fork := func(c *ledgertest.Chain) (ours, theirs *consortium.Block) {
		theirs = c.Build(c.Record("thing", nil))
		return c.Next(c.Record("another thing", nil)), theirs
	}
	t.Run("announced", func(t *testing.T) {
		c := ledgertest.New(t, 3)
		nd := (&lan{tb: t}).join(c, nil)
		ours, theirs := fork(c)
		put(t, nd.ledger, ours)
		end := make(chan error, 1)
		go func() { end <- nd.AwaitFork(t.Context()) }()
		if err := nd.Announced(t.Context(), testID(t, "somebody"), announcement(theirs)); !errors.Is(err, ledger.ErrFork) {
			t.Fatal(err)
		}
		if err := <-end; !errors.Is(err, ledger.ErrFork) {
			t.Errorf("halted by %v", err)
		}
	})
	t.Run("catching up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := ledgertest.New(t, 3)
			n := &lan{tb: t}
			nd, other := n.join(c, nil), n.join(c, nil)
			ours, theirs := fork(c)
			put(t, nd.ledger, theirs)
			put(t, other.ledger, ours)
			put(t, other.ledger, c.Next()) // its header shows the fork
			if err := nd.CatchUp(t.Context()); !errors.Is(err, ledger.ErrFork) {
				t.Fatal(err)
			}
			if err := nd.AwaitFork(t.Context()); !errors.Is(err, ledger.ErrFork) {
				t.Errorf("halted by %v", err)
			}
			n.wg.Wait()
		})
	})
	t.Run("none", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		nd := (&lan{tb: t}).join(ledgertest.New(t, 1), nil)
		if err := nd.AwaitFork(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
