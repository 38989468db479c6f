package ledger_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestCheckOn: a verification that a stop cuts off goes on near where it was,
// finds what a whole one finds, and begins anew on another backup.
func TestCheckOn(t *testing.T) {
	const stop, note = 300, 256
	blocks := uint64(400)
	c := ledgertest.New(t, 1)
	fs := vfs.NewMem()
	l := open(t, ledger.Options{FS: fs})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		if i%100 == 50 {
			appendBlock(t, l, c.Next(c.ConfigRecord(c.AddValidator)))
			continue
		}
		appendBlock(t, l, c.Next(records(c, int(i%3), 10)...))
	}
	if err := l.MarkRestored(); err != nil {
		t.Fatal(err)
	}
	run := func(end uint64) (first, last uint64, err error) { return checkOn(t, l, end) }
	reopen := func() {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, ledger.Options{FS: fs})
	}
	if first, last, err := run(stop); first != 1 || last != stop || !errors.Is(err, context.Canceled) {
		t.Fatalf("verified %d to %d: %v", first, last, err)
	}
	reopen()
	for range note { // the chain goes on meanwhile
		appendBlock(t, l, c.Next())
		blocks++
	}
	if first, last, err := run(0); first != note+1 || last != blocks || err != nil {
		t.Fatalf("verified %d to %d after the restart: %v", first, last, err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := l.SetVerified(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Unverified(); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("still unverified: %v", err)
	}
	if first, _, err := run(note + 1); first != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("once more from block %d: %v", first, err)
	}
	if err := l.MarkRestored(); err != nil { // what the donor verified, this node did not
		t.Fatal(err)
	}
	if first, _, err := run(note + 1); first != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("another backup from block %d: %v", first, err)
	}
}

// checkOn verifies until block end, and tells the first and last.
func checkOn(t *testing.T, l *ledger.Ledger, end uint64) (first, last uint64, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = l.CheckOn(ctx, func(done, total uint64) {
		if tip := l.Tip().Head.Height; total != tip {
			t.Errorf("block %d of %d, want %d", done, total, tip)
		}
		if first == 0 {
			first = done
		}
		if last = done; done == end {
			cancel()
		}
	})
	return first, last, err
}

// TestCheckOnFindsDamage: what is damaged above or beside the part that was
// verified before is found, and a note that is not of this chain counts nothing.
func TestCheckOnFindsDamage(t *testing.T) {
	const blocks, note = 300, 256
	for name, damage := range map[string]struct {
		spoil  func(db *pebble.DB) error
		height uint64
		first  uint64
	}{
		"a block above":           {func(db *pebble.DB) error { return db.Delete(key('h', note+20), pebble.Sync) }, note + 20, note + 1},
		"a note of another block": {func(db *pebble.DB) error { return otherByte(db, "m/verified", 8) }, 0, 1},
		"a note cut short":        {func(db *pebble.DB) error { return db.Set([]byte("m/verified"), []byte{1}, pebble.Sync) }, 0, 1},
		"a stray entry below": {func(db *pebble.DB) error {
			return db.Set(append([]byte{'t'}, make([]byte, 32)...), append(key(0, 7)[1:], 0, 0, 0, 9), pebble.Sync)
		}, 7, note + 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := ledgertest.New(t, 1)
			fs := vfs.NewMem()
			l := open(t, ledger.Options{FS: fs})
			if err := l.Init(c.Genesis()); err != nil {
				t.Fatal(err)
			}
			for range blocks {
				appendBlock(t, l, c.Next(records(c, 1, 10)...))
			}
			if err := l.MarkRestored(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := checkOn(t, l, note+1); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(damage.spoil(db), db.Close()); err != nil {
				t.Fatal(err)
			}
			l = open(t, ledger.Options{FS: fs})
			first, _, err := checkOn(t, l, 0)
			var bad *ledger.CorruptError
			if found := errors.As(err, &bad); found != (damage.height > 0) || found && bad.Height != damage.height || first != damage.first {
				t.Errorf("from block %d: %v; want damage at height %d from block %d", first, err, damage.height, damage.first)
			}
		})
	}
}

func key(kind byte, height uint64) []byte { return binary.BigEndian.AppendUint64([]byte{kind}, height) }

// otherByte changes the byte at an offset of a value.
func otherByte(db *pebble.DB, name string, offset int) error {
	v, closer, err := db.Get([]byte(name))
	if err != nil {
		return err
	}
	v = slices.Clone(v)
	v[offset] ^= 1
	return errors.Join(closer.Close(), db.Set([]byte(name), v, pebble.Sync))
}
