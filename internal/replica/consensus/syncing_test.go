package consensus

import (
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// A sync brings a config block of a later view: it informs a view changer that has
// ended, which writes no line. In real time: in virtual time the gate hangs as well.
func TestSyncOfAConfigBlockEnds(t *testing.T) {
	tn := newTestNet(t, 4)
	last := tn.nodes[3]
	for _, n := range tn.nodes {
		n.ahead = tn.aheadOf(n)
	}
	tn.start()
	tn.await(tn.submit(1))
	time.Sleep(time.Second)
	last.deaf.Store(true)
	for _, n := range tn.nodes[:3] {
		n.engine.live.Load().bft.Complain(0, true)
	}
	for _, n := range tn.nodes[:3] {
		n.until(func() bool { return n.engine.live.Load().view.Load() == 1 })
	}
	id := tn.change(func(c *consortium.Config) { c.Params.BatchRecords++ })
	for _, n := range tn.nodes[:3] {
		n.until(func() bool { return n.hasAll([]chain.Hash{id}) })
	}
	last.deaf.Store(false)
	last.askSync()
	s := last.engine.live.Load()
	last.until(func() bool { return last.hasAll([]chain.Hash{id}) })
	time.Sleep(2 * time.Second)
	tn.await(tn.submit(3))
	t.Log("view", s.view.Load(), "same session", s == last.engine.live.Load(), "syncing", s.syncing.Load(), "sessions", last.sessions())
	stuck := s.syncing.Load()
	tn.nodes[1].kill()
	began := time.Now()
	rest := []*testNode{tn.nodes[0], tn.nodes[2], last}
	ids := tn.submitTo(rest, 3)
	for _, n := range rest {
		n.until(func() bool { return n.hasAll(ids) })
	}
	if stuck {
		t.Errorf("a sync lasts for ever, and the next view change took %v", time.Since(began))
	}
	tn.nodes[1].start()
	tn.stop()
}
