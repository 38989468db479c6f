package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
)

// There is one new view of a view, also for who starts again, until a block has come.
func TestConfirmOnce(t *testing.T) {
	one, two := confirmation{view: 4, sum: [32]byte{1}}, confirmation{view: 4, sum: [32]byte{2}}
	for _, tt := range []struct {
		name      string
		took      took
		c         confirmation
		seq       uint64
		ok, again bool
	}{
		{"the first", took{}, one, 7, true, false},
		{"the same", took{one, 7}, one, 7, true, true},
		{"another one", took{two, 7}, one, 7, false, false},
		{"of an earlier view", took{confirmation{view: 5}, 7}, one, 7, false, false},
		{"of a later view", took{confirmation{view: 3}, 7}, one, 7, true, false},
		{"after a block", took{two, 7}, one, 8, true, false},
		{"of an earlier view, after a block", took{confirmation{view: 5}, 7}, one, 8, true, false},
		{"of a view without view data of ours", took{}, confirmation{view: 6}, 7, false, false},
	} {
		b := ballot{next: 5, took: tt.took}
		if ok, again := b.confirm(tt.c, tt.seq); ok != tt.ok || again != tt.again {
			t.Errorf("%s: confirmed %v, again %v", tt.name, ok, again)
		}
		if tt.ok && !b.passed(4, tt.seq) {
			t.Errorf("%s: not noted", tt.name)
		}
	}

	kept := one.message()
	kept.GetPrepare().Seq = 5
	confirmed := marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_Commit{Commit: kept}})
	change := marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 3}}})
	proposal := func(view, seq uint64) []byte {
		return marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ProposedRecord{ProposedRecord: &smartbftprotos.ProposedRecord{
			PrePrepare: &smartbftprotos.PrePrepare{View: view, Seq: seq},
		}}})
	}
	for _, tt := range []struct {
		name     string
		log      [][]byte
		one, two bool
	}{
		{"view data", [][]byte{change}, true, true},
		{"a confirmation", [][]byte{change, confirmed}, true, false},
		{"a proposal of that view", [][]byte{proposal(4, 5)}, false, false},
		{"the block in flight", [][]byte{change, confirmed, proposal(3, 5)}, true, false},
		{"a proposal of a view before", [][]byte{proposal(3, 5), change}, true, true},
	} {
		for i, c := range []confirmation{one, two} {
			b, err := recall(chain.Hash{}, tt.log)
			if err != nil {
				t.Fatal(err)
			}
			if ok, _ := b.confirm(c, 5); ok != []bool{tt.one, tt.two}[i] {
				t.Errorf("a log with %s: new view %d confirmed %v", tt.name, i+1, ok)
			}
		}
	}
	if n := len(withoutConfirmations([][]byte{change, confirmed, proposal(3, 5)})); n != 2 {
		t.Errorf("the library gets %d entries", n)
	}
	kept.GetPrepare().Digest = "?"
	if _, err := recall(chain.Hash{}, [][]byte{marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_Commit{Commit: kept}})}); err == nil {
		t.Error("a malformed confirmation is taken")
	}
}

// N=4, one traitor that leads view 1. X confirms its new view with a block in flight,
// for which Y votes, and loses its power. Then it gets the other one, in which two
// would vote for a new block of the traitor, that takes no part in later views.
func TestOneNewViewAcrossAPowerCut(t *testing.T) {
	for range 5 { // now and then view 1 is over before the other new view comes, and there is nothing to see
		came := false
		synctest.Test(t, func(t *testing.T) { came = powerCutAfterNewView(t) })
		if came {
			return
		}
	}
	t.Error("view 1 was over before the other new view came, five times")
}

// powerCutAfterNewView tells whether the case came about.
func powerCutAfterNewView(t *testing.T) (came bool) {
	tn := newTestNet(t, 4, inVirtualTime)
	L, T, X, Y := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
	x := &traitor{t: t, tn: tn, self: T, b: map[uint64]*smartbftprotos.PrePrepare{}}
	stage := 0
	var P *smartbftprotos.PrePrepare
	var other *smartbftprotos.Message
	for _, n := range tn.nodes {
		n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
		n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			_, confirms, _ := isConfirmation(m)
			switch p := m.GetPrePrepare(); {
			case stage == 0:
				return m
			case p != nil && p.View == 0 && P == nil:
				P = p
			case m.GetPrepare() != nil && !confirms && m.GetPrepare().View == 0 && to != Y:
				return nil // slow links: Y alone votes in view 0
			case m.GetViewData() != nil && n == Y && to == T:
				return nil // the traitor takes no notice of it
			case m.GetCommit() != nil && (n == T || to == T):
				return nil // it votes for nothing, and does not even decide itself
			case n == T && ofViewAfter(m, 1):
				return nil
			case confirms && n == Y && to == X && stage == 1:
				return nil // slow link
			case m.GetNewView() != nil && n == T:
				other = m
				if to == L || stage == 2 {
					return nil
				}
				return x.twin(m, func(d *smartbftprotos.ViewData) { d.InFlightProposal, d.InFlightPrepared = P.Proposal, true })
			}
			return m
		}
	}
	at := func(s int) {
		tn.mu.Lock()
		defer tn.mu.Unlock()
		stage = s
	}
	tn.start()
	tn.await(tn.submit(1))
	h := L.ledger.Tip().Head.Height + 1
	at(1)
	tn.submit(1)
	for range 10_000 {
		time.Sleep(time.Millisecond)
		if _, v := Y.engine.live.Load().ballot.stands(); v.seq == h && v.view == 1 {
			break
		}
	}
	if _, v := Y.engine.live.Load().ballot.stands(); v.view != 1 {
		tn.stop()
		return false
	}
	at(2)
	X.kill()
	X.start()
	time.Sleep(200 * time.Millisecond)
	for _, n := range []*testNode{X, L} {
		s := n.engine.live.Load()
		if v := s.early.joinedView(); v != 1 {
			t.Logf("%s is in view %d", n.id.ShortString(), v)
			tn.stop()
			return false
		}
		tn.mu.Lock()
		m := other
		tn.mu.Unlock()
		s.hear(2, m)
	}
	for _, n := range []*testNode{L, X, Y} {
		n.until(func() bool { return n.ledger.Tip().Head.Height >= h })
	}
	tn.endAt(h)
	return true
}

// N=3, nobody cheats: validator 2, leader of view 1, loses its power between its new
// view and its own vote. With another one it would bring X to decide another block
// than Y votes for, and when X goes away the two others would stand.
func TestLeaderMakesOneNewView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 3, inVirtualTime)
		Y, T, X := tn.nodes[0], tn.nodes[1], tn.nodes[2]
		stage := 0
		sums := map[confirmation]bool{} // new views of view 1
		sent := make(chan struct{})
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
			n.memory.Died = func(r string) { t.Errorf("%s died: %s", n.id.ShortString(), r) }
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				p, c := m.GetPrepare(), m.GetCommit()
				switch view, _ := changesTo(m); {
				case stage == 0:
					return m
				case p != nil && p.View == 0 && p.Seq > 0 && to != X, c != nil && c.View == 0 && stage < 3:
					return nil // X alone votes in view 0, and nobody hears of it
				case c != nil && stage == 3 && to != X:
					return nil // X alone decides
				case m.GetViewData() != nil && (stage == 1 && n == Y || stage == 3 && view == 1 && n == X):
					return nil
				case m.GetNewView() != nil && view == 1:
					sums[confirmationOf(1, m.GetNewView())] = true
					if stage < 3 && to == X || stage == 2 {
						return nil // it dies before
					}
					if stage == 1 {
						stage = 2
						close(sent)
					}
				}
				return m
			}
		}
		at := func(s int) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			stage = s
		}
		tn.start()
		tn.await(tn.submit(1))
		h := Y.ledger.Tip().Head.Height + 1
		at(1)
		ids := tn.submit(1)
		<-sent
		T.dumb.Store(true)
		log := T.memory.content()
		for len(log) > 0 { // as it was when the new view was sent
			m := &smartbftprotos.SavedMessage{}
			if err := proto.Unmarshal(log[len(log)-1], m); err != nil || m.GetViewChange() != nil || m.GetCommit().GetPrepare() != nil {
				break
			}
			log = log[:len(log)-1]
		}
		T.kill()
		T.memory = &MemoryWAL{entries: log}
		at(3)
		T.start()
		X.until(func() bool { return X.ledger.Tip().Head.Height >= h })
		X.kill()
		at(0)
		ids = append(ids, tn.submit(1)...)
		tn.await(ids)
		tn.mu.Lock()
		if len(sums) != 1 {
			t.Errorf("%d new views of view 1", len(sums))
		}
		tn.mu.Unlock()
		X.start()
		tn.await(tn.submit(1))
		tn.stop()
	})
}
