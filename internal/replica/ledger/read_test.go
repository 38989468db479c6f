package ledger_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestPlace asks for each record's place and for its bytes, of blocks that are
// remembered and, after a restart, of those that are not.
func TestPlace(t *testing.T) {
	c := ledgertest.New(t, 1)
	disk := vfs.NewMem()
	l, err := ledger.Open(ledger.Options{Dir: "ledger", FS: disk, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	blocks := grow(t, c, l, 5)
	check := func(l *ledger.Ledger) {
		t.Helper()
		for _, b := range blocks {
			for i, raw := range slices.Concat(recordsOf(b)...) {
				id, want := consortium.RecordID(raw), ledger.Position{Height: b.Header.Height, Index: uint32(i)}
				at, err := l.Place(id)
				block, missing := l.BlockHash(at.Height)
				if err = errors.Join(err, missing); err != nil || at != want || block != b.Header.Hash() {
					t.Errorf("record %d of block %d is at %v of block %s: %v", i, b.Header.Height, at, block, err)
				}
				stored, height, index, err := l.RecordAt(id)
				if err != nil || height != want.Height || index != want.Index || string(stored) != string(raw) {
					t.Errorf("record %d of block %d is read at %d %d: %v", i, b.Header.Height, height, index, err)
				}
				if !l.Committed(id) {
					t.Errorf("record %d of block %d is not in the chain", i, b.Header.Height)
				}
			}
		}
		if _, err := l.Place(chain.Hash{1}); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("a record that is not there: %v", err)
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, ledger.Options{FS: disk})
	check(l)
	b := c.Next(c.Record("after", nil))
	appendBlock(t, l, b)
	blocks = append(blocks, b)
	check(l)
}

// TestHistory compares every page size and direction with the chain itself.
func TestHistory(t *testing.T) {
	c := ledgertest.New(t, 1)
	l := start(t, c)
	bySubject, byAuthor := map[string][]ledger.Place{}, map[consortium.PublicKey][]ledger.Place{}
	for height := uint64(1); height <= 12; height++ {
		var rs [][]byte
		for i := range 5 {
			rs = append(rs, c.RecordBy(ledgertest.Key(fmt.Sprint("author ", i%3)), func(r *consortium.Record) { r.Subject = fmt.Sprint("s", height*uint64(i)%4) }))
		}
		b := c.Next(rs...)
		appendBlock(t, l, b)
		for i, raw := range b.Body[0].Records {
			r, err := consortium.DecodeRecord(raw)
			if err != nil {
				t.Fatal(err)
			}
			p := ledger.Place{ID: consortium.RecordID(raw), Position: ledger.Position{Height: height, Index: uint32(i)}}
			bySubject[r.Subject] = append(bySubject[r.Subject], p)
			byAuthor[r.Author] = append(byAuthor[r.Author], p)
		}
	}
	check := func(name string, want []ledger.Place, page func(ledger.Query) ([]ledger.Place, error)) {
		t.Helper()
		for _, desc := range []bool{false, true} {
			if desc {
				want = slices.Clone(want)
				slices.Reverse(want)
			}
			for _, limit := range []int{0, 1, 2, 7, len(want)} {
				var got []ledger.Place
				q := ledger.Query{Desc: desc, Limit: limit}
				for {
					places, err := page(q)
					if err != nil || limit > 0 && len(places) > limit {
						t.Fatalf("%s: %d places, %v", name, len(places), err)
					}
					if len(places) == 0 {
						break
					}
					got = append(got, places...)
					q.After = places[len(places)-1].Position
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%s desc=%t limit=%d: %d places, want %d", name, desc, limit, len(got), len(want))
				}
			}
		}
	}
	if len(bySubject) != 4 || len(byAuthor) != 3 {
		t.Fatalf("%d subjects, %d authors", len(bySubject), len(byAuthor))
	}
	for s, want := range bySubject {
		check(s, want, func(q ledger.Query) ([]ledger.Place, error) { return l.History(s, q) })
	}
	for a, want := range byAuthor {
		check(a.String(), want, func(q ledger.Query) ([]ledger.Place, error) { return l.ByAuthor(a, q) })
	}
	check("unknown", nil, func(q ledger.Query) ([]ledger.Place, error) { return l.History("s", q) })
}

// TestCheckFinds breaks one key of each kind, behind the ledger's back.
func TestCheckFinds(t *testing.T) {
	for _, kind := range "hqxbtsauc" {
		for _, act := range []string{"flip", "delete", "add"} {
			t.Run(string(kind)+" "+act, func(t *testing.T) {
				c := ledgertest.New(t, 4)
				fs := vfs.NewMem()
				l := open(t, ledger.Options{FS: fs})
				if err := l.Init(c.Genesis()); err != nil {
					t.Fatal(err)
				}
				grow(t, c, l, 7)
				var calls, last uint64
				if err := l.Check(t.Context(), func(done, total uint64) { calls, last = calls+1, total }); err != nil || calls != 7 || last != 7 {
					t.Fatalf("before: %v, %d calls of %d", err, calls, last)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				damage(t, fs, byte(kind), act)
				l = open(t, ledger.Options{FS: fs})
				err := l.Check(t.Context(), nil)
				var corrupt *ledger.CorruptError
				if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "ledger") {
					t.Fatalf("got %v", err)
				}
				if act == "add" && !strings.Contains(err.Error(), "index "+string(kind)+" has an entry") {
					t.Errorf("does not name the entry: %v", err)
				}
			})
		}
	}
}

// damage changes the first key of a kind, which is not the tip's; it never
// touches what Open reads.
func damage(t *testing.T, fs vfs.FS, kind byte, act string) {
	t.Helper()
	db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
	if err != nil {
		t.Fatal(err)
	}
	if !it.First() {
		t.Fatalf("no key %c", kind)
	}
	key, value := slices.Clone(it.Key()), slices.Clone(it.Value())
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	switch act {
	case "flip":
		value[len(value)-1] ^= 1
		err = db.Set(key, value, pebble.Sync)
	case "delete":
		err = db.Delete(key, pebble.Sync)
	case "add":
		for i := 1; i < len(key); i++ {
			key[i] = 0xfe
		}
		err = db.Set(key, value, pebble.Sync)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestCheckLast(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := start(t, c)
	if err := l.CheckLast(t.Context(), 100, nil); err != nil {
		t.Fatal(err)
	}
	grow(t, c, l, 12)
	for _, n := range []uint64{0, 1, 3, 7, 8, 11, 12, 100} {
		calls := uint64(0)
		if err := l.CheckLast(t.Context(), n, func(_, _ uint64) { calls++ }); err != nil || calls != min(n, 12) {
			t.Errorf("last %d: %d blocks, %v", n, calls, err)
		}
	}
}

// TestCrash appends while the power fails at random moments: every block whose
// Append came back is there afterwards, and the chain goes on.
func TestCrash(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := vfs.NewCrashableMem()
		c := ledgertest.New(t, 3)
		l := open(t, ledger.Options{FS: fs})
		if err := l.Init(c.Genesis()); err != nil {
			t.Fatal(err)
		}
		type shot struct {
			fs    *vfs.MemFS
			acked chain.Head
		}
		var shots []shot
		photograph := func(acked chain.Head) {
			shots = append(shots, shot{fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}), acked})
		}
		var blocks []*consortium.Block
		for range 5 {
			b := c.Next(records(c, 1+rng.IntN(40), rng.IntN(2000))...)
			blocks = append(blocks, b)
			acked := l.Tip().Head
			done := make(chan error)
			go func() { done <- l.Append(b, "own", "") }()
			photograph(acked) // somewhere within the append
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			photograph(l.Tip().Head)
		}
		for i, s := range shots {
			after := open(t, ledger.Options{FS: s.fs})
			tip := after.Tip()
			if tip.Head.Height < s.acked.Height {
				t.Fatalf("seed %d shot %d: at height %d after the crash, %d was acknowledged", seed, i, tip.Head.Height, s.acked.Height)
			}
			if h, ok := after.HeightOf(s.acked.Hash); s.acked.Height > 0 && (!ok || h != s.acked.Height) {
				t.Fatalf("seed %d shot %d: block %d is another one", seed, i, s.acked.Height)
			}
			if err := after.Check(t.Context(), nil); err != nil {
				t.Fatalf("seed %d shot %d: %v", seed, i, err)
			}
			for _, b := range blocks[tip.Head.Height:] {
				appendBlock(t, after, b)
			}
			if after.Tip().Head != c.Head() {
				t.Fatalf("seed %d shot %d: does not reach the head again", seed, i)
			}
		}
	}
}

func recordsOf(b *consortium.Block) (all [][][]byte) {
	for _, s := range b.Body {
		all = append(all, s.Records)
	}
	return all
}
