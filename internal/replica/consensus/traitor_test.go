package consensus

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// otherBlock gives a proposal that is as good as p, and another: its time is a
// millisecond later.
func otherBlock(t *testing.T, p *smartbftprotos.PrePrepare) *smartbftprotos.PrePrepare {
	q := proto.Clone(p).(*smartbftprotos.PrePrepare)
	h, err := consortium.DecodeHeader(q.Proposal.Header)
	if err != nil {
		t.Error(err)
		return nil
	}
	h.Time++
	q.Proposal.Header = h.Encode()
	return q
}

// digest is the library's name for a proposal.
func digest(p *smartbftprotos.Proposal) string {
	return types.Proposal{Header: p.Header, Payload: p.Payload, Metadata: p.Metadata, VerificationSequence: int64(p.VerificationSequence)}.Digest()
}

// traitor is validator 1, the leader, and what it does to what it sends.
type traitor struct {
	t    *testing.T
	tn   *testNet
	self *testNode
	rnd  *rand.Rand
	b    map[uint64]*smartbftprotos.PrePrepare // by height: its other block
	acts atomic.Bool
}

func (x *traitor) other(p *smartbftprotos.PrePrepare) *smartbftprotos.PrePrepare {
	x.tn.mu.Lock()
	defer x.tn.mu.Unlock()
	if x.b[p.Seq] == nil {
		x.b[p.Seq] = otherBlock(x.t, p)
	}
	return x.b[p.Seq]
}

// vote signs for whatever is asked.
func (x *traitor) vote(m *smartbftprotos.Message, p *smartbftprotos.PrePrepare) *smartbftprotos.Message {
	m = proto.Clone(m).(*smartbftprotos.Message)
	switch c := m.GetContent().(type) {
	case *smartbftprotos.Message_Prepare:
		c.Prepare.Digest = digest(p.Proposal)
	case *smartbftprotos.Message_Commit:
		h, err := consortium.DecodeHeader(p.Proposal.Header)
		if err != nil {
			x.t.Error(err)
			return nil
		}
		_, _, view, ok := consortium.ParseVote(h.Genesis, c.Commit.Signature.Msg) // ours for the true block
		if !ok {
			x.t.Errorf("vote without a view: %x", c.Commit.Signature.Msg)
			return nil
		}
		sig := consortium.SignVote(x.self.key, h.Genesis, h.Hash(), h.Height, view)
		c.Commit.Digest = digest(p.Proposal)
		c.Commit.Signature.Value, c.Commit.Signature.Msg = sig[:], consortium.VoteMessage(h.Genesis, h.Hash(), h.Height, view)
	}
	return m
}

// resign puts the traitor's true signature under false view data.
func (x *traitor) resign(m *smartbftprotos.Message, edit func(*smartbftprotos.ViewData)) *smartbftprotos.Message {
	m = proto.Clone(m).(*smartbftprotos.Message)
	data := &smartbftprotos.ViewData{}
	if err := proto.Unmarshal(m.GetViewData().RawViewData, data); err != nil {
		x.t.Error(err)
		return nil
	}
	edit(data)
	raw, err := proto.Marshal(data)
	if err != nil {
		x.t.Error(err)
		return nil
	}
	sig := consortium.SignView(x.self.key, x.tn.genesis.Hash(), raw)
	m.GetViewData().RawViewData, m.GetViewData().Signature = raw, sig[:]
	return m
}

// id is the traitor's own in the set.
func (x *traitor) id() uint64 {
	id, _ := x.tn.genesis.Config.Set().ByKey(consortium.PublicKeyOf(x.self.key))
	return id
}

// twin is a new view in which the traitor's own view data are others.
func (x *traitor) twin(m *smartbftprotos.Message, edit func(*smartbftprotos.ViewData)) *smartbftprotos.Message {
	m = proto.Clone(m).(*smartbftprotos.Message)
	for i, v := range m.GetNewView().SignedViewData {
		if v.Signer == x.id() {
			own := &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: v}}
			m.GetNewView().SignedViewData[i] = x.resign(own, edit).GetViewData()
		}
	}
	return m
}

// equivocate sends one block to half of the others, and another to the rest,
// with a vote for whichever each has.
func (x *traitor) equivocate(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
	if p := m.GetPrePrepare(); p != nil {
		q := x.other(p)
		if to != x.tn.nodes[1] {
			return &smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: q}}
		}
		return m
	}
	seq := max(m.GetPrepare().GetSeq(), m.GetCommit().GetSeq())
	x.tn.mu.Lock()
	q := x.b[seq]
	x.tn.mu.Unlock()
	if q != nil && to != x.tn.nodes[1] {
		return x.vote(m, q)
	}
	return m
}

// Whatever one of four does, the others go on, in one chain, and lose nothing.
func TestTraitor(t *testing.T) {
	flip := func(b []byte, rnd *rand.Rand) []byte {
		b = bytes.Clone(b)
		b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
		return b
	}
	for _, tt := range []struct {
		name  string
		twist func(x *traitor, to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message
	}{
		{"equivocates", (*traitor).equivocate},
		{"tampers with a record of each proposal", func(x *traitor, _ *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			if p := m.GetPrePrepare(); p != nil {
				q := proto.Clone(p).(*smartbftprotos.PrePrepare)
				x.tn.mu.Lock()
				q.Proposal.Payload = flip(q.Proposal.Payload, x.rnd)
				x.tn.mu.Unlock()
				return &smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: q}}
			}
			return m
		}},
		{"withholds its proposals", func(_ *traitor, _ *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			if m.GetPrePrepare() != nil {
				return nil
			}
			return m
		}},
		{"withholds them from all but one", func(x *traitor, to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			if m.GetPrePrepare() != nil && to != x.tn.nodes[2] {
				return nil
			}
			return m
		}},
		{"does not vote for what it proposes", func(_ *traitor, _ *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			if m.GetPrepare() != nil || m.GetCommit() != nil {
				return nil
			}
			return m
		}},
		{"shows no block in its view data", func(x *traitor, _ *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			if m.GetPrePrepare() != nil {
				return nil
			}
			if m.GetViewData() != nil {
				return x.resign(m, func(d *smartbftprotos.ViewData) {
					d.LastDecision, d.LastDecisionSignatures = &smartbftprotos.Proposal{}, nil
				})
			}
			return m
		}},
		{"shows a block in flight that nobody proposed", func(x *traitor, _ *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			if p := m.GetPrePrepare(); p != nil {
				x.other(p)
				return nil
			}
			if m.GetViewData() != nil {
				return x.resign(m, func(d *smartbftprotos.ViewData) {
					x.tn.mu.Lock()
					defer x.tn.mu.Unlock()
					for _, p := range x.b {
						d.InFlightProposal, d.InFlightPrepared = p.Proposal, true
					}
				})
			}
			return m
		}},
		{"garbles half of what it says", func(x *traitor, _ *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			x.tn.mu.Lock()
			defer x.tn.mu.Unlock()
			if x.rnd.IntN(2) == 0 {
				return m
			}
			fine, harsh := samples(x.t)
			return append(fine, harsh...)[x.rnd.IntN(len(fine)+len(harsh))]
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range seeds(2) {
				synctest.Test(t, func(t *testing.T) {
					tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(seed, 1))))
					x := &traitor{t: t, tn: tn, self: tn.nodes[0], rnd: rand.New(rand.NewPCG(seed, 2)), b: map[uint64]*smartbftprotos.PrePrepare{}}
					for _, n := range tn.nodes {
						n.ahead = tn.aheadOf(n)
					}
					x.self.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
						if !x.acts.Load() {
							return m
						}
						return tt.twist(x, to, m)
					}
					tn.start()
					tn.await(tn.submit(20))
					x.acts.Store(true)
					honest := tn.nodes[1:]
					var all []chain.Hash
					began := time.Now()
					for range 40 {
						all = append(all, tn.submit(5)...)
						time.Sleep(250 * time.Millisecond)
					}
					for _, n := range honest {
						n.until(func() bool { return n.hasAll(all) })
					}
					t.Logf("seed %d: 10 s of records within %v, height %d", seed, time.Since(began).Round(time.Millisecond), honest[0].ledger.Tip().Head.Height)
					x.acts.Store(false)
					for _, n := range tn.running() {
						n.stop()
					}
					tn.compare()
					tn.accusesNobody(x.self)
					for _, n := range tn.nodes {
						_ = n.ledger.Close()
					}
				})
			}
		})
	}
}

// accusesNobody checks that nobody but the traitor, nil for none, was named for two
// votes.
func (tn *testNet) accusesNobody(traitor *testNode) {
	tn.t.Helper()
	key := "no key"
	if traitor != nil {
		key = consortium.PublicKeyOf(traitor.key).String()
	}
	tn.mu.Lock()
	defer tn.mu.Unlock()
	for _, n := range tn.nodes {
		for _, f := range n.found {
			if f.Title == "double_vote" && !strings.Contains(f.Why, key) {
				tn.t.Errorf("%s accuses an honest validator: %s", n.id.ShortString(), f.Why)
			}
		}
	}
}

// Both votes of a validator that votes twice are in the log, and it is named.
func TestDoubleVoteIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		synctest.Wait()
		witness := tn.nodes[1].engine.live.Load()
		seq := witness.ledger.Tip().Head.Height + 1
		commit := func(key ed25519.PrivateKey, id, view uint64, header chain.Hash) *smartbftprotos.Message {
			sig := consortium.SignVote(key, tn.genesis.Hash(), header, seq, view)
			return &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{View: view, Seq: seq,
				Signature: &smartbftprotos.Signature{Signer: id, Value: sig[:], Msg: consortium.VoteMessage(tn.genesis.Hash(), header, seq, view)}}}}
		}
		one, two, three := tn.nodes[0].key, tn.nodes[1].key, tn.nodes[2].key // their true votes are in view 0
		watch := func(from uint64, m *smartbftprotos.Message) {
			v, ok := ownVoteOf(tn.genesis.Hash(), m.GetCommit())
			if !ok {
				t.Fatal("malformed vote")
			}
			witness.watchVote(from, v, m.GetCommit())
		}
		watch(1, commit(one, 1, 1, chain.Hash{1}))
		watch(1, commit(one, 1, 1, chain.Hash{1})) // sent again
		watch(1, commit(one, 1, 2, chain.Hash{2})) // in another view: that happens
		watch(3, commit(three, 3, 2, chain.Hash{1}))
		watch(3, commit(two, 3, 2, chain.Hash{2})) // forged
		if tn.nodes[1].finds("double_vote", "warn") {
			t.Error("an honest validator is accused")
		}
		seq = 1 << 60
		watch(1, commit(one, 1, 2, chain.Hash{2})) // no such height is near
		seq = witness.ledger.Tip().Head.Height + 1
		for range 1000 {
			watch(1, commit(one, 1, 2, chain.Hash{3}))
		}
		seq++
		watch(1, commit(one, 1, 2, chain.Hash{4}))
		watch(1, commit(one, 1, 2, chain.Hash{5})) // once more within the hour
		if log := tn.nodes[1].told.String(); !tn.nodes[1].finds("double_vote", "warn") || tn.nodes[1].finds("double_vote", "crit") || strings.Count(log, "double_vote") != 1 || !strings.Contains(log, chain.Hash{3}.String()) {
			t.Errorf("not named once:\n%s", log)
		}
		watch(3, commit(three, 3, 2, chain.Hash{1}))
		watch(3, commit(three, 3, 2, chain.Hash{2}))
		time.Sleep(votesTold)
		watch(1, commit(one, 1, 3, chain.Hash{4}))
		watch(1, commit(one, 1, 3, chain.Hash{5}))
		if n := strings.Count(tn.nodes[1].told.String(), "double_vote"); n != 3 {
			t.Errorf("%d lines about two validators, one of them an hour later again", n)
		}
		stands := func() (f event.FindingChanged) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			return tn.nodes[1].found[len(tn.nodes[1].found)-1]
		}
		remove := func(at int) {
			id := tn.change(func(c *consortium.Config) { c.Validators = slices.Delete(c.Validators, at, at+1) })
			tn.await([]chain.Hash{id})
			synctest.Wait() // a block is in the ledger a moment before the engine looks who has left
		}
		remove(2)
		tn.nodes[2].stop()
		if f := stands(); f.Title != "double_vote" || f.Severity != "warn" || !strings.Contains(f.Why, " validator 1 (") {
			t.Errorf("validator 3 has left, and validator 1 has not: %+v", f)
		}
		remove(0)
		if f := stands(); f.Title != "double_vote" || f.Severity != "ok" {
			t.Errorf("both have left: %+v", f)
		}
		tn.stop()
	})
}

// censor hides one author from a leader.
type censor struct {
	Pool
	author consortium.PublicKey
}

func (c censor) Next(most, maxBytes int, skip func(chain.Hash) bool) (out [][]byte) {
	for _, raw := range c.Pool.Next(most, maxBytes, skip) {
		if r, err := consortium.DecodeRecord(raw); err == nil && r.Author != c.author {
			out = append(out, raw)
		}
	}
	return out
}

// A leader that ignores one author, and works well for the others, is replaced.
func TestCensorIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(5, 5))))
		poor := ledgertest.Key("ignored")
		tn.nodes[0].feed = func(p Pool) Pool { return censor{p, consortium.PublicKeyOf(poor)} }
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
		}
		tn.start()
		tn.await(tn.submit(1))
		r := &consortium.Record{Nonce: 1, Subject: "ignored", MediaType: "text/plain"}
		r.Sign(poor, tn.genesis.Hash())
		id, began := tn.gossip(r.Encode()), time.Now()
		for !tn.nodes[1].ledger.Committed(id) && time.Since(began) < time.Minute {
			tn.submit(3)
			time.Sleep(50 * time.Millisecond)
		}
		// A complaint comes after 2.5 s, and the view change may need a second try
		// of two heartbeats.
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("the record waited for %v", d)
		}
		tn.await(tn.submit(5))
		tn.stop()
	})
}

// A leader with a fast clock is replaced, one with a slow clock does no harm.
func TestWrongClocks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		offset time.Duration
		view   uint64
		skew   []int // nodes that find it
	}{
		{"fast leader", 15 * time.Second, 1, []int{1, 2, 3}},
		{"slow leader", -15 * time.Second, 0, nil},
		{"within bounds", 9 * time.Second, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(6, 6))))
				for _, n := range tn.nodes {
					n.ahead = tn.aheadOf(n)
				}
				tn.nodes[0].clock = func() time.Time { return time.Now().Add(tt.offset) }
				tn.start()
				began := time.Now()
				for range 20 {
					tn.await(tn.submit(3))
					time.Sleep(100 * time.Millisecond)
				}
				if d := time.Since(began); d > 20*time.Second {
					t.Errorf("it took %v", d)
				}
				for i, n := range tn.nodes {
					view, _, _, _ := n.engine.State()
					want := fmt.Sprint(tt.skew)
					if n.finds("clock_skew", "crit") {
						t.Errorf("node %d is not ready for the clock of another", i)
					}
					if got := n.finds("clock_skew", "warn"); view != tt.view || i > 0 && got != strings.Contains(want, fmt.Sprint(i)) {
						t.Errorf("node %d: view %d, clock_skew %v", i, view, got)
					}
				}
				tn.stop()
			})
		})
	}
	t.Run("slow follower", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(7, 7))))
			for _, n := range tn.nodes {
				n.ahead = tn.aheadOf(n)
			}
			slow := tn.nodes[2]
			slow.clock = func() time.Time { return time.Now().Add(-15 * time.Second) }
			tn.start()
			honest := []*testNode{tn.nodes[0], tn.nodes[1], tn.nodes[3]}
			for range 50 {
				ids, began := tn.submit(3), time.Now()
				for _, n := range honest {
					n.until(func() bool { return n.hasAll(ids) })
				}
				if d := time.Since(began); d > time.Second {
					t.Errorf("the others took %v", d)
				}
				time.Sleep(200 * time.Millisecond)
			}
			tn.await(tn.submit(1)) // it has the blocks too, by a sync
			if !slow.finds("clock_skew", "crit") {
				t.Error("it does not tell that its clock differs")
			}
			tn.stop()
		})
	})
}
