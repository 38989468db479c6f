package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestDamagedTable: a compaction that meets flipped bytes does not panic, for
// the supervisor would start the process for ever. It says what is damaged.
func TestDamagedTable(t *testing.T) {
	disk := vfs.NewMem()
	log := &storeLogger{log: slog.New(slog.DiscardHandler), broken: make(chan error, 1)}
	open := func() *pebble.DB {
		t.Helper()
		db, err := pebble.Open("store", storeOptions(disk, log))
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	fill := func(db *pebble.DB, value string) {
		t.Helper()
		for i := range 1000 {
			if err := db.Set(fmt.Appendf(nil, "b%d", i), []byte(value), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	db := open()
	fill(db, "old")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	flipFirst(t, disk, "store")
	db = open()
	fill(db, "new") // over the same keys, so that the damaged table is read to be rewritten
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- db.Compact(ctx, []byte("a"), []byte("c"), false) }() // pebble tries for ever
	l := &Ledger{dir: "store", store: log}
	var corrupt *CorruptError
	if err := l.Broken(t.Context()); !errors.As(err, &corrupt) || corrupt.Height != 0 {
		t.Errorf("got %v", err)
	}
	cancel()
	<-done
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// flipFirst damages the first block of the first table in dir.
func flipFirst(t *testing.T, disk vfs.FS, dir string) {
	t.Helper()
	names, err := disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		path := disk.PathJoin(dir, name)
		f, err := disk.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		b[10] ^= 1
		w, err := disk.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("there is no table")
}
