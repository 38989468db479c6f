package consensus

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// logOf is a log of a vote for block 5 in view 3, and what stands around it.
func logOf(t *testing.T, h *consortium.Header, view uint64, before, after []uint64) (entries [][]byte) {
	change := func(view uint64) []byte {
		return marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: view}}})
	}
	for _, v := range before {
		entries = append(entries, change(v))
	}
	entries = append(entries,
		marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ProposedRecord{ProposedRecord: &smartbftprotos.ProposedRecord{
			PrePrepare: &smartbftprotos.PrePrepare{View: 3, Seq: 5, Proposal: &smartbftprotos.Proposal{Header: h.Encode()}},
		}}}),
		marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_Commit{Commit: &smartbftprotos.Message{
			Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{View: 3, Seq: 5,
				Signature: &smartbftprotos.Signature{Msg: consortium.VoteMessage(chain.Hash{}, h.Hash(), 5, view)}}},
		}}}))
	for _, v := range after {
		entries = append(entries, change(v))
	}
	return entries
}

// What was signed is stood by, also by who starts again.
func TestBallot(t *testing.T) {
	h := &consortium.Header{Height: 5}
	last := &smartbftprotos.Proposal{Metadata: marshal(t, &smartbftprotos.ViewMetadata{ViewId: 2, LatestSequence: 4})}
	ours := &smartbftprotos.Proposal{Header: h.Encode()}
	other := &smartbftprotos.Proposal{Header: (&consortium.Header{Height: 5, Time: 1}).Encode()}
	for _, tt := range []struct {
		name          string
		view          uint64   // of the vote, as it is signed
		before, after []uint64 // view changes in the log
		begun         uint64
		inFlight      *smartbftprotos.Proposal
		prepared      bool
		sign          bool // view data for view 9
	}{
		{"with the vote", 3, nil, nil, 3, ours, true, true},
		{"without", 3, nil, nil, 3, nil, false, false},
		{"seen only", 3, nil, nil, 3, ours, false, false},
		{"another", 3, nil, nil, 3, other, true, false},
		{"a later view has begun", 3, nil, []uint64{3}, 4, nil, false, true},
		{"no later view has begun", 3, nil, []uint64{3, 4, 5}, 3, nil, false, false},
		{"brought by a later view", 6, []uint64{5}, nil, 4, nil, false, false},
		{"and a view after that has begun", 6, []uint64{5}, nil, 7, nil, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := recall(chain.Hash{}, logOf(t, h, tt.view, tt.before, tt.after))
			if err != nil {
				t.Fatal(err)
			}
			if got := b.leave(&smartbftprotos.ViewData{NextView: 9, LastDecision: last, InFlightProposal: tt.inFlight, InFlightPrepared: tt.prepared}, tt.begun); got != tt.sign {
				t.Errorf("signs: %v", got)
			}
			if b.cast(ownVote{6, h.Hash(), 8}) || !b.cast(ownVote{6, h.Hash(), 9}) {
				t.Error("votes in a view that it has left, or not in the next")
			}
			old := marshal(t, &smartbftprotos.ViewMetadata{ViewId: 8})
			if err := b.enterAt(6, h.Hash(), old); !errors.Is(err, errLeft) {
				t.Errorf("takes a proposal of a view that it has left: %v", err)
			}
		})
	}
	b, err := recall(chain.Hash{}, logOf(t, h, 3, nil, []uint64{3}))
	if err != nil {
		t.Fatal(err)
	}
	if b.cast(ownVote{6, h.Hash(), 3}) {
		t.Error("the view change in the log is forgotten")
	}
	two := (&consortium.Header{Height: 5, Time: 1}).Hash()
	if _, ok := b.castInFlight(ownVote{6, h.Hash(), 3}, 0); ok {
		t.Error("a vote for the block in flight of a view that it has left")
	}
	if _, ok := b.castInFlight(ownVote{5, h.Hash(), 4}, 0); !ok {
		t.Error("no vote for the same block in a later view")
	}
	if _, ok := b.castInFlight(ownVote{5, two, 4}, 0); ok || b.cast(ownVote{5, two, 4}) || b.enterAt(5, two, metadata(t, 4, 5)) == nil {
		t.Error("two votes in one view")
	}
	if err := b.enterAt(5, two, metadata(t, 5, 5)); err != nil {
		t.Errorf("a proposal of a later view is refused: %v", err)
	}
	if !b.cast(ownVote{5, two, 5}) {
		t.Error("no vote in the next view")
	}
}

// Who left a view votes in it for the one block that its view data have said ever
// since it voted for that.
func TestVoteInViewThatWasLeft(t *testing.T) {
	h := &consortium.Header{Height: 5}
	two := (&consortium.Header{Height: 5, Time: 1}).Hash()
	for _, tt := range []struct {
		name  string
		vote  ownVote // in view 2, or later; the log says that it left view 4 for view 5
		begun uint64
		asked ownVote
		ok    bool
	}{
		{"its block again", ownVote{5, h.Hash(), 2}, 2, ownVote{5, h.Hash(), 4}, true},
		{"in the view of the vote", ownVote{5, h.Hash(), 2}, 2, ownVote{5, h.Hash(), 2}, true},
		{"another block", ownVote{5, h.Hash(), 2}, 2, ownVote{5, two, 4}, false},
		{"a view began since, and the vote is dead", ownVote{5, h.Hash(), 2}, 3, ownVote{5, h.Hash(), 4}, false},
		{"before it voted, as its view data did not say", ownVote{5, h.Hash(), 3}, 2, ownVote{5, h.Hash(), 2}, false},
		{"of another height", ownVote{4, h.Hash(), 2}, 2, ownVote{5, h.Hash(), 4}, false},
	} {
		b := ballot{next: 5, vote: tt.vote}
		if _, ok := b.castInFlight(tt.asked, tt.begun); ok != tt.ok {
			t.Errorf("%s: given %v", tt.name, ok)
		}
		b = ballot{next: 5, vote: tt.vote, begun: tt.begun} // as after a start
		if _, ok := b.castInFlight(tt.asked, 0); ok != tt.ok {
			t.Errorf("%s, after a start: given %v", tt.name, ok)
		}
	}
	log := append(logOf(t, h, 3, nil, nil), marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_NewView{NewView: &smartbftprotos.ViewMetadata{ViewId: 4}}}))
	b, err := recall(chain.Hash{}, log)
	if err != nil || b.begun != 4 || b.next != 3 { // the log begins with a proposal of view 3
		t.Errorf("recalled %+v, %v", b, err)
	}
}

// The leader's block is prepared by validator 2 alone. The next view brings it
// to 3 and 4, which vote for it; 2 gets the votes, stores it, and is gone. 3 and
// 4 must stand by their votes: with 1 they could agree on another block.
func TestVoteForBlockInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		first, second := tn.nodes[0], tn.nodes[1]
		stage := 0
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				defer tn.mu.Unlock()
				prepare, commit := m.GetPrepare() != nil, m.GetCommit() != nil
				if stage == 1 && (prepare && to != second || commit) || stage == 2 && commit && to != second {
					return nil
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
		height := first.ledger.Tip().Head.Height
		at(1)
		ids := tn.submit(1)
		time.Sleep(200 * time.Millisecond)
		first.kill()
		at(2)
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			if second.ledger.Tip().Head.Height > height {
				break
			}
		}
		second.kill()
		if second.ledger.Tip().Head.Height == height || tn.nodes[2].ledger.Tip().Head.Height > height || tn.nodes[3].ledger.Tip().Head.Height > height {
			t.Fatal("the block in flight is not at validator 2 alone")
		}
		at(3)
		first.start()
		tn.await(append(ids, tn.submit(5)...))
		second.start()
		tn.await(tn.submit(5))
		tn.stop()
	})
}

// A leader can make its new view twice, with two blocks in flight. There is one
// vote, and who is asked for a second one goes on in a new session, whose
// library holds no lock for ever.
func TestOneVoteForBlocksInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		n := tn.nodes[2]
		s, tip := n.engine.live.Load(), n.ledger.Tip()
		vote := func(at time.Time) []byte {
			h, body, bad, err := assemble(tip, tn.genesis.Hash(), metadata(t, 0, tip.Head.Height+1), nil, at, s.ledger.Committable)
			if err != nil || len(bad) > 0 {
				t.Fatal(bad, err)
			}
			return s.SignProposal(propose(h, body), nil).Value
		}
		now := time.Now()
		if first, again := vote(now), vote(now); len(first) == 0 || len(again) == 0 {
			t.Error("no vote for the same block again")
		} else if len(vote(now.Add(time.Second))) > 0 {
			t.Error("a second vote in one view")
		}
		time.Sleep(5 * time.Second)
		tn.await(tn.submit(3))
		if told := n.told.String(); n.sessions() != 2 || strings.Contains(told, "left behind") {
			t.Errorf("%d sessions: %s", n.sessions(), told)
		}
		tn.stop()
	})
}

// The set shrinks to a validator that has left the view of the last block by
// view data for one that never began. Nobody can help it there.
func TestSoleValidatorLeftItsView(t *testing.T) {
	for _, tt := range []struct{ restart, changing bool }{{false, false}, {true, false}, {true, true}} {
		synctest.Test(t, func(t *testing.T) {
			tn := newTestNet(t, 3, inVirtualTime)
			last := tn.nodes[2]
			tn.start()
			tn.await(tn.submit(5))
			view := last.engine.live.Load().view.Load()
			last.engine.live.Load().ballot.leave(&smartbftprotos.ViewData{
				NextView:     view + 1,
				LastDecision: &smartbftprotos.Proposal{Metadata: marshal(t, &smartbftprotos.ViewMetadata{ViewId: view, LatestSequence: last.ledger.Tip().Head.Height})},
			}, view)
			tn.await([]chain.Hash{tn.change(func(c *consortium.Config) { c.Validators = c.Validators[2:] })})
			if tt.restart {
				last.stop()
				if tt.changing { // as where another voted for it before the block came
					md, err := metadataOf(last.ledger.Tip().Header.Metadata)
					if err != nil {
						t.Fatal(err)
					}
					raw := marshal(t, &smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: md.ViewId}}})
					last.memory = &MemoryWAL{entries: append(last.memory.content(), raw)}
				}
				last.start()
			}
			began, ids := time.Now(), tn.submitTo(tn.nodes[2:], 5)
			last.until(func() bool { return last.hasAll(ids) })
			if d := time.Since(began); tt.changing && d > 2*time.Second { // it waits for nobody
				t.Errorf("it took %v", d)
			}
			for _, n := range tn.nodes[:2] {
				<-n.ended
				n.stop()
				if err := n.catchUp(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			tn.stop()
		})
	}
}

// View data bind who signed them among several, and do not while it is alone: also
// not those that the library signs after the set has shrunk.
func TestSoleValidatorLeavesNoView(t *testing.T) {
	var b ballot
	data := &smartbftprotos.ViewData{NextView: 1, LastDecision: &smartbftprotos.Proposal{Metadata: metadata(t, 0, 2)}}
	for _, sole := range []bool{false, true, false} {
		b.alone(sole)
		b.leave(data, 0)
		if err := b.enterAt(3, chain.Hash{}, metadata(t, 0, 3)); (err == nil) != sole {
			t.Errorf("sole %v: %v", sole, err)
		}
	}
}
