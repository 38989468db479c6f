package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestLaterAllowsForClocks: a block from before the start frees no vote, even
// where its proposer's clock was as far ahead as all allow; nor does the first
// one above it.
func TestLaterAllowsForClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		w, s, _ := atWork(t, c)
		s.meet(chain.Peer{ID: "laggard"}, nil) // its head is ours: 0
		old := c.Build()
		old.Header.Time = uint64(time.Now().Add(8 * time.Second).UnixMilli())
		c.Seal(old)
		time.Sleep(3 * time.Second) // the restart, on a backup without that block
		later := w.later()
		go func() { _ = w.syncer.Follow(t.Context()) }()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if state := w.syncer.State().State; state != chainsync.Synced {
			t.Fatalf("it is %s", state)
		}
		later()
		if err := w.ledger.Append(old, "sync", ""); err != nil {
			t.Fatal(err)
		}
		if later() {
			t.Error("a block committed before the start frees the vote")
		}
		time.Sleep(consensus.ClockSkew)
		b := c.Build()
		b.Header.Height, b.Header.Prev, b.Header.Time = 2, old.Header.Hash(), uint64(time.Now().UnixMilli())
		c.Seal(b)
		if err := w.ledger.Append(b, "sync", ""); err != nil {
			t.Fatal(err)
		}
		if !later() {
			t.Error("two blocks, one of them new, free no vote")
		}
	})
}

// TestCertifiedNeedsOthers: the first validator to prove its head is not enough
// where a quorum takes more, and the highest head counts.
func TestCertifiedNeedsOthers(t *testing.T) {
	c := ledgertest.New(t, 4)
	w, s, _ := atWork(t, c)
	s.meet(chain.Peer{ID: "follower", Validated: chain.Head{Height: 9}}, nil)
	for i, want := range []bool{false, true} {
		id, err := c.Genesis().Config.Validators[i+1].Key.PeerID()
		if err != nil {
			t.Fatal(err)
		}
		s.meet(chain.Peer{ID: id, Validated: chain.Head{Height: uint64(7 - i)}}, nil)
		if at, enough := w.certified(w.ledger.Tip()); enough != want || at != 7 {
			t.Errorf("%d others: head %d, enough %t", i+1, at, enough)
		}
	}
}
