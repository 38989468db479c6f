package chainsync

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// asker is a stream of one peer.
type asker struct {
	memStream
	id peer.ID
}

func (a *asker) Peer() peer.ID { return a.id }

// One peer is answered 512 times a second, whatever it asks, and others at once.
func TestRequestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nd := (&lan{tb: t}).join(ledgertest.New(t, 1), nil)
		ask := func(ctx context.Context, id peer.ID) error {
			request := framed(wire.SyncRequest{Kind: wire.SyncHead}.Encode())
			return nd.Syncer.handle(ctx, &asker{memStream: memStream{Reader: bytes.NewReader(request)}, id: id})
		}
		start := time.Now()
		for range 3 * 512 {
			if err := ask(t.Context(), "greedy"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 2*time.Second-time.Millisecond || took > 2*time.Second+time.Millisecond {
			t.Errorf("%d requests took %s, want 2s", 3*512, took)
		}
		start = time.Now()
		if err := ask(t.Context(), "other"); err != nil || time.Since(start) > 0 {
			t.Errorf("another peer waited %s: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ask(ctx, "greedy"); err == nil {
			t.Error("served after the end")
		}
		for i := range 2 * maxBudgets {
			if err := ask(t.Context(), peer.ID(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(nd.asked.of); n > maxBudgets {
			t.Errorf("%d peers are remembered", n)
		}
	})
}

// One peer is served 128 MiB a second, on whatever streams.
func TestByteBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nd := (&lan{tb: t}).join(ledgertest.New(t, 1), nil)
		x, end, err := nd.asked.begin(t.Context(), "greedy")
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		a := &answer{Syncer: nd.Syncer, st: &asker{}, end: time.Now().Add(serveTime), budget: x}
		start := time.Now()
		frame := make([]byte, wire.MaxSyncAnswer)
		for range 3 * (128 << 20) / len(frame) {
			if err := a.write(t.Context(), frame); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 2*time.Second-time.Millisecond || took > 2*time.Second+10*time.Millisecond {
			t.Errorf("384 MiB took %s, want 2s", took)
		}
	})
}
