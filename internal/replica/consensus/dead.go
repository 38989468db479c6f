package consensus

import (
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// withoutDeadProposal takes a proposal out of our view data that cannot have
// been decided, but keeps the library from agreeing on any other. In its view
// change each proposal of a sequence speaks against all others of it, whether
// anybody prepared it or not, and for ever: one leader that sends two blocks, or
// two views that each get one block to a part of the validators, stop the chain.
//
// A proposal that we prepared is dead once a view after our vote has begun: it
// began with a quorum, and had the proposal been decided, one of them would have
// brought it; DESIGN.md has the argument and what it stands on. One that we did not
// prepare says nothing, but where another prepared the same, it needs f+1 who have
// seen it: so what is done with it goes by the votes that we heard, and by chance.
//
// The library forgets what it did not prepare where it starts again in a view change:
// that is put in again.
func (s *session) withoutDeadProposal(m *smartbftprotos.Message) *smartbftprotos.Message {
	data := &smartbftprotos.ViewData{}
	if err := proto.Unmarshal(m.GetViewData().GetRawViewData(), data); err != nil {
		return m
	}
	if data.InFlightProposal == nil {
		return s.withSeenProposal(m, data)
	}
	md, err := metadataOf(data.InFlightProposal.Metadata)
	if err != nil {
		return m
	}
	view, begun := md.ViewId, s.early.begunView()
	if _, v := s.ballot.stands(); v.seq == md.LatestSequence && data.InFlightPrepared {
		view = max(view, v.view) // a later view may have brought it again
	}
	if view >= begun && (data.InFlightPrepared || !s.leavesOut(md.LatestSequence, data.InFlightProposal, begun, data.NextView)) {
		return m
	}
	data.InFlightProposal, data.InFlightPrepared = nil, false
	s.log.Debug("dead proposal left out of the view data", "height", md.LatestSequence, "of_view", md.ViewId, "next_view", data.NextView)
	return s.resigned(m, data)
}

// withSeenProposal puts the proposal that the log ends with into our view data.
func (s *session) withSeenProposal(m *smartbftprotos.Message, data *smartbftprotos.ViewData) *smartbftprotos.Message {
	last, err := metadataOf(data.GetLastDecision().GetMetadata())
	if err != nil {
		return m
	}
	p, begun := s.ballot.seenAt(last.LatestSequence + 1)
	begun = max(begun, s.early.begunView())
	if p == nil || p.View < begun || s.leavesOut(p.Seq, p.Proposal, begun, data.NextView) {
		return m
	}
	data.InFlightProposal, data.InFlightPrepared = p.Proposal, false
	s.log.Debug("proposal of the log put into the view data", "height", p.Seq, "of_view", p.View, "next_view", data.NextView)
	return s.resigned(m, data)
}

// resigned are view data of ours in the place of m.
func (s *session) resigned(m *smartbftprotos.Message, data *smartbftprotos.ViewData) *smartbftprotos.Message {
	raw, err := proto.Marshal(data)
	if err != nil {
		return m
	}
	return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{
		RawViewData: raw, Signer: s.id, Signature: s.Sign(raw),
	}}}
}

// leavesOut reports whether a proposal that we did not prepare is left out of our view
// data for next, where begun is the last view in which blocks were ordered.
func (s *session) leavesOut(seq uint64, p *smartbftprotos.Proposal, begun, next uint64) bool {
	h, err := consortium.DecodeHeader(p.GetHeader())
	return err != nil || leavesOut(s.id, s.votes.heard(seq, h.Hash()), begun, next)
}

// leavesOut goes by how many more were heard to vote for the block than for others.
// Where that says nothing, and in each second attempt, for votes can be lies, each
// validator tosses a coin.
func leavesOut(id uint64, heard int, begun, next uint64) bool {
	attempt := next - begun
	if heard != 0 && attempt%2 == 1 {
		return heard < 0
	}
	return attempt > 1 && toss(id, next)
}

// toss is a coin for each validator in each view.
func toss(id, view uint64) bool {
	x := id*0x9e3779b97f4a7c15 + view // splitmix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x^x>>31)&1 == 1
}
