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
	votesTried = 8         // forged second votes of one place that are looked at
	votesTold  = time.Hour // from one line about a validator to the next
)

// voteWatch finds validators that vote for two blocks of one height in one view,
// which no honest one does: a vote is on its disk before it is sent. It keeps the
// last vote of each validator at each height that may be next.
type voteWatch struct {
	mu   sync.Mutex // guards below
	of   map[uint64]*[votesAhead]votePlace
	told map[uint64]naming
}

// naming is what was found about a validator, and when.
type naming struct {
	at  time.Time
	why string
}

type votePlace struct {
	ownVote
	sig     consortium.Signature
	genuine bool // the signature was checked
	tried   int  // other votes that were looked at; votesTried: no more are
}

// note keeps a vote of a validator and returns its other vote in that place, at
// most once for each place. genuine checks a signature, which is asked where two
// votes differ only.
func (w *voteWatch) note(from uint64, v votePlace, genuine func(votePlace) bool) (other votePlace, twice bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of, w.told = map[uint64]*[votesAhead]votePlace{}, map[uint64]naming{}
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

// heard is by how many more validators voted for a block than for others of its height,
// as far as we heard.
func (w *voteWatch) heard(seq uint64, header chain.Hash) (more int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, places := range w.of {
		switch v := places[seq%votesAhead]; {
		case v.seq != seq:
		case v.header == header:
			more++
		default:
			more--
		}
	}
	return more
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

// watchVote names a validator that votes twice. Both votes are in the line, so
// that anybody can check them. It is a warning: this node does its work.
func (s *session) watchVote(from uint64, vote ownVote, c *smartbftprotos.Commit) {
	tip := s.ledger.Tip()
	key, in := tip.Set.Key(from)
	if !in || vote.view > s.early.joinedView()+earlyViews || c.Seq < tip.Head.Height || c.Seq >= tip.Head.Height+votesAhead ||
		c.GetSignature().GetSigner() != from || len(c.Signature.Value) != len(consortium.Signature{}) {
		return
	}
	v := votePlace{ownVote: vote, sig: consortium.Signature(c.Signature.Value)}
	other, twice := s.votes.note(from, v, func(v votePlace) bool {
		return consortium.VerifyVote(key, s.genesis, v.header, v.seq, v.view, v.sig)
	})
	if !twice {
		return
	}
	now := time.Now()
	why := fmt.Sprintf("at %s validator %d (%s) signed two blocks of height %d in view %d: %s and %s; the log has both signatures: have it looked at, or removed from the set",
		now.UTC().Format(time.RFC3339), from, key, v.seq, v.view, v.header, other.header)
	if !s.votes.tell(from, why, now) {
		return
	}
	s.log.Warn("double_vote", "validator", from, "key", key, "height", v.seq, "view", v.view,
		"header", v.header, "signature", fmt.Sprintf("%x", v.sig), "other_header", other.header, "other_signature", fmt.Sprintf("%x", other.sig))
	s.found(event.FindingChanged{Code: "PLY-607", Severity: "warn", Title: "double_vote", Why: why})
}
