package mempool

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// TestRestore: what was accepted before comes back over all bounds, and the
// next one has to wait for room.
func TestRestore(t *testing.T) {
	size := int64(len(record("a", nil)))
	var refuse error
	p := New(Config{Records: 2, Bytes: 2 * size, AuthorPending: 1, AuthorBytes: size},
		Rules{
			Genesis: genesis, Committable: func(*consortium.Record, chain.Hash) error { return refuse },
			Closed: func() error { return consortium.Refuse(consortium.Syncing, "") },
		}, nil, slog.New(slog.DiscardHandler), nil)
	for range 4 {
		raw := record("a", nil)
		id, err := p.Restore(raw)
		if err != nil || !p.Has(id) || !p.Verified(id) {
			t.Fatal(err)
		}
		if _, err := p.Restore(raw); !errors.Is(err, chain.ErrKnown) {
			t.Fatal(err)
		}
	}
	if got := p.Next(9, 1<<20, nil); len(got) != 4 || p.Bytes() != 4*size {
		t.Errorf("%d records of %d bytes", len(got), p.Bytes())
	}
	if _, err := p.Add(record("b", nil), "peer"); reason(err) != consortium.MempoolFull {
		t.Errorf("got %v", err)
	}
	refuse = consortium.Refuse(consortium.Expired, "")
	id, err := p.Restore(record("a", nil))
	if reason(err) != consortium.Expired || p.Has(id) {
		t.Errorf("got %v", err)
	}
}

// TestDoor: a client is told of the node's state and of an earlier answer, and a
// few events tell of it; peers are not held up.
func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed, ended error
		bus := event.NewBus(1000)
		p := New(roomy, Rules{
			Genesis: genesis, Committable: func(*consortium.Record, chain.Hash) error { return nil },
			Height: func() uint64 { return 7 },
			Closed: func() error { return closed },
			Ended:  func(chain.Hash) error { return ended },
		}, bus, slog.New(slog.DiscardHandler), nil)
		sub := bus.Subscribe()
		defer sub.Close()
		raw := record("a", nil)
		closed = consortium.Refuse(consortium.ShuttingDown, "stop")
		for range 100 {
			if _, err := p.Add(raw, ""); reason(err) != consortium.ShuttingDown {
				t.Fatal(err)
			}
		}
		author := consortium.PublicKeyOf(key("a"))
		want := event.RecordRejected{ID: consortium.RecordID(raw), Reason: "shutting_down", Detail: "stop", Height: 7, Author: hex.EncodeToString(author[:])}
		if events, _ := sub.Take(100); len(events) != refusedEvents || events[0].Data != want {
			t.Fatalf("%d events, %+v", len(events), events[0].Data)
		}
		closed, ended = nil, consortium.Refuse(consortium.StaleConfig, "")
		if _, err := p.Add(raw, ""); reason(err) != consortium.StaleConfig {
			t.Fatal(err)
		}
		closed = consortium.Refuse(consortium.DiskLow, "")
		if _, err := p.Add(raw, "peer"); err != nil {
			t.Fatal(err)
		}
		if events, _ := sub.Take(100); len(events) != 0 {
			t.Fatalf("events %v", events)
		}
	})
}
