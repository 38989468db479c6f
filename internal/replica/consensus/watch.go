package consensus

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
)

const (
	stallMin     = 3 * time.Second // at the same height, while others are ahead
	aheadEvery   = time.Second
	aheadTimeout = 2 * time.Second
	restartPause = time.Second     // from one start to the next
	restartMin   = 5 * time.Second // the same, where a watch asks for it
	restartMax   = 2 * time.Minute // where restarts do not help
	maxAbandoned = 3               // libraries that do not stop, in one process
)

// errStalled ends a session that Run begins anew.
var errStalled = errors.New("the engine stalls")

// errHung means that the library did not stop.
var errHung = errors.New("the engine did not stop in time: end the process")

// watch finds a library that no longer follows the chain. It trusts nothing of
// the library, whose views stop without a sign.
type watch struct {
	height uint64
	since  time.Time // when height was reached
	ahead  time.Time // since when others are known to be above height, zero while they are not
	asked  time.Time // when they were asked last
	until  time.Time // before which the session goes on in any case
	stuck  stuck
}

// due reports whether to ask if others are ahead.
func (w *watch) due(height uint64, stall time.Duration, now time.Time) bool {
	if height != w.height || w.since.IsZero() {
		w.height, w.since, w.ahead = height, now, time.Time{}
	}
	every := stall // an idle chain stands still as well
	if !w.ahead.IsZero() {
		every = aheadEvery
	}
	if now.Sub(w.since) < aheadEvery || now.Sub(w.asked) < every {
		return false
	}
	w.asked = now
	return true
}

// answer takes what others said at the height that was asked for, and reports
// whether that lasts for too long.
func (w *watch) answer(ahead bool, height uint64, stall time.Duration, now time.Time) bool {
	switch {
	case !ahead || height != w.height:
		w.ahead = time.Time{}
	case w.ahead.IsZero():
		w.ahead = now
	}
	return !w.ahead.IsZero() && now.Sub(w.ahead) >= stall && !now.Before(w.until)
}

// stalls reports whether the session has to begin anew.
func (s *session) stalls(ctx context.Context, w *watch, now time.Time) bool {
	tip := s.ledger.Tip()
	if !now.Before(w.until) && s.inVain(ctx, now) {
		s.restarts(whyAlone)
		return true
	}
	if s.isStuck(w, now) {
		s.restarts(whyStuck)
		return true
	}
	stall := max(stallMin, heartbeat(tip.Config.Params)*3/2)
	if s.cfg.Ahead == nil || !w.due(tip.Head.Height, stall, now) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, aheadTimeout)
	defer cancel()
	if !w.answer(s.cfg.Ahead(ctx), s.ledger.Tip().Head.Height, stall, now) {
		return false
	}
	s.restarts(whyAhead)
	return true
}

// behindAfter is how long a new view may take before we ask whether the others
// have a block that we lack.
const behindAfter = 250 * time.Millisecond

// awaitNewView sees to it that we follow in the middle of a view change. Whose last
// block is not that of the next leader is not counted there, or its own change is in
// vain, and what we lack comes by a sync alone, for no view orders blocks here. The
// library waits for the next timeout, and the one after that.
func (s *session) awaitNewView() {
	s.behind.within(behindAfter, func() {
		select {
		case s.passed <- struct{}{}:
		default:
		}
	})
}

// isBehind reports whether the session has to begin anew, on the block that the
// others have: once at a height, the watch is for what that does not mend.
func (s *session) isBehind(ctx context.Context) bool {
	height := s.ledger.Tip().Head.Height
	if s.cfg.Ahead == nil || height+1 == s.behindAt || !s.early.changing() || s.settling.Load() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, aheadTimeout)
	defer cancel()
	ahead := s.cfg.Ahead(ctx)
	switch {
	case s.ledger.Tip().Head.Height != height || !s.early.changing():
		return false
	case !ahead:
		s.awaitNewView() // they may not have told yet
		return false
	}
	s.behindAt = height + 1
	return true
}

// pace is how long a session lasts at least before it may begin anew.
type pace struct {
	wait   time.Duration
	height uint64
}

// next is called at each stall, and doubles the wait where the last start did
// not move the tip.
func (p *pace) next(height uint64) {
	if height == p.height {
		p.wait = min(2*p.wait, restartMax)
	} else {
		p.wait = restartMin
	}
	p.height = height
}

// handoverTime is how long a decision may wait to be acknowledged, once it is
// stored: far more than a view takes that still is there.
const handoverTime = 500 * time.Millisecond

// handover sees a decision whose view ended before it was stored, by a view
// change or by a sync. The controller then waits for ever for that view to take
// its answer, and serves nobody meanwhile: no sync, no abort, no next view.
func (s *session) handover(template string) {
	switch template {
	case "Node %d delivered proposal":
		s.awaitAnswer(true)
	case controllerDecided, reconfigLine:
		s.awaitAnswer(false)
	}
}

func (s *session) awaitAnswer(on bool) {
	s.answer.clear()
	if on {
		s.answer.set(handoverTime, func() { s.anew(whyAnswer) })
	}
}

// alarm is a timer for one thing that has to end in time.
type alarm struct {
	mu    sync.Mutex // guards timer
	timer *time.Timer
}

func (a *alarm) set(d time.Duration, f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(d, f)
}

// within calls f after d, unless it is set already.
func (a *alarm) within(d time.Duration, f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		return
	}
	a.timer = time.AfterFunc(d, func() {
		a.clear()
		f()
	})
}

func (a *alarm) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// complaintLine tells that the library asks for a view change, in words that
// the others may or may not join.
const complaintLine = "Node %d started view change, last view is %d"

// complaint is a view change that this node asked for. The library knows no way
// back from it: it stops its timers, syncs every few seconds, and asks again.
type complaint struct {
	since  time.Time // zero: there is none
	height uint64
}

func (s *session) complained(on bool) {
	height := s.ledger.Tip().Head.Height
	s.mu.Lock()
	defer s.mu.Unlock()
	if !on {
		s.complaint = complaint{}
	} else if s.complaint.since.IsZero() {
		s.complaint = complaint{time.Now(), height}
	}
}

// complains reports whether a complaint stands.
func (s *session) complains() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.complaint.since.IsZero()
}

// inVain reports whether the others have gone on without us for a while since
// we complained.
func (s *session) inVain(ctx context.Context, now time.Time) bool {
	s.mu.Lock()
	c := s.complaint
	s.mu.Unlock()
	tip := s.ledger.Tip()
	if c.since.IsZero() || now.Sub(c.since) < heartbeat(tip.Config.Params) {
		return false
	}
	if tip.Head.Height > c.height {
		return true
	}
	if s.cfg.Ahead == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, aheadTimeout)
	defer cancel()
	return s.cfg.Ahead(ctx)
}

// abandon leaves a library behind that does not stop: none of its goroutines
// gets past what it asks of us.
func (s *session) abandon() error {
	s.dead.Store(true)
	s.abandoned++
	if s.abandoned > maxAbandoned {
		return errHung
	}
	s.log.Error("engine did not stop and is left behind", "validator", s.id, "height", s.ledger.Tip().Head.Height, "count", s.abandoned)
	return errStalled
}

// fence ends the goroutine of an abandoned library that calls us.
func (s *session) fence() {
	if s.dead.Load() {
		runtime.Goexit()
	}
}

// fencedWAL is the log of one session: the next one opens the same files.
type fencedWAL struct {
	walFile
	s *session
}

// Append implements the library's WriteAheadLog.
func (f fencedWAL) Append(entry []byte, truncateTo bool) error {
	f.s.fence()
	return f.walFile.Append(entry, truncateTo)
}
