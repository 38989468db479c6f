package consensus

import (
	"errors"
	"time"

	"github.com/parley-p2p/parley/event"
)

// clockOver is how long no proposal may be out of time before the finding ends.
const clockOver = time.Minute

// noteSkew notes proposals that are too far ahead of our clock. One proposer
// alone has a fast clock; where several are ahead, ours is slow.
func (s *session) noteSkew(err error, now time.Time) {
	var skew *skewError
	f := event.FindingChanged{Code: "PLY-103", Title: "clock_skew", Severity: "crit"}
	s.mu.Lock()
	switch {
	case errors.As(err, &skew):
		s.skewed = now
		f.Why = skew.Error() + ": its blocks are refused until the clocks agree; on the machine that is wrong: timedatectl set-ntp true"
		if skew.proposer == s.id {
			f.Why = "our own proposal is out of time: " + skew.Error()
		}
	case err == nil && !s.skewed.IsZero() && now.Sub(s.skewed) > clockOver:
		s.skewed = time.Time{}
		f.Severity, f.Why = "ok", "proposals are in time again"
	default:
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if skew != nil {
		s.log.Warn("clock_skew", "proposer", skew.proposer, "ahead", skew.ahead.Round(time.Millisecond))
	}
	s.found(f)
}
