package consensus

import (
	"errors"
	"sync"
	"time"

	"github.com/parley-p2p/parley/event"
)

const (
	clockOver = time.Minute      // without a proposal that is out of time, until one in time ends the finding
	clockIdle = 10 * time.Minute // the same, where none comes at all
)

// skew is what is found about clocks. It outlives sessions.
type skew struct {
	mu   sync.Mutex  // guards below
	last time.Time   // when a proposal was last ahead of our clock, zero: nothing is found
	over *time.Timer // ends the finding
}

// noteSkew notes proposals that are too far ahead of our clock. Where a quorum
// has stored such a block, it is ours that is slow, and this node cannot do its
// work; else it is the proposer's.
func (e *Engine) noteSkew(err error, now time.Time) {
	bad, ok := errors.AsType[*skewError](err)
	if !ok {
		if err == nil && e.skew.ends(now) {
			e.clocksAgree()
		}
		return
	}
	news := e.skew.begin(now, e.clocksAgree)
	f := event.FindingChanged{Code: "PLY-103", Title: "clock_skew", Severity: "warn",
		Why: bad.Error() + ": its blocks are refused until the clocks agree; on the machine that is wrong: timedatectl set-ntp true"}
	tip := e.ledger.Tip()
	if self, in := tip.Set.ByKey(e.self); in && bad.proposer == self {
		f.Severity, f.Why = "crit", "our own proposal is out of time: "+bad.Error()
	} else if timeOf(tip) > uint64(now.Add(ClockSkew).UnixMilli()) {
		f.Severity, f.Why = "crit", bad.Error()+", and a quorum has stored such a block: our clock is wrong; on this machine: timedatectl set-ntp true"
	}
	if news { // a proposer must not fill the disk
		e.log.Warn("clock_skew", "proposer", bad.proposer, "ahead", bad.ahead.Round(time.Millisecond))
	}
	e.found(f)
}

func (e *Engine) clocksAgree() {
	e.found(event.FindingChanged{Code: "PLY-103", Title: "clock_skew", Severity: "ok", Why: "no proposal is out of time any more"})
}

// begin reports whether nothing was found until now. It calls over unless it is
// called again within clockIdle.
func (s *skew) begin(now time.Time, over func()) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news, s.last = s.last.IsZero(), now
	if s.over != nil {
		s.over.Stop()
	}
	s.over = time.AfterFunc(clockIdle, func() {
		if s.stop() {
			over()
		}
	})
	return news
}

// ends reports whether a proposal in time ends the finding.
func (s *skew) ends(now time.Time) bool {
	s.mu.Lock()
	late := now.Sub(s.last) > clockOver
	s.mu.Unlock()
	return late && s.stop()
}

// stop reports whether something was found until now.
func (s *skew) stop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		s.over.Stop()
		s.over = nil
	}
	stood := !s.last.IsZero()
	s.last = time.Time{}
	return stood
}
