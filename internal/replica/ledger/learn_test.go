package ledger_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// What a ledger learns of its chain, while blocks are appended and looked up,
// is never that it lacks a record.
func TestLearn(t *testing.T) {
	c := ledgertest.New(t, 4)
	disk := vfs.NewMem()
	var stored []chain.Hash
	grow := func(l *ledger.Ledger, blocks int) {
		for range blocks {
			raws := records(c, 40, 10)
			appendBlock(t, l, c.Next(raws...))
			for _, raw := range raws {
				stored = append(stored, consortium.RecordID(raw))
				if id := consortium.RecordID(raw); l.Lacks(id) || !l.Committed(id) {
					t.Fatalf("record %s is lacking behind its block", id)
				}
			}
		}
	}
	check := func(l *ledger.Ledger) {
		t.Helper()
		for _, id := range stored {
			if _, err := l.Place(id); l.Lacks(id) || !l.Committed(id) || err != nil {
				t.Fatalf("record %s is lacking: %v", id, err)
			}
		}
	}
	first := open(t, ledger.Options{FS: disk})
	if err := first.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	if !first.Lacks(chain.Hash{1}) {
		t.Error("a new ledger does not know that it is empty")
	}
	grow(first, 5)
	check(first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := open(t, ledger.Options{FS: disk})
	if second.Lacks(chain.Hash{1}) {
		t.Error("a ledger that has learned nothing knows what it lacks")
	}
	grow(second, 2) // they are seen by the scan only
	var learning sync.WaitGroup
	learning.Go(func() {
		if err := second.Learn(t.Context()); err != nil {
			t.Error(err)
		}
	})
	grow(second, 20) // by the scan, or added
	learning.Wait()
	if !second.Lacks(chain.Hash{1}) {
		t.Error("a ledger that has learned its ids does not know what it lacks")
	}
	grow(second, 2)
	check(second)
	if _, err := second.Place(chain.Hash{1}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("place of a record that is lacking: %v", err)
	}
}

// A scan that was cut short has learned nothing.
func TestLearnEndsEarly(t *testing.T) {
	c := ledgertest.New(t, 1)
	disk := vfs.NewMem()
	l := open(t, ledger.Options{FS: disk, Verified: func(chain.Hash) bool { return true }})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		appendBlock(t, l, c.Next(records(c, 1000, 1)...))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, ledger.Options{FS: disk})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Learn(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Learn: %v", err)
	}
	if l.Lacks(chain.Hash{1}) {
		t.Error("a ledger that has learned a part knows what it lacks")
	}
}
