package ledger_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// accepted lists the journal of l.
func accepted(tb testing.TB, l *ledger.Ledger) (ids []chain.Hash) {
	tb.Helper()
	err := l.Accepted(func(id chain.Hash, raw []byte) error {
		if consortium.RecordID(raw) != id {
			tb.Errorf("record %s has another id", id)
		}
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(ids) != l.JournalLen() {
		tb.Errorf("%d entries, counted %d", len(ids), l.JournalLen())
	}
	return ids
}

func accept(tb testing.TB, l *ledger.Ledger, raw []byte) chain.Hash {
	tb.Helper()
	id := consortium.RecordID(raw)
	if err := l.Accept(id, raw); err != nil {
		tb.Fatal(err)
	}
	return id
}

// TestJournal: an accepted record is there after a restart, in the order of
// acceptance, until a block or a rejection ends it.
func TestJournal(t *testing.T) {
	c := ledgertest.New(t, 1)
	fs := vfs.NewMem()
	l := open(t, ledger.Options{FS: fs})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	raws := records(c, 5, 10)
	var ids []chain.Hash
	for _, raw := range raws {
		ids = append(ids, accept(t, l, raw), accept(t, l, raw))
	}
	ids = slices.Compact(ids)
	reopen := func() {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, ledger.Options{FS: fs})
	}
	reopen()
	if got := accepted(t, l); !slices.Equal(got, ids) {
		t.Fatalf("accepted %v, want %v", got, ids)
	}
	if raw, err := l.Journaled(ids[2]); err != nil || string(raw) != string(raws[2]) {
		t.Fatalf("entry: %x, %v", raw, err)
	}
	appendBlock(t, l, c.Next(raws[1], raws[3]))
	fresh, err := l.Reject(ledger.Refused{ID: ids[2], Reason: "expired"}, ledger.Refused{ID: ids[1], Reason: "expired"}, ledger.Refused{ID: ids[2], Reason: "expired"})
	if err != nil || len(fresh) != 1 || fresh[0].ID != ids[2] {
		t.Fatalf("rejected %v, %v", fresh, err)
	}
	for _, id := range ids[1:4] { // what has its end is not accepted again
		if err := l.Accept(id, raws[slices.Index(ids, id)]); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Journaled(id); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("entry of %s: %v", id, err)
		}
	}
	want := []chain.Hash{ids[0], ids[4]}
	if got := accepted(t, l); !slices.Equal(got, want) {
		t.Fatalf("accepted %v, want %v", got, want)
	}
	reopen()
	more := accept(t, l, c.Record("more", nil))
	if got := accepted(t, l); !slices.Equal(got, append(want, more)) {
		t.Fatalf("after a restart: %v, want %v and %s", got, want, more)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestFreeNew: a newcomer on a backup takes over nothing that the donor owes: no
// accepted record and no rejection to be told, not after a restart either. What
// the donor answered stays.
func TestFreeNew(t *testing.T) {
	c := ledgertest.New(t, 1)
	fs := vfs.NewMem()
	l := open(t, ledger.Options{FS: fs})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	reopen := func() {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, ledger.Options{FS: fs})
	}
	accept(t, l, c.Record("the donor's", nil))
	refused := []chain.Hash{{1}, {2}, {3}}
	for _, id := range refused {
		if _, err := l.Reject(ledger.Refused{ID: id, Reason: "expired", Author: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Told(refused[0]), l.MarkRestored()); err != nil {
		t.Fatal(err)
	}
	reopen()
	if list := l.TakeUntold(); len(list) != 2 {
		t.Fatalf("the donor has %v to tell", list)
	}
	reopen() // none was told
	if err := l.FreeNew(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as it runs, and after a restart
		if list := l.TakeUntold(); len(list) > 0 {
			t.Errorf("it tells %v", list)
		}
		if ids := accepted(t, l); len(ids) > 0 {
			t.Errorf("it took over %v", ids)
		}
		if restored, err := l.Restored(); restored || err != nil {
			t.Errorf("restored: %t, %v", restored, err)
		}
		for _, id := range refused {
			if r, err := l.Rejection(id); err != nil || r.Reason != "expired" || r.Author != "a" {
				t.Errorf("rejection %s: %+v, %v", id, r, err)
			}
		}
		reopen()
	}
}

func TestJournalIsBounded(t *testing.T) {
	c := ledgertest.New(t, 1)
	raws := records(c, 3, 10)
	size := int64(len(raws[0]))
	for _, o := range []ledger.Options{{JournalRecords: 2}, {JournalBytes: 3*size - 1}} {
		o.FS = vfs.NewMem()
		l := open(t, o)
		if err := l.Init(c.Genesis()); err != nil {
			t.Fatal(err)
		}
		first := accept(t, l, raws[0])
		accept(t, l, raws[1])
		id := consortium.RecordID(raws[2])
		var bad *consortium.RecordError
		if err := l.Accept(id, raws[2]); !errors.As(err, &bad) || bad.Reason != consortium.MempoolFull {
			t.Fatalf("full: %v", err)
		}
		accept(t, l, raws[0]) // it has its place
		if _, err := l.Reject(ledger.Refused{ID: first, Reason: "expired"}); err != nil {
			t.Fatal(err)
		}
		accept(t, l, raws[2])
	}
}

// TestRejectionsAge: answers are kept a day, and no longer than there is need.
func TestRejectionsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, ledgertest.New(t, 1))
		defer l.Close()
		reject := func(id byte) {
			t.Helper()
			if fresh, err := l.Reject(ledger.Refused{ID: chain.Hash{id}, Reason: "expired"}); err != nil || len(fresh) != 1 {
				t.Fatal(fresh, err)
			}
		}
		reject(1)
		time.Sleep(24 * time.Hour)
		reject(2)
		if _, ok := l.Rejected(chain.Hash{1}); !ok {
			t.Error("forgotten within a day")
		}
		time.Sleep(time.Second)
		reject(3)
		if _, ok := l.Rejected(chain.Hash{1}); ok {
			t.Error("kept for more than a day")
		}
		if _, ok := l.Rejected(chain.Hash{2}); !ok {
			t.Error("forgotten with an older one")
		}
	})
}

// TestJournalCrash accepts, appends and rejects at once while the power fails at
// random moments. Of every record that was accepted, the disk holds the entry,
// its block, or its rejection, and never more than one end; a client that was
// told of an end finds that one.
func TestJournalCrash(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { journalCrash(t, rand.New(rand.NewPCG(seed, 7))) })
	}
}

// history is what was answered so far.
type history struct {
	mu       sync.Mutex
	accepted []chain.Hash
	rejected []chain.Hash
	height   uint64
}

type photo struct {
	fs                 *vfs.MemFS
	accepted, rejected []chain.Hash
	height             uint64
}

func journalCrash(t *testing.T, rng *rand.Rand) {
	fs := vfs.NewCrashableMem()
	c := ledgertest.New(t, 1)
	l := open(t, ledger.Options{FS: fs})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	var h history
	var photos []photo
	photograph := func() {
		h.mu.Lock()
		p := photo{accepted: slices.Clone(h.accepted), rejected: slices.Clone(h.rejected), height: h.height}
		h.mu.Unlock()
		p.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		photos = append(photos, p)
	}
	for range 4 {
		raws := records(c, 30, rng.IntN(500))
		block := c.Next(raws[:10]...)
		var wg sync.WaitGroup
		for i := range 3 { // three clients, each record by two of them
			wg.Go(func() {
				for _, raw := range raws[max(0, 10*(i-1)):] {
					id := consortium.RecordID(raw)
					if err := l.Accept(id, raw); err != nil {
						t.Error(err)
					}
					h.mu.Lock()
					h.accepted = append(h.accepted, id)
					h.mu.Unlock()
				}
			})
		}
		wg.Go(func() {
			if err := l.Append(block, "own", ""); err != nil {
				t.Error(err)
			}
			h.mu.Lock()
			h.height++
			h.mu.Unlock()
		})
		wg.Go(func() {
			for _, raw := range raws[10:15] { // none is in the block: what was rejected for good never is
				fresh, err := l.Reject(ledger.Refused{ID: consortium.RecordID(raw), Reason: "expired"})
				if err != nil {
					t.Error(err)
				}
				h.mu.Lock()
				for _, x := range fresh {
					h.rejected = append(h.rejected, x.ID)
				}
				h.mu.Unlock()
			}
		})
		photograph()
		photograph()
		wg.Wait()
		photograph()
	}
	for i, p := range photos {
		checkPhoto(t, i, p)
	}
}

func checkPhoto(t *testing.T, i int, p photo) {
	t.Helper()
	l := open(t, ledger.Options{FS: p.fs})
	open := accepted(t, l)
	if l.Tip().Head.Height < p.height {
		t.Errorf("photo %d: at height %d, %d was told", i, l.Tip().Head.Height, p.height)
	}
	for _, id := range p.rejected {
		if _, ok := l.Rejected(id); !ok {
			t.Errorf("photo %d: rejection of %s is lost", i, id)
		}
	}
	for _, id := range p.accepted {
		_, rejected := l.Rejected(id)
		ends := 0
		for _, is := range []bool{l.Committed(id), slices.Contains(open, id), rejected} {
			if is {
				ends++
			}
		}
		if ends != 1 {
			t.Errorf("photo %d: accepted record %s: committed %t, open %t, rejected %t", i, id, l.Committed(id), slices.Contains(open, id), rejected)
		}
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Errorf("photo %d: %v", i, err)
	}
}
