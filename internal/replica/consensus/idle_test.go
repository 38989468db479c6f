package consensus

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// heldStore stores a block only when it may.
type heldStore struct {
	Ledger
	hold atomic.Pointer[chan struct{}]
}

func (h *heldStore) AppendPrepared(p *ledger.Prepared, source string, from peer.ID) error {
	if hold := h.hold.Load(); hold != nil {
		<-*hold
	}
	return h.Ledger.AppendPrepared(p, source, from)
}

// While a validator stores a config block, the others ask it for a view change.
// Its view changer has an abort for a controller that ends with that block.
func TestConfigBlockInViewChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		last := tn.nodes[3]
		store := &heldStore{}
		last.store = func(l Ledger) Ledger { store.Ledger = l; return store }
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
		}
		tn.start()
		tn.await(tn.submit(1))
		synctest.Wait()
		hold := make(chan struct{})
		store.hold.Store(&hold)
		id := tn.change(func(c *consortium.Config) { c.Params.BatchRecords++ })
		time.Sleep(200 * time.Millisecond)
		s := last.engine.live.Load()
		for _, from := range []uint64{1, 2, 3} {
			s.give(from, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 1}}})
		}
		time.Sleep(200 * time.Millisecond)
		store.hold.Store(nil)
		close(hold)
		began := time.Now()
		tn.await(append([]chain.Hash{id}, tn.submit(5)...))
		if d := time.Since(began); d > reconfigTimeout || strings.Contains(last.told.String(), "left behind") {
			t.Errorf("it took %v:\n%s", d, last.told.String())
		}
		tn.stop()
	})
}

// The same with a sync that brings the config block: its controller takes no
// abort meanwhile, there is room for one, and the view changer has two.
func TestConfigBlockBySyncInViewChange(t *testing.T) {
	for range 8 { // a controller that is to end, and has an abort too, does the one or the other
		synctest.Test(t, func(t *testing.T) {
			tn := newTestNet(t, 4, inVirtualTime)
			last := tn.nodes[3]
			for _, n := range tn.nodes {
				n.ahead = tn.aheadOf(n)
			}
			tn.start()
			tn.await(tn.submit(1))
			synctest.Wait()
			hold := make(chan struct{})
			last.pull = func(context.Context) bool { <-hold; return false }
			last.askSync()
			synctest.Wait()
			last.deaf.Store(true)
			id := tn.change(func(c *consortium.Config) { c.Params.BatchRecords++ })
			tn.nodes[0].until(func() bool { return tn.nodes[0].hasAll([]chain.Hash{id}) })
			s := last.engine.live.Load()
			for _, from := range []uint64{1, 2, 3} {
				s.give(from, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 1}}})
			}
			time.Sleep(200 * time.Millisecond)
			last.deaf.Store(false)
			close(hold)
			began := time.Now()
			tn.await(append([]chain.Hash{id}, tn.submit(5)...))
			if d := time.Since(began); d > reconfigTimeout || last.sessions() != 1 || strings.Contains(last.told.String(), "left behind") {
				t.Errorf("it took %v, %d sessions:\n%s", d, last.sessions(), last.told.String())
			}
			tn.stop()
		})
	}
}
