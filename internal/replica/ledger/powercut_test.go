package ledger

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// What Append answered is there after a power cut that takes all that was not
// synced, the entries of new directories too.
func TestPowerCut(t *testing.T) {
	disk := vfs.NewCrashableMem()
	open := func(disk vfs.FS) *Ledger {
		t.Helper()
		l, err := Open(Options{Dir: "/a/b/ledger", FS: disk, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	c := ledgertest.New(t, 4)
	l := open(disk)
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Append(c.Next(c.Record("x", nil)), "own", ""); err != nil {
			t.Fatal(err)
		}
		after := open(disk.CrashClone(vfs.CrashCloneCfg{}))
		if after.Genesis() == nil || after.Tip().Head != l.Tip().Head {
			t.Fatalf("after a power cut the head is %v, want %v", after.Tip().Head, l.Tip().Head)
		}
		if err := after.Check(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
}
