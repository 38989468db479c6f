package consensus

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// A vote covers the header: what else a proposal has must fit it, whoever
// brings it.
func TestVoteForForeignPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(5))
		synctest.Wait()
		n := tn.nodes[1]
		s := n.engine.live.Load()
		b, err := n.ledger.Block(n.ledger.Tip().Head.Height)
		if err != nil {
			t.Fatal(err)
		}
		good := decision(b)
		for _, tt := range []struct {
			name string
			edit func(*types.Proposal)
			ok   bool
		}{
			{"as it is", func(*types.Proposal) {}, true},
			{"other payload", func(p *types.Proposal) { p.Payload = []byte("rubbish") }, false},
			{"empty body", func(p *types.Proposal) { p.Payload = consortium.EncodeBody(nil) }, false},
			{"other metadata", func(p *types.Proposal) { p.Metadata = append([]byte{}, p.Metadata[1:]...) }, false},
			{"other verification sequence", func(p *types.Proposal) { p.VerificationSequence++ }, false},
			{"bytes changed where they stand", func(p *types.Proposal) { p.Payload[len(p.Payload)-1] ^= 1 }, false},
			{"and changed back", func(p *types.Proposal) { p.Payload[len(p.Payload)-1] ^= 1 }, true},
			{"again", func(*types.Proposal) {}, true},
		} {
			p := good.Proposal
			tt.edit(&p)
			if _, err := s.VerifyConsenterSig(good.Signatures[0], p); (err == nil) != tt.ok {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if allocs := testing.AllocsPerRun(20, func() { _, _ = s.whole(good.Proposal, 1<<20) }); allocs > 20 {
			t.Errorf("a body that was looked at costs %v allocations", allocs)
		}
		tn.stop()
	})
}

// A traitor's view data have a true header and certificate, and another body.
// The next leader is one block behind, and would deliver it.
func TestTraitorsViewData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		victim, traitor := tn.nodes[1], tn.nodes[2]
		tn.start()
		tn.await(tn.submit(1))
		victim.stop() // misses one block
		tn.await(tn.submit(1))
		b, err := traitor.ledger.Block(traitor.ledger.Tip().Head.Height)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range tn.running() {
			n.stop()
		}
		victim.start() // alone, so it stays one behind
		synctest.Wait()
		s := victim.engine.live.Load()
		d := decision(b)
		view := &smartbftprotos.ViewData{NextView: 1, LastDecision: &smartbftprotos.Proposal{
			Header: d.Proposal.Header, Payload: consortium.EncodeBody(nil), Metadata: d.Proposal.Metadata, VerificationSequence: uint64(d.Proposal.VerificationSequence),
		}}
		for _, v := range d.Signatures {
			view.LastDecisionSignatures = append(view.LastDecisionSignatures, &smartbftprotos.Signature{Signer: v.ID, Value: v.Value, Msg: v.Msg})
		}
		raw, err := proto.Marshal(view)
		if err != nil {
			t.Fatal(err)
		}
		sig := consortium.SignView(traitor.key, tn.genesis.Hash(), raw)
		for _, from := range []uint64{1, 3, 4} {
			s.bft.HandleMessage(from, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 1}}})
		}
		time.Sleep(time.Second)
		s.bft.HandleMessage(3, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{RawViewData: raw, Signer: 3, Signature: sig[:]}}})
		time.Sleep(time.Second)
		if h := victim.ledger.Tip().Head.Height; h != b.Header.Height-1 {
			t.Errorf("height %d", h)
		}
		for _, n := range tn.nodes {
			if n != victim {
				n.start()
			}
		}
		tn.await(tn.submit(1))
		tn.stop()
	})
}

// Followers hold records whose last height passes before the leader has them.
// They end, and no leader is accused.
func TestExpiredInThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		until := tn.nodes[0].ledger.Tip().Head.Height + 1
		var ids []chain.Hash
		for range 3 {
			tn.nonce++
			r := &consortium.Record{Nonce: tn.nonce, NotAfter: until, Subject: "short", MediaType: "text/plain"}
			r.Sign(tn.author, tn.genesis.Hash())
			for _, n := range tn.nodes[1:] {
				id, err := n.pool.Add(r.Encode(), "")
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
		}
		synctest.Wait()
		tn.await(tn.submit(1)) // the leader's last block that could have them
		for range 30 {
			time.Sleep(time.Second)
			for _, n := range tn.nodes {
				n.pool.Sweep(n.ledger.Tip().Head.Height+1, time.Now())
			}
		}
		for _, n := range tn.nodes {
			s := n.engine.live.Load()
			if view := s.view.Load(); view != 0 {
				t.Errorf("%s is in view %d", n.id.ShortString(), view)
			}
			for _, id := range ids {
				if s.isFed(id) || n.ledger.Committed(id) {
					t.Errorf("%s has an expired record still: fed %v", n.id.ShortString(), s.isFed(id))
				}
			}
		}
		tn.stop()
	})
}

// A sync raises the tip as well.
func TestExpiredBySync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		last := tn.nodes[3]
		last.deaf.Store(true)
		tn.nonce++
		r := &consortium.Record{Nonce: tn.nonce, NotAfter: last.ledger.Tip().Head.Height + 2, Subject: "short", MediaType: "text/plain"}
		r.Sign(tn.author, tn.genesis.Hash())
		id, err := last.pool.Add(r.Encode(), "")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			tn.submit(1)
			time.Sleep(100 * time.Millisecond)
		}
		s := last.engine.live.Load()
		if !s.isFed(id) {
			t.Fatal("not fed")
		}
		last.askSync()
		time.Sleep(time.Second)
		if s.isFed(id) {
			t.Error("expired by a sync, and still there")
		}
		last.deaf.Store(false)
		tn.await(tn.submit(1))
		tn.stop()
	})
}

func TestLinesAreCut(t *testing.T) {
	for _, limit := range []int{maxWarning, maxLine} {
		if got := line("%s", []any{strings.Repeat("é", 5000)}, limit); len(got) > limit || len(got) < limit-4 {
			t.Errorf("%d bytes, limit %d", len(got), limit)
		}
	}
	if got := line("%s %d", []any{"short", 1}, maxWarning); got != "short 1" {
		t.Error(got)
	}
}

func (s *session) isFed(id chain.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, fed := s.fed[id]
	return fed
}
