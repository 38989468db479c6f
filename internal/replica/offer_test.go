package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// line is one end of a stream in memory, as seen by its reader.
type line struct {
	net.Conn
	from peer.ID
}

func (l line) Peer() peer.ID     { return l.from }
func (l line) CloseWrite() error { return l.Close() }
func (l line) Reset() error      { return l.Close() }

// serveOffer lets talk speak to w as a peer, and returns what w made of it.
func serveOffer(t *testing.T, w *running, talk func(st chain.Stream) error) (theirs, ours error) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer b.Close()
		done <- w.takeRecords(t.Context(), line{b, "peer"})
	}()
	theirs = talk(line{a, "us"})
	_ = a.Close()
	return theirs, <-done
}

func owns(raws ...[]byte) (list []own) {
	for _, raw := range raws {
		list = append(list, own{consortium.RecordID(raw), raw})
	}
	return list
}

// TestOfferOfIDs: who is offered records gets those that it lacks, and no
// others.
func TestOfferOfIDs(t *testing.T) {
	c := ledgertest.New(t, 1)
	w, _, _ := atWork(t, c)
	var raws [][]byte
	for range 10 {
		raws = append(raws, c.Record("thing", make([]byte, 60_000))) // more than one frame
	}
	if err := w.ledger.Append(c.Next(raws[0]), "sync", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ledger.Reject(ledger.Refused{ID: consortium.RecordID(raws[1]), Reason: "expired"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Add(raws[2], "somebody"); err != nil {
		t.Fatal(err)
	}
	list := owns(raws...)
	if got := w.lacking([]chain.Hash{list[0].id, list[1].id, list[2].id, list[3].id, list[3].id}); !slices.Equal(got, []chain.Hash{list[3].id}) {
		t.Errorf("lacks %v", got)
	}
	theirs, ours := serveOffer(t, w, func(st chain.Stream) error { return offerOver(st, list) })
	if theirs != nil || ours != nil {
		t.Fatal(theirs, ours)
	}
	for i, o := range list {
		if w.pool.Has(o.id) != (i >= 2) {
			t.Errorf("record %d: in the pool %t", i, w.pool.Has(o.id))
		}
	}
	theirs, ours = serveOffer(t, w, func(st chain.Stream) error { return offerOver(st, list) })
	if theirs != nil || ours != nil { // nothing is wanted, nothing is sent
		t.Error(theirs, ours)
	}
}

// TestOfferFaults: a peer that breaks the protocol is charged, on both sides,
// and takes no more than its share.
func TestOfferFaults(t *testing.T) {
	c := ledgertest.New(t, 1)
	raws := [][]byte{c.Record("thing", nil), c.Record("thing", nil)}
	list := owns(raws...)
	bad := func(err error) bool { _, ok := errors.AsType[*chain.InvalidError](err); return ok }
	send := func(st chain.Stream, frames ...[]byte) error {
		for i, f := range frames {
			if err := wire.WriteFrame(st, f); err != nil {
				return err
			}
			if i == 0 {
				if _, err := wire.ReadFrame(st, wire.MaxOffer); err != nil {
					return err
				}
			}
		}
		return nil
	}
	tampered := slices.Clone(raws[0])
	tampered[len(tampered)-1]++
	for _, tt := range []struct {
		name   string
		frames [][]byte
		guilty bool
	}{
		{"nothing offered", [][]byte{wire.Offer{}.Encode()}, true},
		{"no offer", [][]byte{{0xff}}, true},
		{"more than wanted", [][]byte{wire.Offer{IDs: []chain.Hash{list[0].id}}.Encode(), wire.EncodeRecords(raws)}, true},
		{"a bad record", [][]byte{wire.Offer{IDs: []chain.Hash{list[0].id}}.Encode(), wire.EncodeRecords([][]byte{tampered})}, true},
		{"too little", [][]byte{wire.Offer{IDs: []chain.Hash{list[0].id}}.Encode()}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, _, _ := atWork(t, c)
			_, ours := serveOffer(t, w, func(st chain.Stream) error { return send(st, tt.frames...) })
			if bad(ours) != tt.guilty {
				t.Errorf("got %v", ours)
			}
		})
	}
	t.Run("over the rate", func(t *testing.T) {
		w, _, _ := atWork(t, c)
		offer := wire.Offer{IDs: make([]chain.Hash, wire.MaxOfferIDs)}.Encode()
		var ours error
		for range 2 * peerOffers / wire.MaxOfferIDs {
			if _, ours = serveOffer(t, w, func(st chain.Stream) error { return send(st, offer) }); ours != nil {
				break
			}
		}
		if !errors.Is(ours, chain.ErrUnready) {
			t.Errorf("at last: %v", ours)
		}
	})
	for name, want := range map[string][]chain.Hash{"never offered": {{1}}, "wanted twice": {list[0].id, list[0].id}} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				_, _ = wire.ReadFrame(b, wire.MaxOffer)
				_ = wire.WriteFrame(b, wire.Want{IDs: want}.Encode())
			}()
			if err := offerOver(line{a, "peer"}, list); !bad(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSubmitJournals: an answer that says accepted is written first; a record
// that is committed in time leaves nothing behind.
func TestSubmitJournals(t *testing.T) {
	c := ledgertest.New(t, 1)
	for _, tt := range []struct {
		name      string
		wait      bool
		meanwhile func(t *testing.T, w *running, raw []byte)
		journal   int
		height    uint64
		reason    consortium.Reason
	}{
		{"accepted", false, nil, 1, 0, ""},
		{"time is over", true, nil, 1, 0, ""},
		{"the node stops", true, func(_ *testing.T, w *running, _ []byte) { w.stop() }, 1, 0, ""},
		{"committed", true, func(t *testing.T, w *running, raw []byte) {
			if err := w.ledger.Append(c.Build(raw), "own", ""); err != nil {
				t.Fatal(err)
			}
		}, 0, 1, ""},
		{"rejected", true, func(t *testing.T, w *running, raw []byte) {
			w.reject(event.RecordRejected{ID: consortium.RecordID(raw), Reason: "expired", Final: true})
		}, 0, 0, consortium.Expired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _, _ := atWork(t, c)
				settled(t, w)
				raw := c.Record("thing", nil)
				if tt.meanwhile != nil {
					go func() {
						time.Sleep(500 * time.Millisecond)
						if n := w.ledger.JournalLen(); n != 0 {
							t.Errorf("%d records in the journal while the client waits", n)
						}
						tt.meanwhile(t, w, raw)
					}()
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				placed, err := w.Submit(ctx, raw, tt.wait)
				synctest.Wait() // what went on meanwhile has ended
				if reason(err) != tt.reason || tt.reason == "" && err != nil || placed.Height != tt.height {
					t.Errorf("answer %+v, %v", placed, err)
				}
				if n := w.ledger.JournalLen(); n != tt.journal {
					t.Errorf("%d records in the journal, want %d", n, tt.journal)
				}
			})
		})
	}
}

// TestClosed: the state of the node keeps clients out, and not what peers bring.
func TestClosed(t *testing.T) {
	c := ledgertest.New(t, 1)
	for want, shut := range map[consortium.Reason]func(*running){
		consortium.ShuttingDown: func(w *running) { w.stop() },
		consortium.Syncing:      func(w *running) { w.behind.Store(true) },
	} {
		w, _, _ := atWork(t, c)
		shut(w)
		raw := c.Record("thing", nil)
		if _, err := w.Submit(t.Context(), raw, false); reason(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, err := w.pool.Add(raw, "peer"); err != nil {
			t.Error(err)
		}
	}
}

// TestJournalFull: what cannot be promised is refused, and goes nowhere.
func TestJournalFull(t *testing.T) {
	c := ledgertest.New(t, 1)
	raw := c.Record("thing", nil)
	w := open(t, ledgertest.Key("validator 1"), &text{}, func(cfg *Config) {
		member(t, c)(cfg)
		cfg.Chain.MempoolBytes = config.Size(len(raw)) // the journal holds twice that
	})
	p := w.live.Load()
	for i := range 3 {
		raw := c.Record("thing", nil)
		placed, err := w.Submit(t.Context(), raw, false)
		if full := i == 2; full != (reason(err) == consortium.MempoolFull) || full == p.pool.Has(placed.ID) {
			t.Fatalf("record %d: %v, in the pool %t", i, err, p.pool.Has(placed.ID))
		}
		if i < 2 {
			p.pool.Remove(placed.ID) // as if it were lost
		}
	}
	if len(p.offers.open) != 2 {
		t.Errorf("%d records offered", len(p.offers.open))
	}
}

// TestReadBack: a new run has the records that the last one accepted, over the
// bounds of an author, and ends those whose time is over.
func TestReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		w, _, _ := atWork(t, c)
		var ids []chain.Hash
		for range 5 {
			placed, err := w.Submit(t.Context(), c.Record("thing", nil), false)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, placed.ID)
		}
		late := expiring(c)
		if _, err := w.Submit(t.Context(), late, false); err != nil {
			t.Fatal(err)
		}
		if err := w.ledger.Append(c.Next(), "sync", ""); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		again := open(t, ledgertest.Key("validator 1"), &text{}, func(cfg *Config) {
			*cfg = w.cfg
			cfg.Chain.MempoolRecords, cfg.Chain.MempoolBytes = 2, 1
		})
		p := again.live.Load()
		if p.pool.Len() != 5 || len(p.offers.open) != 5 || len(p.ended) != 1 || p.ended[0].ID != consortium.RecordID(late) {
			t.Fatalf("%d in the pool, %d offered, ended %+v", p.pool.Len(), len(p.offers.open), p.ended)
		}
		sub := again.bus.Subscribe()
		defer sub.Close()
		settled(t, &running{Replica: again, parts: p, services: newWorld(), limits: newLimits()})
		synctest.Wait()
		if events, _ := sub.Take(9); len(events) != 1 || events[0].Data != p.ended[0] || !p.ended[0].Final {
			t.Errorf("told %+v", events)
		}
		if again.ledger.JournalLen() != len(ids) || len(p.offers.rejected) != 1 {
			t.Errorf("%d in the journal, %d to gossip", again.ledger.JournalLen(), len(p.offers.rejected))
		}
	})
}

// TestRejectedRate: the topic gets at most 10 final rejections a second, from a
// validator only.
func TestRejectedRate(t *testing.T) {
	for _, role := range []string{RoleValidator, RoleFollower} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, _ := atWork(t, ledgertest.New(t, 1))
				w.cfg.Chain.Role = role
				var list []event.RecordRejected
				for i := range byte(100) {
					list = append(list, event.RecordRejected{ID: chain.Hash{i}, Reason: "expired", Final: true})
				}
				w.reject(list...)
				w.reject(list...)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- w.tellRejected(ctx) }()
				time.Sleep(3*time.Second + time.Millisecond)
				cancel()
				<-done
				want := 4 * rejectedRate // a burst, and three seconds
				if role == RoleFollower {
					want = 0
				}
				if n := s.published[topicRejected]; n != want {
					t.Errorf("%d messages in 3 s, want %d", n, want)
				}
			})
		})
	}
}

// BenchmarkSubmit is a client's record up to the journal, and one that a block
// brings at once; the signature is about 46 µs of it.
func BenchmarkSubmit(b *testing.B) {
	for _, wait := range []bool{false, true} {
		b.Run(fmt.Sprintf("wait=%t", wait), func(b *testing.B) {
			c := ledgertest.New(b, 1)
			w := open(b, ledgertest.Key("validator 1"), &text{}, func(cfg *Config) {
				member(b, c)(cfg)
				cfg.Chain.MempoolRecords, cfg.Chain.MempoolBytes = 1<<20, 1<<30
			})
			p := w.live.Load()
			ended, cancel := context.WithCancel(b.Context())
			cancel() // it waits for nothing
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				raw := c.RecordBy(ledgertest.Key("author"), func(r *consortium.Record) { r.Body = make([]byte, 256) })
				if len(p.offers.fresh) == ownQueue {
					for range ownQueue {
						<-p.offers.fresh
					}
				}
				b.StartTimer()
				placed, err := w.Submit(ended, raw, wait)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				p.pool.Remove(placed.ID)
				b.StartTimer()
			}
		})
	}
}
