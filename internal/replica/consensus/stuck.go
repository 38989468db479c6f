package consensus

import (
	"context"
	"slices"
	"time"
)

// stuckBeats is for how many heartbeats no block may come while records wait
// and a quorum is connected: more than a view change behind two dead leaders
// takes.
const stuckBeats = 5

// reason is why a session begins anew.
type reason string

const (
	whyAhead    reason = "behind"   // others are ahead and it does not follow
	whyAlone    reason = "alone"    // nobody joined its complaint
	whyReconfig reason = "reconfig" // a reconfiguration hangs
	whyAnswer   reason = "answer"   // the controller waits for a view that has ended
	whyInFlight reason = "inflight" // the view changer waits for votes that do not come
	whyVote     reason = "vote"     // its view data would not say what we voted for
	whyTorn     reason = "torn"     // the tip cannot be read
	whyStuck    reason = "stuck"    // records wait, a quorum is there, and nothing else is known
)

var reasons = map[reason]string{
	whyAhead:    "others are ahead and it does not follow",
	whyAlone:    "nobody joined its complaint",
	whyReconfig: "a reconfiguration hangs",
	whyAnswer:   "it waits for a view that has ended",
	whyInFlight: "it waits for votes for the block in flight",
	whyVote:     "its view data lack a vote that the log has",
	whyTorn:     "its tip cannot be read",
	whyStuck:    "records wait, a quorum is connected and no block comes",
}

// restarts tells of a session that has to begin anew.
func (s *session) restarts(why reason) {
	s.metrics.restarts.WithLabelValues(string(why)).Inc()
	s.log.Warn("engine begins anew", "why", reasons[why], "height", s.ledger.Tip().Head.Height, "view", s.view.Load(), "waiting", s.pool.Len())
}

// anew ends the session soon.
func (s *session) anew(why reason) {
	select {
	case s.jammed <- why:
	default:
	}
}

// stuck is the last of the watches: it knows of no fault, and sees only that
// nothing is ordered while it could be.
type stuck struct {
	height uint64
	since  time.Time // when a block came last, or the last thing that a block needs
}

// look reports whether that lasts for patience.
func (w *stuck) look(height uint64, could bool, patience time.Duration, now time.Time) bool {
	if height != w.height || !could {
		w.height, w.since = height, now
	}
	return now.Sub(w.since) >= patience
}

// isStuck reports whether records wait for too long. Validators have different
// patience, so that one that begins anew meets a quorum that has not.
func (s *session) isStuck(w *watch, now time.Time) bool {
	tip := s.ledger.Tip()
	beat := heartbeat(tip.Config.Params)
	at := slices.Index(tip.Set.IDs(), s.id)
	patience := stuckBeats*beat + time.Duration(at%8)*beat/2
	could := s.pool.Len() > 0 && 1+s.peers.audible(now) >= tip.Set.Quorum()
	return w.stuck.look(tip.Head.Height, could, patience, now) && !now.Before(w.until)
}

// The lines around the view for the block in flight of a new view.
const (
	inFlightLine    = "Node %d is creating a view %d for the in flight proposal"
	inFlightStarted = "Node %d started a view %d for the in flight proposal"
	inFlightDecided = "In-flight view %d with latest sequence %d has committed a decision"
	inFlightSynced  = "In-flight view %d with latest sequence %d has asked to sync"
	inFlightLate    = "Timeout expired waiting on In-flight %d with latest sequence view to commit %d"
	inFlightStopped = "View changer was instructed to stop"
	// The view has heard others vote further on. It waits for the view changer to take
	// notice, which may just be waiting for its end.
	inFlightBehind = "Node %d is calling sync because the in flight proposal view has asked to sync"
)

// awaitInFlight watches the view changer while it waits for votes for the block
// in flight. It waits in vain where the others have decided that block, for they do
// not vote again. Where nobody has, the library goes on to the next view by itself,
// and who began anew would be in an earlier one.
//
// A sync would hold the lock that the decision needs, and tell the view changer of a
// later view, which waits for the decision: so while it waits, a sync brings nothing
// and hears of no later view.
func (s *session) awaitInFlight(on bool) {
	s.settling.Store(on)
	s.inFlight.clear()
	if on {
		s.inFlight.set(heartbeat(s.ledger.Tip().Config.Params), s.lateInFlight)
	}
}

func (s *session) lateInFlight() {
	select {
	case s.overdue <- struct{}{}:
	default:
	}
}

// inFlightIsOver reports whether the view changer waits for votes for a block that
// others have. Without a word of them it counts as if they had it.
func (s *session) inFlightIsOver(ctx context.Context) bool {
	if !s.settling.Load() {
		return false
	}
	if s.cfg.Ahead == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, aheadTimeout)
	defer cancel()
	if s.cfg.Ahead(ctx) {
		return s.settling.Load()
	}
	if s.settling.Load() {
		s.inFlight.clear()
		s.inFlight.set(aheadEvery, s.lateInFlight)
	}
	return false
}
