package consensus

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

const (
	votesAhead = 3         // heights from the tip on whose votes are kept
	votesLeft  = 16        // heights from the tip on, where a validator asks for a view
	votesTried = 8         // forged second votes of one place that are looked at
	votesTold  = time.Hour // from one line about a validator to the next
)

// voteWatch finds validators that vote for two blocks in one place, which no
// honest one does: a vote is on its disk before it is sent. It keeps the last vote
// of each validator at each height that may be next.
//
// An honest one may vote once more in a view that it has left, where its leader
// made two blocks: for the block in flight of a new view, which the library calls
// by the view in which that block was proposed. So nobody is named for votes in a
// view before one that it asked for or is in, nor before one that this node is in: a
// message that asks can be lost, and old votes are told again. A traitor can hide
// behind that; two machines with one key, or one with an old disk, do not.
type voteWatch struct {
	mu   sync.Mutex // guards below
	of   map[uint64]*[votesAhead]votePlace
	left map[uint64]leaving
	told map[uint64]naming
}

// leaving is the view that a validator asked for or is in, and the last height for which
// that excuses it: one question is no excuse for ever.
type leaving struct{ next, until uint64 }

// naming is what was found about a validator, and when.
type naming struct {
	at  time.Time
	why string
}

type votePlace struct {
	view, seq uint64
	header    chain.Hash
	sig       consortium.Signature
	genuine   bool // the signature was checked
	tried     int  // other votes that were looked at; votesTried: no more are
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

// note keeps a vote of a validator and returns its other vote in that place, at
// most once for each place. joined is the view that this node is in. genuine
// checks a signature, which is asked where two votes differ only.
func (w *voteWatch) note(from uint64, v votePlace, joined uint64, genuine func(votePlace) bool) (other votePlace, twice bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of, w.told = map[uint64]*[votesAhead]votePlace{}, map[uint64]naming{}
	}
	if l := w.left[from]; v.view < joined || v.view < l.next && v.seq <= l.until {
		return votePlace{}, false
	}
	if w.of[from] == nil {
		w.of[from] = &[votesAhead]votePlace{}
	}
	kept := &w.of[from][v.seq%votesAhead]
	switch {
	case kept.seq != v.seq || kept.view < v.view: // nothing is kept here but of heights that are near the tip
		*kept = v
	case kept.view > v.view || kept.header == v.header || kept.tried >= votesTried:
	default:
		kept.tried++
		if kept.genuine = kept.genuine || genuine(*kept); !kept.genuine {
			v.tried = kept.tried
			*kept = v
		} else if genuine(v) {
			kept.tried = votesTried
			return *kept, true
		}
	}
	return votePlace{}, false
}

// leaves notes that a validator asks for the view next, or is in it, while height
// is our tip.
func (w *voteWatch) leaves(from, next, height uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left == nil {
		w.left = map[uint64]leaving{}
	}
	if l := w.left[from]; l.until > height {
		next = max(next, l.next)
	}
	w.left[from] = leaving{next, height + votesLeft}
}

// tell reports whether a validator is to be named, which is not done often: it
// could fill the disk.
func (w *voteWatch) tell(from uint64, why string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.told[from]; ok && now.Sub(last.at) < votesTold {
		return false
	}
	w.told[from] = naming{now, why}
	return true
}

// keep forgets all but those of a set. left reports whether one was named that
// is gone, and why is what was found about another one, "" where nothing was.
func (w *voteWatch) keep(ids []uint64) (left bool, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := func(id uint64) bool { return !slices.Contains(ids, id) }
	maps.DeleteFunc(w.of, func(id uint64, _ *[votesAhead]votePlace) bool { return gone(id) })
	maps.DeleteFunc(w.left, func(id uint64, _ leaving) bool { return gone(id) })
	before := len(w.told)
	maps.DeleteFunc(w.told, func(id uint64, _ naming) bool { return gone(id) })
	for _, n := range w.told {
		why = n.why
	}
	return len(w.told) < before, why
}

// votersLeft ends the finding about a validator that is no longer in the set.
func (e *Engine) votersLeft() {
	left, why := e.votes.keep(e.ledger.Tip().Set.IDs())
	if !left {
		return
	}
	f := event.FindingChanged{Code: "PLY-607", Severity: "ok", Title: "double_vote", Why: "who signed two blocks is no longer a validator"}
	if why != "" {
		f.Severity, f.Why = "warn", why
	}
	e.found(f)
}

// watchVotes names a validator that votes twice. Both votes are in the line, so
// that anybody can check them. It is a warning: this node does its work.
func (s *session) watchVotes(from uint64, m *smartbftprotos.Message) {
	tip := s.ledger.Tip()
	if next := max(m.GetViewChange().GetNextView(), m.GetHeartBeatResponse().GetView()); next > 0 {
		s.votes.leaves(from, next, tip.Head.Height)
		return
	}
	c := m.GetCommit()
	if c == nil || c.Seq < tip.Head.Height || c.Seq >= tip.Head.Height+votesAhead ||
		c.GetSignature().GetSigner() != from || len(c.Signature.Value) != len(consortium.Signature{}) {
		return
	}
	header, ok := votedHeader(s.genesis, c.Signature.Msg, c.Seq)
	key, in := tip.Set.Key(from)
	if !ok || !in {
		return
	}
	v := votePlace{view: c.View, seq: c.Seq, header: header, sig: consortium.Signature(c.Signature.Value)}
	other, twice := s.votes.note(from, v, s.early.joinedView(), func(v votePlace) bool { return consortium.VerifyVote(key, s.genesis, v.header, v.seq, v.sig) })
	if !twice {
		return
	}
	now := time.Now()
	why := fmt.Sprintf("at %s validator %d (%s) signed two blocks of height %d: %s and %s; the log has both signatures: have it looked at, or removed from the set",
		now.UTC().Format(time.RFC3339), from, key, c.Seq, header, other.header)
	if !s.votes.tell(from, why, now) {
		return
	}
	s.log.Warn("double_vote", "validator", from, "key", key, "height", c.Seq, "view", c.View,
		"header", header, "signature", fmt.Sprintf("%x", v.sig), "other_header", other.header, "other_signature", fmt.Sprintf("%x", other.sig))
	s.found(event.FindingChanged{Code: "PLY-607", Severity: "warn", Title: "double_vote", Why: why})
}
