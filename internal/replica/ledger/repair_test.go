package ledger_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestRepair damages one key of each kind behind the ledger's back; the block
// that it belongs to, written once more, mends it.
func TestRepair(t *testing.T) {
	for _, kind := range "hqxbtsau" { // the config of the genesis is of no block
		for _, act := range []string{"flip", "delete"} {
			t.Run(string(kind)+" "+act, func(t *testing.T) {
				c := ledgertest.New(t, 4)
				fs := vfs.NewMem()
				l := open(t, ledger.Options{FS: fs})
				if err := l.Init(c.Genesis()); err != nil {
					t.Fatal(err)
				}
				grow(t, c, l, 7)
				var blocks []*consortium.Block
				for h := uint64(1); h <= 7; h++ {
					b, err := l.Block(h)
					if err != nil {
						t.Fatal(err)
					}
					blocks = append(blocks, b)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				damage(t, fs, byte(kind), act)
				l = open(t, ledger.Options{FS: fs})
				tip := l.Tip().Head
				var corrupt *ledger.CorruptError
				if err := l.Check(t.Context(), nil); !errors.As(err, &corrupt) {
					t.Fatalf("got %v", err)
				}
				for tries := 0; ; tries++ {
					if err := l.Repair(blocks[corrupt.Height-1]); err != nil {
						t.Fatal(err)
					}
					err := l.Check(t.Context(), nil)
					if err == nil {
						break
					}
					if !errors.As(err, &corrupt) || tries == 3 {
						t.Fatalf("after repair: %v", err)
					}
				}
				if l.Tip().Head != tip {
					t.Errorf("the tip went to %v", l.Tip().Head)
				}
				grow(t, c, l, 1)
			})
		}
	}
}

// TestRepairRefuses: only the block that the chain has is written, and only
// where the chain proves it.
func TestRepairRefuses(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := start(t, c)
	other := c.Build(c.Record("another", nil))
	grow(t, c, l, 3)
	b, err := l.Block(2)
	if err != nil {
		t.Fatal(err)
	}
	invalid := func(b *consortium.Block, want chain.Offence) {
		t.Helper()
		var bad *chain.InvalidError
		if err := l.Repair(b); !errors.As(err, &bad) || bad.Offence != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	invalid(other, chain.ForgedBlock)
	noBody := *b
	noBody.Body = nil
	invalid(&noBody, chain.InvalidBlock)
	noVotes := *b
	noVotes.Certificate.Votes = nil
	invalid(&noVotes, chain.ForgedBlock)
	if err := l.Repair(c.Next()); !errors.Is(err, chain.ErrOrphan) {
		t.Errorf("above the tip: %v", err)
	}
	if err := l.Repair(b); err != nil {
		t.Errorf("an intact block: %v", err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestRepairFlippedFile flips bytes in the files of the store, as a disk does:
// what can be read is right, what cannot is told, and repaired where Open
// still goes.
func TestRepairFlippedFile(t *testing.T) {
	c := ledgertest.New(t, 1)
	fs := vfs.NewCrashableMem()
	l := open(t, ledger.Options{FS: fs})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	var blocks []*consortium.Block
	for range 20 {
		b := c.Next(records(c, 10, 3000)...)
		appendBlock(t, l, b)
		blocks = append(blocks, b)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	table := flatten(t, fs) // all of it is synced
	size := len(readFile(t, fs, table))
	repaired := 0
	for at := size / 20; at < size*8/10; at += size / 9 {
		fs := fs.CrashClone(vfs.CrashCloneCfg{})
		flip(t, fs, table, at)
		l, err := ledger.Open(ledger.Options{Dir: "ledger", FS: fs, Log: slog.New(slog.DiscardHandler)})
		var corrupt *ledger.CorruptError
		if errors.As(err, &corrupt) {
			continue // told at the start: exit 78
		}
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		for range blocks {
			// Check would count: it meets what is damaged in the files for ever
			err := l.CheckLast(t.Context(), uint64(len(blocks))-1, nil)
			if err == nil {
				break
			}
			if !errors.As(err, &corrupt) || corrupt.Height == 0 {
				t.Fatalf("byte %d: %v", at, err)
			}
			if err := l.Repair(blocks[corrupt.Height-1]); err != nil {
				t.Fatalf("byte %d: %v", at, err)
			}
			repaired++
		}
		for h, want := range blocks {
			got, err := l.Block(uint64(h + 1))
			if err != nil || got.Header.Hash() != want.Header.Hash() || got.Body.Size() != want.Body.Size() {
				t.Errorf("byte %d: block %d: %v", at, h+1, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if repaired == 0 {
		t.Error("nothing was repaired: the test damages nothing")
	}
	t.Logf("%d blocks repaired", repaired)
}

// TestFinder: records come in any order, over subtrees and blocks, one of them
// damaged in the end.
func TestFinder(t *testing.T) {
	c := ledgertest.New(t, 1)
	l := start(t, c)
	want := map[chain.Hash]string{}
	for range 3 {
		list := records(c, 300, 20)
		appendBlock(t, l, c.Next(list...))
		for _, raw := range list {
			want[consortium.RecordID(raw)] = string(raw)
		}
	}
	f := l.Finder()
	for id, raw := range want { // in the order of a map
		if got, err := f.Record(id); err != nil || string(got) != raw {
			t.Fatalf("record %s: %v", id, err)
		}
		if got, _, _, err := l.RecordAt(id); err != nil || string(got) != raw {
			t.Fatalf("record %s: %v", id, err)
		}
	}
	if _, err := f.Record(chain.Hash{1}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("unknown record: %v", err)
	}
}

// flatten writes all keys into one table, and returns its name.
func flatten(t *testing.T, fs vfs.FS) string {
	t.Helper()
	db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Flush(), db.Compact(t.Context(), []byte{0}, []byte{0xff}, false), db.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("ledger")
	if err != nil {
		t.Fatal(err)
	}
	best, size := "", 0
	for _, n := range names {
		if len(n) > 4 && n[len(n)-4:] == ".sst" {
			if b := readFile(t, fs, n); len(b) > size {
				best, size = n, len(b)
			}
		}
	}
	if best == "" {
		t.Fatal("no table among ", names)
	}
	return best
}

func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open("ledger/" + name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func flip(t *testing.T, fs vfs.FS, name string, at int) {
	t.Helper()
	b := readFile(t, fs, name)
	b[at] ^= 0x10
	f, err := fs.Create("ledger/"+name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
