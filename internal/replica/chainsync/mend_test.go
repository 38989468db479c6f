package chainsync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// copyBelow appends the blocks of full below height to l, which holds none.
func copyBelow(t *testing.T, l, full *ledger.Ledger, height uint64) {
	t.Helper()
	for h := uint64(1); h < height; h++ {
		b, err := full.Block(h)
		if err != nil {
			t.Fatal(err)
		}
		put(t, l, b)
	}
}

// damaged is a ledger with the blocks of c, some keys of which are deleted
// behind its back.
func damaged(t *testing.T, c *ledgertest.Chain, full *ledger.Ledger, keys ...string) *ledger.Ledger {
	t.Helper()
	fs := vfs.NewMem()
	o := ledger.Options{Dir: "ledger", FS: fs, Log: slog.New(slog.DiscardHandler)}
	l, err := ledger.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	copyBelow(t, l, full, full.Tip().Head.Height+1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if err := db.Delete([]byte(k), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = ledger.Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) { panic("pebble") }

// TestMend: a block that a read finds damaged is fetched again, from whoever
// serves the right one, and the store is whole afterwards.
func TestMend(t *testing.T) {
	for _, tt := range []struct {
		name string
		keys []string
		read uint64
	}{
		{"body", []string{"b\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00"}, 5},
		{"header", []string{"h\x00\x00\x00\x00\x00\x00\x00\x03"}, 3},
		{"three in a row", []string{"h\x00\x00\x00\x00\x00\x00\x00\x03", "h\x00\x00\x00\x00\x00\x00\x00\x04", "b\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00"}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { mend(t, tt.keys, tt.read) })
		})
	}
}

func mend(t *testing.T, keys []string, read uint64) {
	c := ledgertest.New(t, 4)
	full := openLedger(t, c, nil)
	grow(t, c, full, 9)
	n := &lan{tb: t}
	nd := n.join(c, damaged(t, c, full, keys...))
	var mu sync.Mutex
	var found event.FindingChanged
	var severities []string
	nd.cfg.Found = func(f event.FindingChanged) {
		mu.Lock()
		defer mu.Unlock()
		found = f
		severities = append(severities, f.Severity)
	}
	finding := func(severity, why string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if found.Code != "PLY-104" || found.Title != "block_damaged" || found.Severity != severity || !strings.Contains(found.Why, why) {
			t.Errorf("finding %+v, want %s: %s", found, severity, why)
		}
	}
	lying, stalling := n.join(c, full), n.join(c, full)
	lying.handle = lieBodies(full)
	stalling.handle = stallBodies(stalling.handle)
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- nd.Mend(ctx) }()
	if _, err := nd.ledger.Block(read); err == nil {
		t.Fatal("nothing is damaged")
	}
	time.Sleep(time.Minute)
	if _, err := nd.ledger.Block(read); err == nil {
		t.Fatal("repaired out of nothing")
	}
	finding("crit", fmt.Sprintf("block %d is damaged on disk and no peer serves it", read))
	finding("crit", "parley chain check")
	honest := n.join(c, full)
	for h := uint64(1); h <= 9; h++ {
		time.Sleep(time.Minute)
		_, _ = nd.ledger.Block(h) // a reader meets what is damaged
	}
	time.Sleep(time.Minute)
	if err := nd.ledger.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	finding("ok", "repaired")
	if severities[0] != "warn" {
		t.Errorf("findings %v, want warn while it is fetched", severities)
	}
	sameChain(t, full, nd.ledger)
	if got := nd.charged(honest); len(got) > 0 {
		t.Errorf("honest peer charged with %v", got)
	}
	if got := nd.charged(lying); !slices.Contains(got, chain.InvalidBlock) {
		t.Errorf("liar charged with %v", got)
	}
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	n.wg.Wait()
}

// headerKeys are the keys of the headers of the heights [from, to).
func headerKeys(from, to uint64) (keys []string) {
	for h := from; h < to; h++ {
		keys = append(keys, "h"+string(binary.BigEndian.AppendUint64(nil, h)))
	}
	return keys
}

// counting counts the requests that a node serves.
func counting(nd *node, requests *atomic.Int64) *node {
	serve := nd.handle
	nd.handle = func(ctx context.Context, st chain.Stream) error {
		requests.Add(1)
		return serve(ctx, st)
	}
	return nd
}

// TestMendMany: a stretch of damaged headers of any length is repaired from its
// top down, each block asked for once.
func TestMendMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 4)
		full := openLedger(t, c, nil)
		grow(t, c, full, 160)
		const from, to = 3, 143
		n := &lan{tb: t}
		nd := n.join(c, damaged(t, c, full, headerKeys(from, to)...))
		var requests atomic.Int64
		for range 3 {
			counting(n.join(c, full), &requests)
		}
		if high, err := nd.mend(t.Context(), from); err != nil {
			t.Fatalf("at block %d: %v", high, err)
		}
		if got := requests.Load(); got != 2*(to-from) { // a header and a body
			t.Errorf("%d requests for %d blocks", got, to-from)
		}
		sameChain(t, full, nd.ledger)
		n.wg.Wait()
	})
}

// TestMendUnserved: where nobody has the top of a stretch, a round asks each
// peer once, and rounds are far apart, however long the stretch is.
func TestMendUnserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 4)
		full := openLedger(t, c, nil)
		grow(t, c, full, 30)
		behind := openLedger(t, c, nil)
		copyBelow(t, behind, full, 20)
		n := &lan{tb: t}
		nd := n.join(c, damaged(t, c, full, headerKeys(3, 21)...))
		var requests atomic.Int64
		for range 4 {
			counting(n.join(c, behind), &requests)
		}
		if high, err := nd.mend(t.Context(), 3); !errors.Is(err, errNobody) || high != 20 || requests.Load() != 4 {
			t.Errorf("stuck at block %d after %d requests: %v", high, requests.Load(), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- nd.Mend(ctx) }()
		requests.Store(0)
		for range 60 {
			time.Sleep(10 * time.Second)
			for h := uint64(3); h < 21; h++ {
				_, _ = nd.ledger.Block(h) // readers meet all of them, again and again
			}
		}
		if got := requests.Load(); got > 4*14*3 { // 4 peers, after 0, 5, 15, 35, 75 s and each minute then
			t.Errorf("%d requests in ten minutes", got)
		}
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		n.wg.Wait()
	})
}

// TestMendGoesOn: a block that nobody serves holds up no other one.
func TestMendGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 4)
		full := openLedger(t, c, nil)
		grow(t, c, full, 30)
		behind := openLedger(t, c, nil)
		copyBelow(t, behind, full, 20)
		n := &lan{tb: t}
		nd := n.join(c, damaged(t, c, full, append(headerKeys(25, 26), headerKeys(5, 8)...)...))
		n.join(c, behind)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- nd.Mend(ctx) }()
		_, _ = nd.ledger.Block(25)
		time.Sleep(time.Second)
		_, _ = nd.ledger.Block(5)
		time.Sleep(time.Second)
		for h := uint64(5); h < 8; h++ {
			if _, err := nd.ledger.Block(h); err != nil {
				t.Error(err)
			}
		}
		n.join(c, full)
		time.Sleep(mendMost)
		if _, err := nd.ledger.Block(25); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		n.wg.Wait()
	})
}
