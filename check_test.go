package parley

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// fill makes a data directory with a chain of blocks; the caller closes it.
func fill(t *testing.T, dir string, c *ledgertest.Chain, blocks int) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(ledger.Options{Dir: filepath.Join(dir, "ledger"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		records := [][]byte{c.Record(fmt.Sprint("thing ", i), make([]byte, 4000)), c.Record("thing", nil)}
		if i == 2 {
			records = [][]byte{c.ConfigRecord(c.AddValidator)}
		}
		if err := l.Append(c.Next(records...), "own", ""); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func check(t *testing.T, dir string) (uint64, error) {
	t.Helper()
	return CheckLedger(t.Context(), dir, func(_, _ uint64) {})
}

// TestCheckLedgerFlips flips bytes all over the store's files.
func TestCheckLedgerFlips(t *testing.T) {
	dir := t.TempDir()
	c := ledgertest.New(t, 4)
	for range 2 { // opened again, pebble moves what it has into tables
		l := fill(t, dir, c, 0)
		if l.Tip().Head.Height == 0 {
			for range 6 {
				if err := l.Append(c.Next(c.Record("thing", make([]byte, 9000))), "own", ""); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if height, err := check(t, dir); err != nil || height != 6 {
		t.Fatalf("height %d, %v", height, err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "ledger", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal("no tables", err)
	}
	for _, path := range tables {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found, tries := 0, 0
		for at := 7; at < len(good); at += len(good)/23 + 1 {
			bad := append([]byte(nil), good...)
			bad[at] ^= 0x10
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			tries++
			height, err := check(t, dir)
			var damage *DamageError
			switch {
			case errors.As(err, &damage):
				found++
			case err != nil || height != 6:
				t.Errorf("byte %d of %d: height %d, %v", at, len(good), height, err)
			}
		}
		if found < tries*3/4 { // the rest stands in filters and facts that a check does not read
			t.Errorf("%s: %d of %d flipped bytes were found", filepath.Base(path), found, tries)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := check(t, dir); err != nil {
		t.Error(err)
	}
}

// TestCheckLedgerOthers: a store that is in use, or is none, is no damage; and
// a check changes nothing.
func TestCheckLedgerOthers(t *testing.T) {
	dir := t.TempDir()
	l := fill(t, dir, ledgertest.New(t, 1), 3)
	if _, err := check(t, dir); !errors.Is(err, ErrLocked) {
		t.Errorf("in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir)
	if height, err := check(t, dir); err != nil || height != 3 {
		t.Errorf("height %d, %v", height, err)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("files were\n%s\nare\n%s", before, after)
	}
	if _, err := check(t, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("empty: %v", err)
	}
	foreign := t.TempDir()
	if err := os.MkdirAll(filepath.Join(foreign, "ledger"), 0o700); err != nil {
		t.Fatal(err)
	}
	var start *StartError
	if _, err := check(t, foreign); !errors.As(err, &start) {
		t.Errorf("an empty ledger: %v", err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "ledger", "letter.txt"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := check(t, foreign); !errors.As(err, &start) {
		t.Errorf("a foreign directory: %v", err)
	}
	if got := listing(t, foreign); !strings.Contains(got, "letter.txt 5") || strings.Contains(got, "MANIFEST") {
		t.Errorf("files are\n%s", got)
	}
}

// listing is the files of a ledger with their sizes.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, e.Name(), info.Size())
	}
	return b.String()
}
