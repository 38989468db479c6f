package ledger_test

import (
	"errors"
	"testing"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestProof proves every record of a chain whose set of validators changed.
func TestProof(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := start(t, c)
	if err := l.VerifyTip(); err != nil {
		t.Fatal(err)
	}
	blocks := grow(t, c, l, 7)
	for _, b := range append(blocks, c.Next(records(c, 600, 64)...)) {
		if b.Header.Height > l.Tip().Head.Height {
			appendBlock(t, l, b)
		}
		if err := l.VerifyTip(); err != nil {
			t.Fatal(err)
		}
		index := 0
		for s, sub := range b.Body {
			for i, id := range sub.IDs() {
				p, err := l.Proof(id)
				if err != nil {
					t.Fatal(err)
				}
				got, err := consortium.VerifyProof(p, c.Genesis().Hash())
				if err != nil {
					t.Fatalf("block %d record %d: %v", b.Header.Height, index, err)
				}
				if got.ID != id || got.Header.Height != b.Header.Height || got.Subtree != s || got.Index != i {
					t.Fatalf("block %d record %d: proven is %+v", b.Header.Height, index, got)
				}
				if at, ok := got.Position(); ok && at != index {
					t.Fatalf("block %d record %d: proven at %d", b.Header.Height, index, at)
				}
				index++
			}
		}
	}
	if _, err := l.Proof(chain.Hash{1}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("unknown record: %v", err)
	}
}
