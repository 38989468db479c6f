package consensus

import (
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// forgedView reports whether view data in m are not what their signer signed, or
// show a decision by votes of two views, which the library does not see: it looks
// at each vote alone.
// The library checks no signature of data that are older than its own, and none
// at height 0, and lets them count all the same: one traitor could make a new
// view of data that it invented, and have another block decided in the place of
// one that is.
func (s *session) forgedView(from uint64, m *smartbftprotos.Message) bool {
	set := s.ledger.Tip().Set
	if v := m.GetViewData(); v != nil {
		_, genuine := s.genuine(set, v)
		return v.Signer != from || !genuine
	}
	nv := m.GetNewView()
	if nv == nil {
		return false
	}
	view, _ := changesTo(m)
	signers := map[uint64]bool{}
	for _, v := range nv.GetSignedViewData() {
		next, genuine := s.genuine(set, v)
		if !genuine || next != view || signers[v.GetSigner()] {
			return true
		}
		signers[v.GetSigner()] = true
	}
	return len(signers) < set.Quorum()
}

// genuine reports whether a validator signed view data, and for which view. Votes for
// their last decision have to name one view.
func (s *session) genuine(set *consortium.ValidatorSet, v *smartbftprotos.SignedViewData) (next uint64, ok bool) {
	key, in := set.Key(v.GetSigner())
	data := &smartbftprotos.ViewData{}
	if !in || len(v.Signature) != len(consortium.Signature{}) || proto.Unmarshal(v.RawViewData, data) != nil ||
		!consortium.VerifyView(key, s.genesis, v.RawViewData, consortium.Signature(v.Signature)) {
		return 0, false
	}
	var first uint64
	for i, sig := range data.LastDecisionSignatures {
		_, _, view, ok := consortium.ParseVote(s.genesis, sig.GetMsg())
		if !ok || i > 0 && view != first {
			return 0, false
		}
		first = view
	}
	return data.NextView, true
}
