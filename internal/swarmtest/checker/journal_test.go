package checker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/parley-p2p/parley/chain"
)

// What several clients write is read again, also behind a line that a kill of
// the writer left torn.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "told.jsonl")
	j, err := OpenJournal(path, true)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for c := range byte(4) {
		wg.Go(func() {
			for i := range byte(25) {
				id := chain.Hash{c + 1, i}
				for _, e := range []Entry{
					{Kind: Submit, Node: "a", ID: id},
					{Kind: Accepted, Node: "a", ID: id},
					{Kind: Committed, Node: "a", ID: id, Height: uint64(i) + 1, Index: uint32(c), Block: chain.Hash{i}},
				} {
					if err := j.Write(e); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"kind":"committed","id":"00`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if j, err = OpenJournal(path, false); err != nil {
		t.Fatal(err)
	}
	last := chain.Hash{9}
	if err := j.Write(Entry{Kind: Submit, Node: "b", ID: last}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	told, err := ReadJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(told.order) != 101 || told.order[100] != last || len(told.faults) != 0 {
		t.Errorf("%d records, the last is %s, faults %v", len(told.order), told.order[len(told.order)-1].Short(), told.faults)
	}
	if r := told.records[last]; r == nil || r.floor != 25 || r.acknowledged() {
		t.Errorf("last record %+v", r)
	}
	r := told.records[chain.Hash{3, 7}]
	if len(r.accepted) != 1 || len(r.committed) != 1 || r.committed[0].Height != 8 || r.committed[0].Index != 2 || r.committed[0].Block != (chain.Hash{7}) {
		t.Errorf("record %+v", r)
	}
}

// Between two files there is no order.
func TestJournalsAreApart(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i := range byte(2) {
		path := filepath.Join(dir, fmt.Sprint(i))
		j, err := OpenJournal(path, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []Entry{{Kind: Submit, ID: chain.Hash{i + 1}}, {Kind: Committed, ID: chain.Hash{i + 1}, Height: 5}} {
			if err := j.Write(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	told, err := ReadJournal(paths...)
	if err != nil {
		t.Fatal(err)
	}
	if r := told.records[chain.Hash{2}]; r.floor != 0 {
		t.Errorf("floor %d", r.floor)
	}
}

// A file that is no journal is refused.
func TestNoJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte(strings.Repeat("nonsense\n", 200)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadJournal(path); err == nil {
		t.Error("it was taken")
	}
}

func FuzzReadJournal(f *testing.F) {
	f.Add(`{"kind":"submit","node":"a","id":"` + strings.Repeat("01", 32) + `"}` + "\n")
	f.Add(`{"kind":"committed","id":"` + strings.Repeat("01", 32) + `","height":1,"index":2,"block":"` + strings.Repeat("02", 32) + `"}` + "\n{")
	f.Fuzz(func(t *testing.T, s string) {
		told := NewTold()
		if err := told.read(strings.NewReader(s)); err == nil && len(told.order) > len(s) {
			t.Errorf("%d records of %d bytes", len(told.order), len(s))
		}
	})
}
