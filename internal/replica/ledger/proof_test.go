package ledger_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

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

// TestCheckFindsOthers plants a key that no ledger has, a tip that is not the
// blocks', and another genesis.
func TestCheckFindsOthers(t *testing.T) {
	for name, test := range map[string]struct {
		key    []byte
		change func(value []byte) []byte
		want   string
	}{
		"foreign key":        {[]byte("z"), func([]byte) []byte { return []byte("x") }, "none of a ledger's"},
		"records of the tip": {[]byte("m/tip"), func(v []byte) []byte { v[len(v)-1]++; return v }, "the stored tip is"},
		"genesis":            {[]byte("m/genesis"), func(v []byte) []byte { v[4] ^= 1; return v }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := ledgertest.New(t, 4)
			fs := vfs.NewMem()
			l := open(t, ledger.Options{FS: fs})
			if err := l.Init(c.Genesis()); err != nil {
				t.Fatal(err)
			}
			grow(t, c, l, 7)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			var value []byte
			if v, closer, err := db.Get(test.key); err == nil {
				value = bytes.Clone(v)
				if err := closer.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(db.Set(test.key, test.change(value), pebble.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
			l, err = ledger.Open(ledger.Options{Dir: "ledger", FS: fs, Log: slog.New(slog.DiscardHandler), ReadOnly: true})
			if err == nil {
				err = errors.Join(l.Check(t.Context(), nil), l.Close())
			}
			if corrupt, ok := errors.AsType[*ledger.CorruptError](err); !ok || !strings.Contains(corrupt.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestVerifyTipFinds breaks what a forged backup would have to forge.
func TestVerifyTipFinds(t *testing.T) {
	for name, key := range map[string][]byte{
		"certificate of the tip":    {'q', 0, 0, 0, 0, 0, 0, 0, 7},
		"config in force":           {'c', 0, 0, 0, 0, 0, 0, 0, 1},
		"certificate of the config": {'q', 0, 0, 0, 0, 0, 0, 0, 5},
		"record of the config":      {'b', 0, 0, 0, 0, 0, 0, 0, 5, 0, 0},
		"header of the config":      {'h', 0, 0, 0, 0, 0, 0, 0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			c := ledgertest.New(t, 4)
			fs := vfs.NewMem()
			l := open(t, ledger.Options{FS: fs})
			if err := l.Init(c.Genesis()); err != nil {
				t.Fatal(err)
			}
			grow(t, c, l, 7)
			if err := errors.Join(l.VerifyTip(), l.Close()); err != nil {
				t.Fatal(err)
			}
			db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			v, closer, err := db.Get(key)
			if err != nil {
				t.Fatal(err)
			}
			v = bytes.Clone(v)
			v[len(v)-10] ^= 1 // of a config: its params
			if err := errors.Join(closer.Close(), db.Set(key, v, pebble.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
			l, err = ledger.Open(ledger.Options{Dir: "ledger", FS: fs, Log: slog.New(slog.DiscardHandler), ReadOnly: true})
			if err == nil {
				err = errors.Join(l.VerifyTip(), l.Close())
			}
			if _, ok := errors.AsType[*ledger.CorruptError](err); !ok {
				t.Errorf("got %v", err)
			}
		})
	}
}
