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
	signed := func(v *smartbftprotos.SignedViewData) bool {
		key, in := set.Key(v.GetSigner())
		return in && len(v.Signature) == len(consortium.Signature{}) && s.ofOneView(v.RawViewData) &&
			consortium.VerifyView(key, s.genesis, v.RawViewData, consortium.Signature(v.Signature))
	}
	if v := m.GetViewData(); v != nil {
		return v.Signer != from || !signed(v)
	}
	nv := m.GetNewView()
	if nv == nil {
		return false
	}
	signers := map[uint64]bool{}
	view, _ := changesTo(m)
	for _, v := range nv.GetSignedViewData() {
		data := &smartbftprotos.ViewData{}
		if signers[v.GetSigner()] || proto.Unmarshal(v.GetRawViewData(), data) != nil || data.NextView != view || !signed(v) {
			return true
		}
		signers[v.GetSigner()] = true
	}
	return len(signers) < set.Quorum()
}

// ofOneView reports whether the votes for the last decision of view data name one
// view.
func (s *session) ofOneView(raw []byte) bool {
	data := &smartbftprotos.ViewData{}
	if proto.Unmarshal(raw, data) != nil {
		return false
	}
	var first uint64
	for i, sig := range data.LastDecisionSignatures {
		_, _, view, ok := consortium.ParseVote(s.genesis, sig.GetMsg())
		if !ok || i > 0 && view != first {
			return false
		}
		first = view
	}
	return true
}
