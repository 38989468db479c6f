package consensus

import (
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"
)

// withoutDeadProposal takes a proposal out of our view data that cannot have
// been decided, but keeps the library from agreeing on any other. In its view
// change each proposal of a sequence speaks against all others of it, whether
// anybody prepared it or not, and for ever: one leader that sends two blocks, or
// two views that each get one block to a part of the validators, stop the chain.
//
// A proposal that we prepared is dead once a view after our vote has begun: it
// began with a quorum, and had the proposal been decided, one of them would have
// brought it; DESIGN.md has the argument and what it stands on. One that we did not prepare says nothing, but where another prepared the
// same, it needs f+1 who have seen it: so it is left out of each second attempt
// only.
func (s *session) withoutDeadProposal(m *smartbftprotos.Message) *smartbftprotos.Message {
	data := &smartbftprotos.ViewData{}
	if err := proto.Unmarshal(m.GetViewData().GetRawViewData(), data); err != nil || data.InFlightProposal == nil {
		return m
	}
	md, err := metadataOf(data.InFlightProposal.Metadata)
	if err != nil {
		return m
	}
	view, begun := md.ViewId, s.early.begunView()
	if _, v := s.ballot.stands(); v.seq == md.LatestSequence && data.InFlightPrepared {
		view = max(view, v.view) // a later view may have brought it again
	}
	if !dead(view, begun, data.NextView, data.InFlightPrepared) {
		return m
	}
	data.InFlightProposal, data.InFlightPrepared = nil, false
	raw, err := proto.Marshal(data)
	if err != nil {
		return m
	}
	s.log.Debug("dead proposal left out of the view data", "height", md.LatestSequence, "of_view", md.ViewId, "next_view", data.NextView)
	return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{
		RawViewData: raw, Signer: s.id, Signature: s.Sign(raw),
	}}}
}

// dead reports whether a proposal of a view is left out of view data for next,
// where begun is the last view in which blocks were ordered.
func dead(view, begun, next uint64, prepared bool) bool {
	if view < begun {
		return true
	}
	return !prepared && next > begun && (next-begun)%2 == 0
}
