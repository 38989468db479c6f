package consensus

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// ballot is what this validator signed and has to stand by, which the library
// forgets in three ways: a sync or a restart in the middle of a view change
// takes it back to a view that it has left by its view data; a vote for the
// block in flight of a new view is kept nowhere; and a vote that is given while
// the view data are put together is missing there. In each, two blocks of one
// height can get a certificate although nobody cheats; DESIGN.md has the steps.
type ballot struct {
	mu    sync.Mutex                 // guards below
	next  uint64                     // view that we signed view data for: there is no vote in an earlier one
	begun uint64                     // last view that began, as the log tells
	vote  ownVote                    // the last
	open  bool                       // the library counts votes for its block
	sole  bool                       // nobody else votes, so that no view is left
	took  took                       // the last new view that we confirmed, or sent as its leader
	seen  *smartbftprotos.PrePrepare // the last proposal in the log, nil without one
}

// took is a new view that we stand by.
type took struct {
	confirmation        // without a sum where the log has only what came after
	seq          uint64 // of the next block when we did
}

// ownVote is a vote for a block.
type ownVote struct {
	seq    uint64
	header chain.Hash
	view   uint64 // in which it was given, as it is signed; a new view brings proposals of earlier ones
}

// ownVoteOf is the vote that a signed message says.
func ownVoteOf(genesis chain.Hash, c *smartbftprotos.Commit) (v ownVote, ok bool) {
	v.header, v.seq, v.view, ok = consortium.ParseVote(genesis, c.GetSignature().GetMsg())
	return v, ok && v.seq == c.GetSeq()
}

// errLeft means that a proposal is of a view that we have left.
var errLeft = errors.New("view left by view data")

// recall is the ballot that a log tells of.
func recall(genesis chain.Hash, entries [][]byte) (*ballot, error) {
	b := &ballot{}
	for i, raw := range entries {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(raw, m); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if c := m.GetViewChange(); c != nil { // it is for the view after that
			b.next = max(b.next, c.NextView+1)
		}
		if p := m.GetProposedRecord().GetPrePrepare(); p != nil { // the library drops what is before it
			b.next = max(b.next, p.View)
			b.took.past(p.View, p.Seq)
			b.seen = p
		}
		if p := m.GetCommit().GetPrepare(); p != nil {
			b.took.seq = p.Seq
			p.Seq = 0
			c, _, ok := isConfirmation(m.GetCommit())
			if !ok {
				return nil, fmt.Errorf("entry %d: a malformed confirmation of view %d", i, p.View)
			}
			b.took.confirmation = c
		}
		if v := m.GetNewView(); v != nil {
			b.begun = max(b.begun, v.ViewId)
		}
		if c := m.GetCommit().GetCommit(); c != nil {
			v, ok := ownVoteOf(genesis, c)
			if !ok {
				return nil, fmt.Errorf("entry %d: a vote for block %d that is none of this chain, or of an older format: move the log away, and this validator votes again after later blocks", i, c.Seq)
			}
			b.vote, b.open = v, true
		}
	}
	return b, nil
}

// enterAt returns an error where we may not vote for a proposal. It is asked before
// the library writes the proposal to its log and drops what is before it, which can
// be our vote for the block in flight of the same view.
func (b *ballot) enterAt(seq uint64, header chain.Hash, metadata []byte) error {
	md, err := metadataOf(metadata)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if md.ViewId < b.next {
		return fmt.Errorf("%w: proposal of view %d, view data for view %d", errLeft, md.ViewId, b.next)
	}
	if b.vote.against(ownVote{seq, header, md.ViewId}) {
		return fmt.Errorf("voted for block %d (%s) in view %d, the proposal %s is of view %d", seq, b.vote.header.Short(), b.vote.view, header.Short(), md.ViewId)
	}
	return nil
}

// against reports whether a vote speaks against v: for another block in the same
// view, or any in a later one.
func (o ownVote) against(v ownVote) bool {
	return o.seq == v.seq && (o.view > v.view || o.view == v.view && o.header != v.header)
}

// cast notes a vote in the view of the proposal, false where we have left it.
func (b *ballot) cast(v ownVote) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v.view < b.next || b.vote.against(v) {
		return false
	}
	b.vote, b.open = v, true
	return true
}

// castInFlight notes a vote for a proposal that a new view brought, and reports
// whether it is another one than before, and whether it may be given: a leader that
// starts again can make its new view twice, with two proposals, and we may have left
// that view. Then the vote is good only for the block that our view data have said
// ever since we voted for it: begun is the last view that began here, see leave.
func (b *ballot) castInFlight(v ownVote, begun uint64) (other, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.may(v, begun) {
		return false, false
	}
	other = b.vote != v
	b.vote, b.open = v, true
	return other, true
}

// may reports whether castInFlight would give a vote; mu held.
func (b *ballot) may(v ownVote, begun uint64) bool {
	said := b.vote.seq == v.seq && b.vote.header == v.header && b.vote.view <= v.view && b.vote.view >= max(begun, b.begun)
	return (v.view >= b.next || said) && !b.vote.against(v)
}

// refuses reports whether castInFlight would give no vote.
func (b *ballot) refuses(v ownVote, begun uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.may(v, begun)
}

// counted is the view of which votes for a block are counted, ok only where the
// library does so.
func (b *ballot) counted(seq uint64, header chain.Hash) (view uint64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.vote.view, b.open && b.vote.seq == seq && b.vote.header == header
}

// leave notes view data that are about to be signed, and reports whether they
// say what we voted for. A vote is dead once a view after it has begun.
func (b *ballot) leave(data *smartbftprotos.ViewData, begun uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = false
	if !b.sole {
		b.next = max(b.next, data.NextView)
	}
	last, err := metadataOf(data.GetLastDecision().GetMetadata())
	if err != nil {
		return false
	}
	if b.vote.seq != last.LatestSequence+1 || b.vote.view < begun {
		return true
	}
	h, err := consortium.DecodeHeader(data.GetInFlightProposal().GetHeader())
	return err == nil && data.InFlightPrepared && h.Hash() == b.vote.header
}

// past notes that the log has a proposal, and nothing of what was before it: we may
// have confirmed a new view of that view.
func (t *took) past(view, seq uint64) {
	if seq > t.seq || seq == t.seq && view > t.view {
		*t = took{confirmation{view: view}, seq}
	}
}

// confirm notes a new view that we are about to confirm, or to send as its leader,
// while seq is the next block. It is false for another one of a view, or of an earlier
// view, until that block has come: votes for a block in flight of both would stop the
// chain. It is false as well for a view that we signed no view data for: a proposal
// drops what is before it from the log, and it is of no view before that.
func (b *ballot) confirm(c confirmation, seq uint64) (ok, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case c == b.took.confirmation:
		return true, true
	case c.view > b.next, seq <= b.took.seq && c.view <= b.took.view:
		return false, false
	}
	b.took = took{c, seq}
	return true, false
}

// passed reports whether we make no new view of a view: we have left it for a later
// one, or confirmed or made a new view of it already.
func (b *ballot) passed(view, seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return view < b.next || seq <= b.took.seq && view <= b.took.view
}

// seenAt is the proposal for a block that the log ends with, nil without one, and the
// last view that began after it.
func (b *ballot) seenAt(seq uint64) (p *smartbftprotos.PrePrepare, begun uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen.GetSeq() != seq || b.seen.GetProposal() == nil {
		return nil, 0
	}
	return b.seen, b.begun
}

// stands is the view that view data were signed for, and the last vote.
func (b *ballot) stands() (next uint64, v ownVote) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next, b.vote
}

// alone notes whether we are the only validator, who leaves no view and forgets
// those that it left: there is nobody whose votes could meet its own in another
// view, and nobody who would help it to the view that its view data were for.
func (b *ballot) alone(sole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sole = sole
	if sole {
		b.next = 0
	}
}

// voteFor notes a vote before it is signed: in the view of the proposal, or in
// the new view that brought it. A view that we have left ends here.
// It is false where there may be no second vote for the block in flight of a new
// view: the library asks with a lock held, which it would hold for ever if its
// goroutine ended, so it goes on behind the fence until the session begins anew.
func (s *session) voteFor(p types.Proposal, h *consortium.Header, inFlight bool) (v ownVote, ok bool) {
	md, err := metadataOf(p.Metadata)
	if err != nil {
		s.die("proposal to sign: " + err.Error())
	}
	v = ownVote{h.Height, h.Hash(), md.ViewId}
	if !inFlight {
		if !s.ballot.cast(v) {
			s.log.Debug("no vote against what was signed", "height", v.seq, "view", v.view, "header", v.header)
			runtime.Goexit()
		}
		return v, true
	}
	v.view = s.early.joinedView()
	other, ok := s.ballot.castInFlight(v, s.early.begunView())
	if !ok {
		left, own := s.ballot.stands()
		s.log.Debug("no vote for the block in flight", "height", v.seq, "view", v.view, "header", v.header,
			"left_for", left, "voted_height", own.seq, "voted_view", own.view, "voted_header", own.header)
		s.dead.Store(true)
		s.anew(whyVote)
		return v, false
	}
	if other {
		if err := s.keepVote(p, v, md.ViewId); err != nil {
			s.die("keep a vote: " + err.Error())
		}
	}
	return v, true
}

// signVote signs what was noted.
func (s *session) signVote(v ownVote) *types.Signature {
	sig := consortium.SignVote(s.cfg.Key, s.genesis, v.header, v.seq, v.view)
	return &types.Signature{ID: s.id, Value: sig[:], Msg: consortium.VoteMessage(s.genesis, v.header, v.seq, v.view)}
}

// keepVote writes a vote for a block in flight, which was proposed in view, to the
// log, as the library does with all others.
func (s *session) keepVote(p types.Proposal, v ownVote, view uint64) error {
	digest, sig := p.Digest(), s.signVote(v)
	for _, m := range []*smartbftprotos.SavedMessage{
		{Content: &smartbftprotos.SavedMessage_ProposedRecord{ProposedRecord: &smartbftprotos.ProposedRecord{
			PrePrepare: &smartbftprotos.PrePrepare{View: view, Seq: v.seq, Proposal: &smartbftprotos.Proposal{
				Header: p.Header, Payload: p.Payload, Metadata: p.Metadata, VerificationSequence: uint64(p.VerificationSequence),
			}},
			Prepare: &smartbftprotos.Prepare{View: view, Seq: v.seq, Digest: digest},
		}}},
		{Content: &smartbftprotos.SavedMessage_Commit{Commit: &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{
			Commit: &smartbftprotos.Commit{View: view, Seq: v.seq, Digest: digest, Signature: &smartbftprotos.Signature{Signer: s.id, Value: sig.Value, Msg: sig.Msg}},
		}}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if err := s.wal.Append(raw, false); err != nil {
			return err
		}
	}
	return nil
}

// standBy ends the view changer where it is about to sign view data without the
// vote that we gave: the session begins anew out of the log, which has it.
func (s *session) standBy(raw []byte) {
	data := &smartbftprotos.ViewData{}
	if err := proto.Unmarshal(raw, data); err != nil || data.LastDecision == nil {
		s.die("view data to sign are malformed")
	}
	if s.ballot.leave(data, s.early.begunView()) {
		return
	}
	s.log.Debug("view data without our vote are not signed", "next_view", data.NextView)
	s.anew(whyVote)
	runtime.Goexit()
}

// begunOnly makes our answer to who asks for our view name the last view that
// has begun. The library raises the view a moment before the height, and an
// asker would begin the view on a block that the new view has just decided.
func (s *session) begunOnly(m *smartbftprotos.Message) {
	if r := m.GetStateTransferResponse(); r != nil {
		r.ViewNum = min(r.ViewNum, s.view.Load())
	}
}
