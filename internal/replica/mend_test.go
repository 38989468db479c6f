package replica

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestSitOutOnFullDisk: a validator that waits with its vote stores nothing on a
// full disk, and what it had seen before still counts afterwards.
func TestSitOutOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := atWork(t, ledgertest.New(t, 1))
		free, asked := false, 0
		done := make(chan error, 1)
		go func() {
			done <- w.sitOut(t.Context(), time.Time{}, func() bool { asked++; return free })
		}()
		time.Sleep(3 * time.Second)
		w.disk.level.Store(diskFull) // without an event
		time.Sleep(3 * time.Second)
		synctest.Wait()
		was := asked
		if was == 0 {
			t.Error("free is not asked while it follows")
		}
		free = true
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if asked != was {
			t.Errorf("it follows on a full disk: asked %d times more", asked-was)
		}
		w.disk.level.Store(diskLow)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// stalling is a world in which one peer never answers.
type stalling struct {
	*world
	mu   sync.Mutex
	asks map[peer.ID]int
}

func (s *stalling) Open(ctx context.Context, p peer.ID, _ string) (chain.Stream, error) {
	s.mu.Lock()
	s.asks[p]++
	s.mu.Unlock()
	if p == "stalls" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, errors.New("no")
}

// TestStallingPeer: a peer that does not answer holds up no offer to others, and
// has one round at a time.
func TestStallingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		w, base, _ := atWork(t, c)
		s := &stalling{world: base, asks: map[peer.ID]int{}}
		w.services = s
		s.meet(chain.Peer{ID: "stalls", Services: chain.Validator}, nil)
		s.meet(chain.Peer{ID: "good", Services: chain.Validator}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.offer(ctx) }()
		const seconds = 9
		for range seconds {
			if _, err := w.Submit(t.Context(), c.Record("thing", nil), false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		s.mu.Lock()
		stalls, good := s.asks["stalls"], s.asks["good"]
		s.mu.Unlock()
		if stalls != 1 || good < seconds-2 {
			t.Errorf("in %d s: %d rounds with who stalls, %d with the other", seconds, stalls, good)
		}
		cancel()
		<-done
	})
}

// TestUntoldRejection: a crash after a final rejection was kept and before it was
// told leaves it to the next start.
func TestUntoldRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		fs, dir := vfs.NewMem(), t.TempDir()
		edit := func(cfg *Config) {
			member(t, c)(cfg)
			cfg.LedgerFS, cfg.DataDir = fs, dir
		}
		id := chain.Hash{7}
		start := func() *Replica { return open(t, ledgertest.Key("validator 1"), &text{}, edit) }
		r := start()
		if fresh, err := r.ledger.Reject(ledger.Refused{ID: id, Reason: "expired", Author: "ab"}); err != nil || len(fresh) != 1 {
			t.Fatal(fresh, err)
		}
		for _, want := range []int{1, 0} {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			r = start()
			sub := r.bus.Subscribe()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			w := &running{Replica: r, parts: r.live.Load(), services: newWorld(), limits: newLimits()}
			go func() { done <- w.settleWaiters(ctx) }()
			synctest.Wait()
			cancel()
			<-done
			events, _ := sub.Take(9)
			sub.Close()
			if len(events) != want {
				t.Fatalf("told %+v, want %d", events, want)
			}
			if want == 1 {
				if x, ok := events[0].Data.(event.RecordRejected); !ok || x.ID != id || x.Author != "ab" || !x.Final {
					t.Errorf("told %+v", events[0].Data)
				}
			}
		}
	})
}

// TestNewKeyOnBackup: a newcomer on a backup does not take over the journal of
// the node that made it; the same key keeps its own.
func TestNewKeyOnBackup(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		c := ledgertest.New(t, 1)
		fs, dir := vfs.NewMem(), t.TempDir()
		want := 1
		if fresh {
			want = 0
		}
		start := func(fresh bool) *Replica {
			return open(t, ledgertest.Key("validator 1"), &text{}, func(cfg *Config) {
				member(t, c)(cfg)
				cfg.LedgerFS, cfg.DataDir, cfg.NewKey = fs, dir, fresh
			})
		}
		r := start(false)
		raw := c.Record("thing", nil)
		if err := errors.Join(r.ledger.Accept(consortium.RecordID(raw), raw), r.ledger.MarkRestored(), r.Close()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r = start(fresh)
			if n := r.ledger.JournalLen(); n != want || len(r.live.Load().offers.open) != want {
				t.Errorf("new key %t: %d in the journal, %d offered", fresh, n, len(r.live.Load().offers.open))
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRefusedBytesCostNoRecords: records over the share of bytes take nothing of
// the share of records.
func TestRefusedBytesCostNoRecords(t *testing.T) {
	l := newLimits()
	now := time.Now()
	for range 3 {
		if l.allow("a", peerRecords, peerBytes+1, now) {
			t.Fatal("over the share of bytes")
		}
	}
	if !l.allow("a", peerRecords, 1, now) {
		t.Error("the refused ones were counted")
	}
}
