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

// The lines of a record that waited for too long, right before the leader, or
// this node where it leads, is accused of it.
const (
	recordLine    = "Request %s leader-forwarding timeout expired, complaining about leader: %d"
	ownRecordLine = "Request %s leader-forwarding timeout expired, this node is the leader, stop send heartbeat message"
)

// accusing are the lines right before a goroutine of the library complains about
// the leader, and ends or does nothing more of weight. The one of a view that is
// not ours is before a complaint or none.
var accusing = map[string]bool{
	"Heartbeat timeout expired, complaining about leader: %d": true,
	recordLine: true,
	"%d got message %v from %d of view %d, expected view %d": true,
	"%d received bad proposal from %d: %v":                   true,
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
// waits for it with the lock held: what it would complain about goes as well. It
// ends those as well that a record started before the view changed, of many that
// time out at once: the library would accuse the new leader, for its timers began
// anew with the view.
func (s *session) mayAccuse(template string) {
	switch {
	case template == reconfigLine:
		s.taking.Store(true)
	case template == controllerStarts: // who was waited for has ended
		s.taking.Store(false)
	case s.taking.Load() && accusing[template]:
		s.log.Debug("no complaint during a reconfiguration")
		runtime.Goexit()
	case (template == recordLine || template == ownRecordLine) && s.early.changes(time.Now()):
		s.log.Debug("no complaint about the view before")
		runtime.Goexit()
	}
}
