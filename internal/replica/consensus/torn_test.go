package consensus

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// tornTip is a store that cannot read the block at its tip while bad says so.
type tornTip struct {
	Ledger
	bad *atomic.Bool
}

func (s tornTip) Block(h uint64) (*consortium.Block, error) {
	if s.bad.Load() && h == s.Tip().Head.Height {
		return nil, errors.New("checksum mismatch")
	}
	return s.Ledger.Block(h)
}

// A validator whose tip is damaged waits for its repair, and votes then.
func TestTornTipWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(20))
		n, bad := tn.nodes[3], &atomic.Bool{}
		n.stop()
		bad.Store(true)
		n.store = func(l Ledger) Ledger { return tornTip{l, bad} }
		n.start()
		time.Sleep(10 * time.Minute)
		select {
		case <-n.ended:
			t.Fatalf("the engine ended: %v", n.end)
		default:
		}
		if n.engine.live.Load() != nil {
			t.Error("votes on a tip that cannot be read")
		}
		bad.Store(false)
		time.Sleep(2 * time.Second)
		if n.engine.live.Load() == nil {
			t.Error("does not vote although its tip is repaired")
		}
		tn.await(tn.submit(5))
		tn.stop()
	})
}

// A sync that ends on a tip that cannot be read ends the session, not the
// process, and the library stops.
func TestTornTipInSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		n, bad, armed := tn.nodes[3], &atomic.Bool{}, &atomic.Bool{}
		n.store = func(l Ledger) Ledger { return tornTip{l, bad} }
		n.pull = func(context.Context) bool { bad.Store(armed.Load()); return false }
		tn.start()
		tn.await(tn.submit(5))
		armed.Store(true) // before it is deaf: a sync may come at any time from then on
		n.deaf.Store(true)
		ids := tn.submit(20)
		for _, other := range tn.nodes[:3] {
			other.until(func() bool { return other.hasAll(ids) })
		}
		synctest.Wait() // what it does not hear has passed
		n.deaf.Store(false)
		log := ""
		for range 120 {
			tn.submit(1)
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			log = n.told.String()
		}
		if !strings.Contains(log, "its tip cannot be read") || strings.Contains(log, "left behind") {
			t.Errorf("the session did not end by itself:\n%s", log)
		}
		armed.Store(false)
		bad.Store(false)
		tn.await(tn.submit(5))
		tn.stop()
	})
}

// The only validator has nobody to make a block with, and so ends with what to
// do where no peer has its tip.
func TestTornTipAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 1, inVirtualTime)
		tn.start()
		tn.await(tn.submit(5))
		n, bad := tn.nodes[0], &atomic.Bool{}
		n.stop()
		bad.Store(true)
		n.store = func(l Ledger) Ledger { return tornTip{l, bad} }
		heads := atomic.Pointer[map[peer.ID]uint64]{}
		heads.Store(&map[peer.ID]uint64{"follower": n.ledger.Tip().Head.Height})
		n.heads = func() map[peer.ID]uint64 { return *heads.Load() }
		n.start()
		time.Sleep(time.Hour)
		select {
		case <-n.ended:
			t.Fatalf("ended although a follower has the block: %v", n.end)
		default:
		}
		heads.Store(&map[peer.ID]uint64{"follower": 0})
		<-n.ended
		corrupt, ok := errors.AsType[*ledger.CorruptError](n.end)
		if !ok || corrupt.Height != n.ledger.Tip().Head.Height || !strings.Contains(n.end.Error(), "parley chain check") {
			t.Errorf("ended with %v", n.end)
		}
		n.end = nil
		tn.stop()
	})
}
