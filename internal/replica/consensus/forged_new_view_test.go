package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/consortium"
)

// N=4, one traitor (validator 2, leader of view 1). Its new view holds view data of
// the others that it made itself, on an older block: nobody looks at the signatures.
func TestForgedNewView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		L, T, X, Y := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
		stage := 0
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Log("DIED", n.id.ShortString(), r) }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				if stage == 1 && m.GetCommit() != nil && m.GetCommit().View == 0 && to != X {
					return nil // slow links
				}
				return m
			}
		}
		tn.start()
		for range 4 {
			tn.await(tn.submit(1))
		}
		synctest.Wait()
		tip := L.ledger.Tip()
		h := tip.Head.Height + 1
		tn.mu.Lock()
		stage = 1
		tn.mu.Unlock()
		tn.submit(1)
		for range 1000 {
			if X.ledger.Tip().Head.Height >= h {
				break
			}
			time.Sleep(time.Millisecond)
		}
		t.Log("heights", L.ledger.Tip().Head.Height, X.ledger.Tip().Head.Height, Y.ledger.Tip().Head.Height, "h", h)
		if X.ledger.Tip().Head.Height < h || L.ledger.Tip().Head.Height >= h || Y.ledger.Tip().Head.Height >= h {
			t.Fatal("the block is not with X alone: there is nothing to fork from")
		}
		T.stop() // played by hand from here
		X.stop() // has the block and is gone
		sessions := []*session{L.engine.live.Load(), Y.engine.live.Load()}
		all := func(m *smartbftprotos.Message) {
			for _, s := range sessions {
				s.hear(2, m)
			}
		}
		vc := &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 1}}}
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if len(sessions) == 2 && sessions[1].complains() {
				break
			}
		}
		all(vc)
		time.Sleep(300 * time.Millisecond)
		for i, s := range sessions {
			j, b := s.early.views()
			t.Log("session", i, "joined", j, "begun", b)
		}
		nv := &smartbftprotos.NewView{}
		for _, signer := range []uint64{1, 2, 3} {
			raw := marshal(t, &smartbftprotos.ViewData{NextView: 1, LastDecision: &smartbftprotos.Proposal{Metadata: metadata(t, 0, h-2)}})
			nv.SignedViewData = append(nv.SignedViewData, &smartbftprotos.SignedViewData{RawViewData: raw, Signer: signer, Signature: []byte("forged")})
		}
		all(&smartbftprotos.Message{Content: &smartbftprotos.Message_NewView{NewView: nv}})
		time.Sleep(300 * time.Millisecond)
		for i, s := range sessions {
			j, b := s.early.views()
			t.Log("session", i, "joined", j, "begun", b)
		}
		hd, body, _, err := assemble(tip, tn.genesis.Hash(), marshal(t, &smartbftprotos.ViewMetadata{ViewId: 1, LatestSequence: h}), nil, time.Now(), sessions[0].ledger.Committable)
		if err != nil {
			t.Fatal(err)
		}
		q := propose(hd, body)
		all(&smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: &smartbftprotos.PrePrepare{View: 1, Seq: h,
			Proposal: &smartbftprotos.Proposal{Header: q.Header, Payload: q.Payload, Metadata: q.Metadata, VerificationSequence: uint64(q.VerificationSequence)}}}})
		all(&smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{View: 1, Seq: h, Digest: q.Digest()}}})
		sig := consortium.SignVote(T.key, tn.genesis.Hash(), hd.Hash(), h, 1)
		all(&smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{View: 1, Seq: h, Digest: q.Digest(),
			Signature: &smartbftprotos.Signature{Signer: 2, Value: sig[:], Msg: consortium.VoteMessage(tn.genesis.Hash(), hd.Hash(), h, 1)}}}})
		time.Sleep(500 * time.Millisecond)
		tn.endAt(h)
	})
}
