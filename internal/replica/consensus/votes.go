package consensus

import (
	"fmt"
	"sync"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// voteWatch finds validators that vote for two blocks in one place, which no
// honest one does: a vote is on its disk before it is sent. It keeps the last
// vote of each validator of the set.
type voteWatch struct {
	mu   sync.Mutex // guards last
	last map[uint64]votePlace
}

type votePlace struct {
	view, seq uint64
	header    chain.Hash
	sig       consortium.Signature
}

// votedHeader is the header that a signed vote is for.
func votedHeader(genesis chain.Hash, msg []byte, height uint64) (header chain.Hash, ok bool) {
	n := len(msg) - 8 - len(header)
	if n < 0 {
		return header, false
	}
	copy(header[:], msg[n:])
	return header, string(consortium.VoteMessage(genesis, header, height)) == string(msg)
}

// note keeps a vote of a validator and returns its other vote in that place.
func (w *voteWatch) note(from uint64, v votePlace) (other votePlace, twice bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last = map[uint64]votePlace{}
	}
	other, ok := w.last[from]
	if ok && other.view == v.view && other.seq == v.seq {
		return other, other.header != v.header
	}
	if v.seq >= other.seq { // late votes for the block before do not count
		w.last[from] = v
	}
	return votePlace{}, false
}

// watchVotes names a validator that votes twice. Both votes are in the line, so
// that anybody can check them.
func (s *session) watchVotes(from uint64, m *smartbftprotos.Message) {
	c := m.GetCommit()
	if c == nil || c.GetSignature().GetSigner() != from || len(c.Signature.Value) != len(consortium.Signature{}) {
		return
	}
	header, ok := votedHeader(s.genesis, c.Signature.Msg, c.Seq)
	if !ok {
		return
	}
	v := votePlace{c.View, c.Seq, header, consortium.Signature(c.Signature.Value)}
	other, twice := s.votes.note(from, v)
	if !twice {
		return
	}
	key, ok := s.ledger.Tip().Set.Key(from)
	if !ok || !consortium.VerifyVote(key, s.genesis, header, c.Seq, v.sig) || !consortium.VerifyVote(key, s.genesis, other.header, c.Seq, other.sig) {
		return
	}
	s.log.Error("double_vote", "validator", from, "key", key, "height", c.Seq, "view", c.View,
		"header", header, "signature", fmt.Sprintf("%x", v.sig), "other_header", other.header, "other_signature", fmt.Sprintf("%x", other.sig))
	s.found(event.FindingChanged{Code: "PLY-607", Severity: "crit", Title: "double_vote",
		Why: fmt.Sprintf("validator %d (%s) signed two blocks at height %d: %s and %s; the log has both signatures: have it looked at, or removed from the set", from, key, c.Seq, header, other.header)})
}
