package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

func TestFlipByte(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	if file, err := flipByte(dir, "*.sst", r); file != "" || err != nil {
		t.Fatalf("nothing to flip: %q %v", file, err)
	}
	path, before := filepath.Join(dir, "01.sst"), []byte("table")
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if file, err := flipByte(dir, "*.sst", r); file == "" || err != nil {
		t.Fatalf("flip: %q %v", file, err)
	}
	after, err := os.ReadFile(path)
	if err != nil || len(after) != len(before) {
		t.Fatalf("%q %v", after, err)
	}
	differ := 0
	for i := range after {
		if after[i] != before[i] {
			differ++
		}
	}
	if differ != 1 {
		t.Errorf("%d bytes differ", differ)
	}
}

// TestCheckBlock finds every byte of a record that is not the chain's.
func TestCheckBlock(t *testing.T) {
	record := func(c string) []byte { return bytes.Repeat([]byte(c), 200) }
	records := [][]byte{record("1"), record("2"), record("3")}
	body := consortium.Body{{Records: records}}
	h := &consortium.Header{Height: 5, Records: 3, Subtrees: 1, BodyBytes: uint32(body.Size()), Root: body.RootOf(body.RecordIDs())}
	good := parley.Block{Height: 5, Hash: h.Hash(), RecordCount: 3, Subtrees: []parley.BlockSubtree{{ID: body[0].ID(), Records: 3}},
		Raw: parley.BlockRaw{Header: hex.EncodeToString(h.Encode())}}
	if err := checkBlock(&good, 5, records); err != nil {
		t.Fatal(err)
	}
	other := good
	other.Hash[0]++
	for name, err := range map[string]error{
		"another record":     checkBlock(&good, 5, [][]byte{records[0], record("4"), records[2]}),
		"another order":      checkBlock(&good, 5, [][]byte{records[1], records[0], records[2]}),
		"a record too few":   checkBlock(&good, 5, records[:2]),
		"a record too many":  checkBlock(&good, 5, append(slices.Clone(records), records[0])),
		"another height":     checkBlock(&good, 6, records),
		"another hash":       checkBlock(&other, 5, records),
		"a header in pieces": checkBlock(&parley.Block{Raw: parley.BlockRaw{Header: good.Raw.Header[2:]}}, 5, records),
	} {
		if _, wrong := errors.AsType[*wrongBytes](err); !wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSampleIsOfAll(t *testing.T) {
	l := &load{}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 100 * proofs {
		l.keepSample(checker.Entry{Height: uint64(i)}, r.IntN)
	}
	late := 0
	for _, e := range l.sample {
		if e.Height >= 50*proofs {
			late++
		}
	}
	if len(l.sample) != proofs || late < proofs/4 || late > proofs*3/4 {
		t.Errorf("%d kept, %d of them of the second half", len(l.sample), late)
	}
}
