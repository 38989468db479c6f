package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// N=4, one traitor: validator 2, leader of view 1, sends two new views, one with the
// block in flight of view 0 and one without, and the second reaches the library of
// one validator. To a vote for that block in view 1 it
// adds one of view 0, and its own: together they are a quorum, and no decision.
func TestMixedVotesTraitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		L, T, X, Y := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
		x := &traitor{t: t, tn: tn, self: T, b: map[uint64]*smartbftprotos.PrePrepare{}}
		stage := 0
		var P *smartbftprotos.PrePrepare
		var xVote, tVote *smartbftprotos.Message
		twin := make(chan *smartbftprotos.Message, 1)
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
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
					if to == Y {
						m = x.twin(m, func(d *smartbftprotos.ViewData) { d.InFlightProposal, d.InFlightPrepared = P.Proposal, true })
						select {
						case twin <- m: // past confirms, which would keep it back
						default:
						}
						return nil
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
		sY.hand(2, <-twin)
		for range 10000 {
			sY.early.mu.Lock()
			decides := sY.early.decide
			sY.early.mu.Unlock()
			if decides {
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
			sig := consortium.SignVote(T.key, tn.genesis.Hash(), hd.Hash(), hd.Height, 1)
			tVote = proto.Clone(xVote).(*smartbftprotos.Message)
			tVote.GetCommit().Signature = &smartbftprotos.Signature{Signer: 2, Value: sig[:], Msg: consortium.VoteMessage(tn.genesis.Hash(), hd.Hash(), hd.Height, 1)}
			tn.mu.Unlock()
			if _, counts := sY.ballot.counted(hd.Height, hd.Hash()); !counts {
				t.Error("Y counts no votes for the block in flight: there is nothing to mix")
			}
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

// Votes of two views decide nothing, whether they are counted one by one or come as
// a decision in view data.
func TestVotesOfOneView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		synctest.Wait()
		s, tip := tn.nodes[1].engine.live.Load(), tn.nodes[1].ledger.Tip()
		h, body, _, err := assemble(tip, tn.genesis.Hash(), metadata(t, 0, tip.Head.Height+1), nil, time.Now(), s.ledger.Committable)
		if err != nil {
			t.Fatal(err)
		}
		p := propose(h, body)
		vote := func(i int, view uint64) types.Signature {
			sig := consortium.SignVote(tn.nodes[i].key, tn.genesis.Hash(), h.Hash(), h.Height, view)
			return types.Signature{ID: uint64(i + 1), Value: sig[:], Msg: consortium.VoteMessage(tn.genesis.Hash(), h.Hash(), h.Height, view)}
		}
		counts := func(sig types.Signature, want bool) {
			t.Helper()
			if _, err := s.VerifyConsenterSig(sig, p); (err == nil) != want {
				t.Errorf("vote counts %v: %v", !want, err)
			}
		}
		counts(vote(2, 0), true) // nothing is counted yet
		counts(vote(2, 3), true)
		if _, ok := s.ballot.castInFlight(ownVote{h.Height, h.Hash(), 2}, 0); !ok {
			t.Fatal("no vote")
		}
		counts(vote(2, 2), true)
		counts(vote(2, 0), false)
		counts(vote(2, 3), false)
		lie := vote(2, 0)
		lie.Msg = vote(2, 2).Msg
		counts(lie, false)
		if _, err := block(&piece{header: h, body: body}, []types.Signature{vote(0, 2), vote(1, 2), vote(2, 0)}); err == nil {
			t.Error("a certificate of two views")
		}
		data := func(views ...uint64) *smartbftprotos.Message {
			d := &smartbftprotos.ViewData{NextView: 9, LastDecision: &smartbftprotos.Proposal{Header: p.Header, Payload: p.Payload, Metadata: p.Metadata}}
			for i, view := range views {
				sig := vote(i, view)
				d.LastDecisionSignatures = append(d.LastDecisionSignatures, &smartbftprotos.Signature{Signer: sig.ID, Value: sig.Value, Msg: sig.Msg})
			}
			raw := marshal(t, d)
			sig := consortium.SignView(tn.nodes[0].key, tn.genesis.Hash(), raw)
			return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{RawViewData: raw, Signer: 1, Signature: sig[:]}}}
		}
		if s.forgedView(1, data(2, 2, 2)) || !s.forgedView(1, data(2, 2, 0)) {
			t.Error("view data with a decision by votes of two views are taken, or good ones are not")
		}
		tn.stop()
	})
}

// N=4, one traitor that leads view 1 and sends two new views: with its help two
// would vote for its new block, one for the block in flight of view 0, and neither
// would be decided. It takes no part in later views, and votes for nothing. The three
// others must find one block without it.
func TestTwoNewViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		L, T, X, Y := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
		x := &traitor{t: t, tn: tn, self: T, b: map[uint64]*smartbftprotos.PrePrepare{}}
		stage := 0
		var P *smartbftprotos.PrePrepare
		twins := 0
		for _, n := range tn.nodes {
			n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				if stage == 0 {
					return m
				}
				if p := m.GetPrePrepare(); p != nil && p.View == 0 && P == nil {
					P = p
				}
				if p := m.GetPrepare(); p != nil && p.View == 0 && p.Seq > 0 && to != Y {
					return nil // slow links: Y alone votes in view 0
				}
				if m.GetViewData() != nil && n == Y {
					return nil // the traitor takes no notice of it
				}
				if c := m.GetCommit(); c != nil && (n == T || to == T) {
					return nil // it votes for nothing, and does not even decide itself
				}
				if n == T && ofViewAfter(m, 1) {
					return nil
				}
				if nv := m.GetNewView(); nv != nil && n == T && to == Y {
					twins++
					m = x.twin(m, func(d *smartbftprotos.ViewData) { d.InFlightProposal, d.InFlightPrepared = P.Proposal, true })
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
		tn.submit(1)
		for _, n := range []*testNode{L, X, Y} {
			n.until(func() bool { return n.ledger.Tip().Head.Height >= h })
		}
		tn.mu.Lock()
		if twins == 0 {
			t.Error("there was one new view of view 1")
		}
		tn.mu.Unlock()
		tn.endAt(h)
	})
}

// ofViewAfter reports whether m is about a later view.
func ofViewAfter(m *smartbftprotos.Message, view uint64) bool {
	at, _ := changesTo(m)
	if v := m.GetViewChange(); v != nil {
		at = v.NextView
	}
	if p, ok := placeOf(m); ok {
		at = p.view
	}
	return at > view
}
