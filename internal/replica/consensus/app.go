package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// This file is what the library calls.

func recordID(raw []byte) chain.Hash { return consortium.RecordID(raw) }

// requestInfo names a record to the library, which logs the name.
func requestInfo(id chain.Hash) types.RequestInfo { return types.RequestInfo{ID: id.String()} }

// Deliver stores a decided block. A view change calls it with proposals that
// VerifyProposal never saw, and with such that we have.
func (s *session) Deliver(p types.Proposal, votes []types.Signature) types.Reconfig {
	s.fence()
	tip := s.ledger.Tip()
	is, err := s.whole(p, int(tip.Config.Params.MaxBlockBytes))
	if err != nil {
		s.die("decided proposal: " + err.Error())
	}
	b, err := block(is, votes)
	if err != nil {
		s.die("decided proposal: " + err.Error())
	}
	if err := s.ledger.AppendPrepared(ledger.Opened(b, is.ids, is.records), "own", ""); err != nil && !errors.Is(err, chain.ErrKnown) {
		s.forked(err)
		s.die(fmt.Sprintf("store block %d: %v", b.Header.Height, err))
	}
	s.metrics.order.Observe(time.Since(time.UnixMilli(int64(b.Header.Time))).Seconds())
	s.pool.Remove(is.ids...)
	s.ordered(is.ids, time.Now())
	s.expire()
	changed, nodes, cfg := s.adopt()
	return types.Reconfig{InLatestDecision: changed, CurrentNodes: nodes, CurrentConfig: cfg}
}

// forked keeps the evidence of a fork.
func (s *session) forked(err error) {
	if s.cfg.Fork != nil && errors.Is(err, ledger.ErrFork) {
		s.cfg.Fork(err)
	}
}

// AssembleProposal builds the next block and drops what can never be in one.
func (s *session) AssembleProposal(metadata []byte, requests [][]byte) types.Proposal {
	s.fence()
	s.meetSet()
	tip := s.ledger.Tip()
	h, body, bad, err := assemble(tip, s.genesis, metadata, requests, s.cfg.Clock(), s.ledger.Committable)
	if err != nil {
		s.die("assemble a proposal: " + err.Error())
	}
	for _, r := range bad {
		s.reject(r.id, r.err)
	}
	if s.cfg.Proposed != nil {
		s.cfg.Proposed(h, body)
	}
	return propose(h, body)
}

// reject drops a record that breaks the rule from the library's pool, for ever.
// The mempool finds by itself what is expired or stale, and says so. A fault of
// ours drops nothing.
func (s *session) reject(id chain.Hash, err error) {
	var bad *consortium.RecordError
	if !errors.As(err, &bad) {
		s.log.Warn("record not judged", "id", id, "err", err)
		return
	}
	s.dropRequest(id)
	if bad.Reason == consortium.Duplicate {
		s.pool.Remove(id)
	}
}

// VerifyProposal judges a leader's block, our own too. A view that judges a block
// which a sync has brought meanwhile ends here: the sync begins it anew, and the
// library would accuse the leader.
func (s *session) VerifyProposal(p types.Proposal) ([]types.RequestInfo, error) {
	tip, now := s.ledger.Tip(), s.cfg.Clock()
	is, err := s.whole(p, int(tip.Config.Params.MaxBlockBytes))
	if err != nil {
		return nil, err
	}
	if err := s.ballot.enterAt(is.header.Height, is.header.Hash(), p.Metadata); err != nil {
		return nil, err
	}
	err = verify(tip, s.genesis, is, now, s.ledger.Committable)
	first, height := s.overtaken.Load(), is.header.Height
	if err != nil && first > 0 && height >= first && height <= tip.Head.Height {
		s.log.Debug("no complaint about a proposal that a sync overtakes", "height", height)
		runtime.Goexit()
	}
	s.noteSkew(err, now)
	if err != nil {
		return nil, err
	}
	if is.change() {
		s.turn.begin(is.header.Height)
	}
	return infos(is.ids), nil
}

func infos(ids []chain.Hash) []types.RequestInfo {
	out := make([]types.RequestInfo, len(ids))
	for i, id := range ids {
		out[i] = requestInfo(id)
	}
	return out
}

// RequestsFromProposal lists the records of a decided block.
func (s *session) RequestsFromProposal(p types.Proposal) []types.RequestInfo {
	is, err := s.whole(p, len(p.Payload))
	if err != nil {
		s.die("decided body: " + err.Error())
	}
	return infos(is.ids)
}

// VerifyRequest is called for each record of the pool after a change of the
// epoch; an error drops it there for ever.
func (s *session) VerifyRequest(raw []byte) (types.RequestInfo, error) {
	id := recordID(raw)
	r, err := consortium.DecodeRecord(raw)
	if err == nil {
		err = s.ledger.Committable(r, id, s.ledger.Tip().Head.Height+1)
	}
	if _, ok := errors.AsType[*consortium.RecordError](err); ok {
		s.reject(id, err)
		return types.RequestInfo{}, err
	}
	return requestInfo(id), nil
}

// SignProposal votes for a block. aux is who prepared it, nil from the view
// changer. A view that votes for a block which a sync has brought meanwhile ends
// here: the sync forgets its proposal, and the library panics where it notes the
// vote. The sync begins the view anew.
func (s *session) SignProposal(p types.Proposal, aux []byte) *types.Signature {
	s.fence()
	h, err := consortium.DecodeHeader(p.Header)
	if err != nil {
		s.die("header to sign: " + err.Error())
	}
	inFlight := aux == nil // else they are the prepares, none where we are alone
	if !inFlight && h.Height <= s.ledger.Tip().Head.Height {
		s.log.Debug("no vote for a block that is stored", "height", h.Height)
		runtime.Goexit()
	}
	v, ok := s.voteFor(p, h, inFlight)
	if !ok {
		return &types.Signature{ID: s.id} // goes nowhere: see SendConsensus
	}
	return s.signVote(v)
}

// VerifyConsenterSig checks a vote of the present set. The vote covers the
// header alone, and what comes by a view change was never verified, so the rest
// of the proposal has to fit the header. Where the library counts votes for a
// block, all have to be of the view that ours is of.
func (s *session) VerifyConsenterSig(sig types.Signature, p types.Proposal) ([]byte, error) {
	tip := s.ledger.Tip()
	whole, err := s.whole(p, int(tip.Config.Params.MaxBlockBytes))
	if err != nil {
		return nil, fmt.Errorf("vote of validator %d for a proposal that is not of one piece: %w", sig.ID, err)
	}
	h, set := whole.header, tip.Set
	if h.Set != set.Hash() || h.Genesis != s.genesis {
		return nil, fmt.Errorf("vote for block %d of validator set %s, ours is %s", h.Height, h.Set, set.Hash())
	}
	hash := h.Hash()
	key, ok := set.Key(sig.ID)
	header, height, view, is := consortium.ParseVote(s.genesis, sig.Msg)
	if !ok || !is || header != hash || height != h.Height || len(sig.Value) != len(consortium.Signature{}) ||
		!consortium.VerifyVote(key, s.genesis, hash, h.Height, view, consortium.Signature(sig.Value)) {
		return nil, fmt.Errorf("vote of validator %d for block %d is wrong", sig.ID, h.Height)
	}
	if counted, counts := s.ballot.counted(h.Height, hash); counts && h.Height > tip.Head.Height && view != counted {
		return nil, fmt.Errorf("vote of validator %d for block %d is of view %d, view %d decides", sig.ID, h.Height, view, counted)
	}
	return nil, nil
}

// soundness is the newest proposal that was found to be of one piece, in bytes
// of its own: what is equal to it, byte by byte, need not be decoded and hashed
// again, wherever it came from.
type soundness struct {
	of types.Proposal
	is *piece
}

// whole parses a proposal, whose body it looks at once.
func (s *session) whole(p types.Proposal, maxBody int) (*piece, error) {
	s.mu.Lock()
	known := s.sound
	s.mu.Unlock()
	if known.is != nil && len(p.Payload) <= maxBody && p.VerificationSequence == known.of.VerificationSequence &&
		bytes.Equal(p.Header, known.of.Header) && bytes.Equal(p.Metadata, known.of.Metadata) && bytes.Equal(p.Payload, known.of.Payload) {
		return known.is, nil
	}
	p.Header, p.Payload, p.Metadata = bytes.Clone(p.Header), bytes.Clone(p.Payload), bytes.Clone(p.Metadata)
	is, err := parse(p, maxBody)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sound = soundness{p, is}
	s.mu.Unlock()
	return is, nil
}

// Sign signs view data.
func (s *session) Sign(data []byte) []byte {
	s.fence()
	s.standBy(data)
	sig := consortium.SignView(s.cfg.Key, s.genesis, data)
	return sig[:]
}

// VerifySignature checks view data.
func (s *session) VerifySignature(sig types.Signature) error {
	key, ok := s.ledger.Tip().Set.Key(sig.ID)
	if !ok || len(sig.Value) != len(consortium.Signature{}) || !consortium.VerifyView(key, s.genesis, sig.Msg, consortium.Signature(sig.Value)) {
		return fmt.Errorf("signature of validator %d under view data is wrong", sig.ID)
	}
	return nil
}

// VerificationSequence is the epoch.
func (s *session) VerificationSequence() uint64 { return s.ledger.Tip().Config.Epoch }

// AuxiliaryData is for leader rotation, which is off.
func (s *session) AuxiliaryData([]byte) []byte { return nil }

// RequestID names a record. The library asks three times in a row.
func (s *session) RequestID(raw []byte) types.RequestInfo {
	if n := s.named.Load(); n != nil && bytes.Equal(n.raw, raw) {
		return n.info
	}
	n := &named{bytes.Clone(raw), requestInfo(recordID(raw))}
	s.named.Store(n)
	return n.info
}

// named is a record with its name.
type named struct {
	raw  []byte
	info types.RequestInfo
}

// MembershipChange reports whether the tip is a config block.
func (s *session) MembershipChange() bool {
	h := s.ledger.Tip().Header
	return h != nil && h.Epoch != s.ledger.Tip().Config.Epoch
}

// Sync catches up with the other validators.
func (s *session) Sync() types.SyncResponse {
	s.fence()
	before := s.ledger.Tip().Head.Height
	s.overtaken.Store(before + 1)
	var err error
	if !s.settling.Load() {
		err = s.pull()
	}
	s.fence()
	if errors.Is(err, ledger.ErrFork) {
		s.forked(err)
		s.die(err.Error())
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Debug("not caught up", "height", s.ledger.Tip().Head.Height, "err", err)
	}
	last, err := s.tipDecision()
	if err != nil {
		s.torn(err)
	}
	if s.ledger.Tip().Head.Height > before {
		s.sweep()
		s.expire()
	} else {
		s.overtaken.Store(0)
	}
	changed, nodes, cfg := s.adopt()
	return types.SyncResponse{Latest: last, Reconfig: types.ReconfigSync{InReplicatedDecisions: changed, CurrentNodes: nodes, CurrentConfig: cfg}}
}

// Nodes lists the validators.
func (s *session) Nodes() []uint64 { return s.ledger.Tip().Set.IDs() }

// SendConsensus queues a message. It never blocks.
func (s *session) SendConsensus(to uint64, m *smartbftprotos.Message) {
	if s.dead.Load() {
		return
	}
	if m.GetViewData() != nil {
		if s.leftView(m) {
			return // see passes
		}
		m = s.withoutDeadProposal(m)
	}
	if m.GetNewView() != nil {
		s.makes(m)
	}
	s.begunOnly(m)
	s.said.note(to, m, s.moment())
	s.peers.send(to, m)
}

// SendTransaction would hand a record to a leader that has not ordered it. The
// leader has it by gossip, or gets it by the offers of who accepted it, so it
// passes the same door as all others.
func (s *session) SendTransaction(uint64, []byte) {}
