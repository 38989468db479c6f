package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// One traitor that leads the view says nothing but that its view is a later one,
// again and again: each makes the library sync, and no new view is handed over.
func TestSyncFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		T, honest := tn.nodes[0], tn.nodes[1:]
		silent := false
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
			n.ahead = tn.aheadOf(n)
		}
		T.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			if silent && m.GetStateTransferResponse() == nil {
				return nil
			}
			return m
		}
		tn.start()
		tn.await(tn.submit(1))
		time.Sleep(time.Second)
		h := honest[0].ledger.Tip().Head.Height + 1
		tn.mu.Lock()
		silent = true
		tn.mu.Unlock()
		tn.submitTo(honest, 1)
		began := time.Now()
		beat := &smartbftprotos.Message{Content: &smartbftprotos.Message_HeartBeat{HeartBeat: &smartbftprotos.HeartBeat{View: 1 << 40}}}
		done := func() bool {
			for _, n := range honest {
				if n.ledger.Tip().Head.Height < h {
					return false
				}
			}
			return true
		}
		for range 12000 {
			if done() {
				break
			}
			for _, n := range honest {
				if s := n.engine.live.Load(); s != nil {
					select {
					case <-s.started:
						go s.hear(1, beat)
					default:
					}
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, n := range honest {
			if s := n.engine.live.Load(); s != nil {
				j, b := s.early.views()
				t.Log(n.id.ShortString(), "height", n.ledger.Tip().Head.Height, "joined", j, "begun", b, "syncing", s.syncing.Load(), "sessions", n.sessions())
			}
		}
		t.Log("after", time.Since(began))
		if !done() {
			t.Error("the chain stands")
		}
		tn.endAt(h)
	})
}

// A new view waits for a sync, and not for ever.
func TestNewViewWaitsForASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		s := tn.nodes[0].engine.live.Load()
		s.syncLine(syncTaken)
		c := confirmation{view: 1}
		s.confirms.own, s.confirms.held = c, &smartbftprotos.Message{Content: &smartbftprotos.Message_NewView{NewView: &smartbftprotos.NewView{}}}
		s.confirms.note(3, c)
		s.confirmed()
		held := func() bool {
			s.confirms.mu.Lock()
			defer s.confirms.mu.Unlock()
			return s.confirms.held != nil
		}
		time.Sleep(syncHold - time.Millisecond)
		if !held() {
			t.Error("handed over while the sync lasts")
		}
		time.Sleep(2 * time.Millisecond)
		if held() {
			t.Error("it waits for ever")
		}
		tn.stop()
	})
}
