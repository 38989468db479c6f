package consensus

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// N=4, one traitor: validator 2, leader of view 1, sends two new views.
//
// A vote that is signed names no view, and so votes of two views make one
// certificate: the mend is in the format of votes.
func TestMixedVotesTraitor(t *testing.T) {
	if os.Getenv("OPEN_FORK") == "" {
		t.Skip("known to fork, and open: a vote names no view, so one traitor that leads a view can make a certificate of votes of two views; OPEN_FORK=1 runs it")
	}
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		L, T, X, Y := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
		x := &traitor{t: t, tn: tn, self: T, b: map[uint64]*smartbftprotos.PrePrepare{}}
		stage := 0
		var P *smartbftprotos.PrePrepare
		var xVote, tVote *smartbftprotos.Message
		sentNV := 0
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Log("DIED", n.id.ShortString(), r) }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				if stage == 0 {
					return m
				}
				if p := m.GetPrePrepare(); p != nil && p.View == 0 && P == nil {
					P = p
				}
				if p := m.GetPrepare(); p != nil && p.View == 0 && to != X {
					return nil // slow links
				}
				if c := m.GetCommit(); c != nil && c.View == 0 && n == X && to == Y {
					xVote = m // slow link: it comes later
					return nil
				}
				if m.GetViewData() != nil && n == X {
					return nil // the traitor takes no notice of it
				}
				if nv := m.GetNewView(); nv != nil && n == T {
					sentNV++
					if to == Y {
						m = proto.Clone(m).(*smartbftprotos.Message)
						for i, svd := range m.GetNewView().SignedViewData {
							if svd.Signer == 2 {
								w := &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: svd}}
								w = x.resign(w, func(d *smartbftprotos.ViewData) { d.InFlightProposal, d.InFlightPrepared = P.Proposal, true })
								m.GetNewView().SignedViewData[i] = w.GetViewData()
							}
						}
					}
					return m
				}
				return m
			}
		}
		tn.start()
		tn.await(tn.submit(1))
		h := L.ledger.Tip().Head.Height + 1
		tn.mu.Lock()
		stage = 1
		tn.mu.Unlock()
		ids := tn.submit(1)
		_ = ids
		sY := Y.engine.live.Load()
		for range 10000 {
			if j, b := sY.early.views(); j > b {
				break
			}
			time.Sleep(time.Millisecond)
		}
		tn.mu.Lock()
		if P == nil || xVote == nil {
			t.Errorf("P %v xVote %v", P != nil, xVote != nil)
			tn.mu.Unlock()
		} else {
			hd, _ := consortium.DecodeHeader(P.Proposal.Header)
			sig := consortium.SignVote(T.key, tn.genesis.Hash(), hd.Hash(), hd.Height)
			tVote = proto.Clone(xVote).(*smartbftprotos.Message)
			tVote.GetCommit().Signature = &smartbftprotos.Signature{Signer: 2, Value: sig[:], Msg: xVote.GetCommit().Signature.Msg}
			tn.mu.Unlock()
			j, b := sY.early.views()
			t.Log("Y joined, begun", j, b)
			sY.hear(3, xVote)
			sY.hear(2, tVote)
		}
		for range 5000 {
			if Y.ledger.Tip().Head.Height >= h && X.ledger.Tip().Head.Height >= h && L.ledger.Tip().Head.Height >= h {
				break
			}
			time.Sleep(time.Millisecond)
		}
		tn.endAt(h)
	})
}

// N=3, nobody cheats: validator 2, leader of view 1, loses its power between its new
// view and its own vote, and makes another one.
func TestMixedVotesCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		Y, T, X := tn.nodes[0], tn.nodes[1], tn.nodes[2]
		stage := 0
		var xVote *smartbftprotos.Message
		sent := make(chan struct{})
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Log("DIED", n.id.ShortString(), r) }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				if stage == 0 {
					return m
				}
				if p := m.GetPrepare(); p != nil && p.View == 0 && to != X {
					return nil
				}
				if c := m.GetCommit(); c != nil && c.View == 0 && n == X {
					if to == Y {
						xVote = m // slow link
					}
					return nil
				}
				if stage == 1 && m.GetViewData() != nil && n == Y { // lost; it is told again
					return nil
				}
				if stage >= 2 && m.GetViewData() != nil && n == X { // later than that of Y
					return nil
				}
				if stage < 3 && m.GetNewView() != nil {
					if to == X || stage == 2 {
						return nil // dies before
					}
					close(sent)
					stage = 2
				}
				return m
			}
		}
		tn.start()
		tn.await(tn.submit(1))
		h := Y.ledger.Tip().Head.Height + 1
		tn.mu.Lock()
		stage = 1
		tn.mu.Unlock()
		tn.submit(1)
		<-sent
		T.dumb.Store(true)
		entries := T.memory.content() // as it was when the new view was sent: see processViewDataMsg
		for len(entries) > 0 {
			m := &smartbftprotos.SavedMessage{}
			if err := proto.Unmarshal(entries[len(entries)-1], m); err != nil || m.GetViewChange() != nil {
				break
			}
			t.Logf("cut %T", m.GetContent())
			entries = entries[:len(entries)-1]
		}
		T.kill()
		T.memory = &MemoryWAL{entries: entries, Died: T.memory.Died}
		tn.mu.Lock()
		stage = 3
		tn.mu.Unlock()
		T.start()
		began := time.Now()
		for range 3000 {
			if X.ledger.Tip().Head.Height >= h && T.ledger.Tip().Head.Height >= h {
				break
			}
			time.Sleep(time.Millisecond)
		}
		t.Log("decided after", time.Since(began), "Y at", Y.ledger.Tip().Head.Height, Y.sessions())
		sY := Y.engine.live.Load()
		if xVote == nil {
			t.Error("no vote of X")
		} else {
			sY.hear(3, xVote)
		}
		for range 5000 {
			if Y.ledger.Tip().Head.Height >= h && X.ledger.Tip().Head.Height >= h && T.ledger.Tip().Head.Height >= h {
				break
			}
			time.Sleep(time.Millisecond)
		}
		tn.endAt(h)
	})
}
