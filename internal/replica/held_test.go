package replica

import (
	"testing"
	"time"

	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestUnlistedIsNotFinal: an accepted record whose author the chain takes off
// its list is neither rejected nor offered. When a later epoch takes it after
// all, it has one end only.
func TestUnlistedIsNotFinal(t *testing.T) {
	for _, again := range []bool{false, true} { // the next epoch comes before it is offered once more, or the record is only in the journal
		c := ledgertest.New(t, 1)
		w, _, _ := atWork(t, c)
		raw := c.Record("s", []byte("x"))
		id := consortium.RecordID(raw)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		submit := func() {
			t.Helper()
			if placed, err := w.Submit(t.Context(), raw, false); err != nil || placed.Committed() {
				t.Fatalf("%+v, %v", placed, err)
			}
		}
		submit()
		must(w.ledger.Append(c.Next(c.ConfigRecord(func(g *consortium.Config) {
			g.AuthorPolicy = consortium.Listed
			g.Authors = []consortium.PublicKey{consortium.PublicKeyOf(ledgertest.Key("somebody else"))}
		})), "own", ""))
		w.sweep(time.Now())
		why, held := w.Held(id)
		if _, final := w.ledger.Rejected(id); final || !held || why.Reason != consortium.UnknownAuthor || w.pool.Has(id) {
			t.Fatalf("final %t, held %t %q, in the pool %t", final, held, why.Reason, w.pool.Has(id))
		}
		if due := w.offers.due(time.Now().Add(time.Hour)); len(due) != 0 {
			t.Errorf("%d records are offered", len(due))
		}
		submit() // a client asks once more: it is accepted still
		if again {
			p := *w.parts
			p.offers = newOffers()
			w.parts = &p
			w.live.Store(&p)
			must(w.readBack(&p))
			if _, held := w.Held(id); !held || len(p.ended) != 0 {
				t.Errorf("read back: held %t, ended %+v", held, p.ended)
			}
		}
		must(w.ledger.Append(c.Next(c.ConfigRecord(func(g *consortium.Config) { g.AuthorPolicy, g.Authors = consortium.Open, nil })), "own", ""))
		w.sweep(time.Now())
		if open := w.stillOpen(w.offers.due(time.Now())); len(open) != 1 || !w.pool.Has(id) {
			t.Fatalf("%d offered in the epoch that takes it, in the pool %t", len(open), w.pool.Has(id))
		}
		must(w.ledger.Append(c.Next(raw), "sync", ""))
		if x, final := w.ledger.Rejected(id); final {
			t.Errorf("%q is told as final of a record that is committed", x.Reason)
		}
		if w.ledger.JournalLen() != 0 {
			t.Error("it stays in the journal")
		}
	}
}

// TestHeldExpires: not_after ends the wait of a held record.
func TestHeldExpires(t *testing.T) {
	c := ledgertest.New(t, 1)
	w, _, _ := atWork(t, c)
	raw := c.RecordBy(ledgertest.Key("author"), func(r *consortium.Record) { r.NotAfter = 2 })
	placed, err := w.Submit(t.Context(), raw, false)
	if err != nil {
		t.Fatal(err)
	}
	other := ledgertest.Key("somebody else")
	if err := w.ledger.Append(c.Next(c.ConfigRecord(func(g *consortium.Config) {
		g.AuthorPolicy, g.Authors = consortium.Listed, []consortium.PublicKey{consortium.PublicKeyOf(other)}
	})), "own", ""); err != nil {
		t.Fatal(err)
	}
	w.sweep(time.Now())
	if _, held := w.Held(placed.ID); !held {
		t.Fatal("not held")
	}
	if err := w.ledger.Append(c.Next(c.RecordBy(other, nil)), "own", ""); err != nil {
		t.Fatal(err)
	}
	w.sweep(time.Now())
	if x, ok := w.ledger.Rejected(placed.ID); !ok || x.Reason != string(consortium.Expired) {
		t.Errorf("rejected %t: %+v", ok, x)
	}
	if _, held := w.Held(placed.ID); held || w.ledger.JournalLen() != 0 {
		t.Errorf("held %t, %d in the journal", held, w.ledger.JournalLen())
	}
}
