package replica

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestOffersPerTick: what waits longest goes first, and no second carries more
// than its share.
func TestOffersPerTick(t *testing.T) {
	o := newOffers()
	start := time.Now()
	raw := make([]byte, offerBytes/4)
	for i := range byte(10) {
		if !o.add(own{chain.Hash{i}, raw}, start.Add(time.Duration(i)*time.Millisecond)) {
			t.Fatal("not new")
		}
	}
	if o.add(own{chain.Hash{0}, raw}, start.Add(time.Hour)) {
		t.Error("new twice")
	}
	now := start.Add(time.Minute)
	for tick, want := range [][]byte{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}, nil} {
		var got []byte
		for _, r := range o.due(now.Add(time.Duration(tick) * time.Second)) {
			got = append(got, r.id[0])
		}
		if string(got) != string(want) {
			t.Errorf("tick %d: offered %v, want %v", tick, got, want)
		}
	}
	if got := o.due(now.Add(2 * offerFirst)); len(got) != 4 {
		t.Errorf("%d records after their doubled wait", len(got))
	}
}

// TestAcceptedIsOffered: whatever way a record came into the pool, once a client
// was told that it is accepted it is gossiped or offered.
func TestAcceptedIsOffered(t *testing.T) {
	c := ledgertest.New(t, 1)
	fill := func(w *running) {
		for range ownQueue {
			w.offers.fresh <- own{}
		}
	}
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, w *running, raw []byte)
		queued int
		err    error
	}{
		{"new", func(*testing.T, *running, []byte) {}, 1, nil},
		{"heard by gossip", func(t *testing.T, w *running, raw []byte) {
			if _, err := w.pool.Add(raw, "somebody"); err != nil {
				t.Fatal(err)
			}
		}, 1, nil},
		{"handed in before", func(t *testing.T, w *running, raw []byte) {
			if _, err := w.Submit(t.Context(), raw, false); err != nil {
				t.Fatal(err)
			}
		}, 1, nil},
		{"the queue is full", func(_ *testing.T, w *running, _ []byte) { fill(w) }, ownQueue, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _, _ := atWork(t, c)
				raw := c.Record("thing", nil)
				tt.before(t, w, raw)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := w.Submit(ctx, raw, false); !errors.Is(err, tt.err) {
					t.Fatal(err)
				}
				if n := len(w.offers.fresh); n != tt.queued {
					t.Errorf("%d records to gossip, want %d", n, tt.queued)
				}
				due := w.offers.due(time.Now().Add(time.Minute))
				if len(due) != 1 || due[0].id != consortium.RecordID(raw) {
					t.Errorf("offers %d records", len(due))
				}
			})
		})
	}
}

// settled runs settleWaiters until the test ends.
func settled(t *testing.T, w *running) {
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- w.settleWaiters(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-end
	})
}

func reason(err error) consortium.Reason {
	if bad, ok := errors.AsType[*consortium.RecordError](err); ok {
		return bad.Reason
	}
	return ""
}

// expiring is a record that the block after the next one cannot hold.
func expiring(c *ledgertest.Chain) []byte {
	return c.RecordBy(ledgertest.Key("author"), func(r *consortium.Record) { r.NotAfter = 1 })
}

// TestManyRejections: more at once than the bus keeps are all kept.
func TestManyRejections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		w, _, _ := atWork(t, c)
		var ids []chain.Hash
		for range 2 * busSize {
			placed, err := w.Submit(t.Context(), expiring(c), false)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, placed.ID)
		}
		if err := w.ledger.Append(c.Next(), "sync", ""); err != nil {
			t.Fatal(err)
		}
		settled(t, w)
		time.Sleep(2 * sweepEvery)
		synctest.Wait()
		lost := 0
		for _, id := range ids {
			if _, err := w.ledger.Rejection(id); err != nil {
				lost++
			}
		}
		if n := len(w.offers.due(time.Now().Add(time.Hour))); lost > 0 || n > 0 {
			t.Errorf("%d of %d are lost, %d still offered", lost, len(ids), n)
		}
	})
}

// TestRejection: a final rejection is kept, and told to who waits, also where
// the pool dropped the record before anybody looked.
func TestRejection(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, w *running, raw []byte) // brings the rejection about
	}{
		{"swept", func(t *testing.T, w *running, _ []byte) { settled(t, w) }},
		{"dropped", func(t *testing.T, w *running, raw []byte) {
			w.pool.Remove(consortium.RecordID(raw))
			if open := w.stillOpen(w.offers.due(time.Now().Add(time.Minute))); len(open) != 0 {
				t.Error("offered once more")
			}
		}},
		{"only the ledger knows", func(t *testing.T, w *running, raw []byte) {
			id := consortium.RecordID(raw)
			w.pool.Remove(id)
			if _, err := w.ledger.Reject(ledger.Refused{ID: id, Reason: string(consortium.Expired)}); err != nil {
				t.Fatal(err)
			}
			w.settleAll()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := ledgertest.New(t, 1)
				w, _, _ := atWork(t, c)
				raw := expiring(c)
				id := consortium.RecordID(raw)
				done := make(chan error, 1)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				go func() {
					_, err := w.Submit(ctx, raw, true)
					done <- err
				}()
				synctest.Wait()
				if err := w.ledger.Append(c.Next(c.Record("thing", nil)), "sync", ""); err != nil {
					t.Fatal(err)
				}
				tt.end(t, w, raw)
				if err := <-done; reason(err) != consortium.Expired {
					t.Errorf("who waited was told %v", err)
				}
				if x, err := w.ledger.Rejection(id); err != nil || x.Reason != string(consortium.Expired) {
					t.Errorf("kept: %+v, %v", x, err)
				}
				if n := len(w.offers.due(time.Now().Add(time.Hour))); n != 0 {
					t.Errorf("%d records are still offered", n)
				}
			})
		})
	}
}

// TestRecordsPerPeer: one peer cannot bring more than its share, by whatever
// way, and the others keep theirs.
func TestRecordsPerPeer(t *testing.T) {
	c := ledgertest.New(t, 1)
	w, _, _ := atWork(t, c)
	raw := c.Record("thing", nil)
	many := make([][]byte, 1000)
	for i := range many {
		many[i] = raw
	}
	if err := w.addAll(many, "flood"); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 2 * peerRecords / len(many) {
		if err = w.addAll(many, "flood"); !errors.Is(err, chain.ErrKnown) {
			break
		}
	}
	if !errors.Is(err, chain.ErrUnready) {
		t.Errorf("at last: %v", err)
	}
	if err := w.addAll(many, "other"); !errors.Is(err, chain.ErrKnown) {
		t.Errorf("another peer: %v", err)
	}
}

func TestLimits(t *testing.T) {
	l := newLimits()
	now := time.Now()
	if !l.allow("a", 1, peerBytes, now) || l.allow("a", 1, 1000, now) {
		t.Error("bytes are not bounded")
	}
	if !l.allow("a", 1, 1000, now.Add(time.Second)) {
		t.Error("nothing after a second")
	}
	for i := range 3 * maxLimits {
		l.allow(peer.ID(fmt.Sprint(i)), peerRecords, 1, now)
	}
	if len(l.of) > maxLimits {
		t.Errorf("%d peers remembered", len(l.of))
	}
}
