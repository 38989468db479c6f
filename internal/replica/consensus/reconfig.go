package consensus

import (
	"runtime"
	"time"
)

const reconfigTimeout = 5 * time.Second // far more than a reconfiguration takes

// The lines around the step of the library to another configuration.
const (
	reconfigLine    = "Starting reconfig"
	reconfigDone    = "Reconfig is done"
	reconfigEvicted = "Evicted in reconfiguration, shutting down"
	reconfigForeign = "Closing consensus since this node is not in the current set of nodes"
)

// accusing are the lines right before a goroutine of the library complains about
// the leader, and ends or does nothing more of weight. The one of a view that is
// not ours is before a complaint or none.
var accusing = map[string]bool{
	"Heartbeat timeout expired, complaining about leader: %d":                    true,
	"Request %s leader-forwarding timeout expired, complaining about leader: %d": true,
	"%d got message %v from %d of view %d, expected view %d":                     true,
	"%d received bad proposal from %d: %v":                                       true,
}

// reconfiguring watches a reconfiguration. It waits for the library's goroutines
// under a lock that they need to complain about a leader, so it hangs when one
// got past mayAccuse in this very moment, and the session begins anew.
func (s *session) reconfiguring(on bool) {
	s.taking.Store(on)
	s.reconfig.clear()
	if on {
		s.reconfig.set(reconfigTimeout, func() {
			s.hangs.Store(true)
			s.anew(whyReconfig)
		})
	}
}

// mayAccuse ends a goroutine that is about to complain while a reconfiguration
// waits for it with the lock held. What it would complain about goes as well.
func (s *session) mayAccuse(template string) {
	switch {
	case template == reconfigLine:
		s.taking.Store(true)
	case template == controllerStarts: // who was waited for has ended
		s.taking.Store(false)
	case s.taking.Load() && accusing[template]:
		s.log.Debug("no complaint during a reconfiguration")
		runtime.Goexit()
	}
}
