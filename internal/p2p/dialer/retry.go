package dialer

import (
	"math/rand/v2"
	"time"
)

// State of a static peer.
type State string

// The states of a static peer.
const (
	Connected State = "connected" // and its handshake ended well
	Trying    State = "trying"
	Paused    State = "paused" // trying soon again would be of no use
	self      State = "self"   // it is this node: never again, and not listed
)

// The phases. The first is for nodes that start together: who was not up yet
// at the first attempt is up a second later.
const (
	eagerEvery = time.Second
	eagerFor   = 5 * time.Second
	fastEvery  = 5 * time.Second
	fastFor    = 2 * time.Minute
	slowEvery  = 30 * time.Second
	dropWait   = time.Second      // after a drop the next attempt comes within it
	flapping   = 10 * time.Second // a connection that lived shorter is a failed attempt
	flapFirst  = time.Second      // after the first of these, ± 20 %; it doubles up to slowEvery
	growMost   = 5 * time.Minute
)

// rests are the classes for which the phases are too often. A ban by us costs
// nothing to look at, so its end is seen soon.
var rests = map[Class]time.Duration{
	ClassIdentity:     5 * time.Minute,
	ClassWrongNetwork: 10 * time.Minute,
	ClassBanned:       fastEvery,
}

// grows are the classes whose first rest doubles up to growMost: a place may
// come free, and who was just entered in the list of a peer comes in soon.
var grows = map[Class]time.Duration{
	ClassFull:       time.Minute,
	ClassNotAllowed: 15 * time.Second,
}

// retry decides when a peer is tried next. It is data: whoever holds it calls
// its methods, which take the time, and reads next.
type retry struct {
	state State
	class Class // of the last failure, "" while connected
	tries int   // failed ones since it was connected
	since time.Time
	upAt  time.Time
	grown time.Duration // the last rest because of class, where it grows
	flap  time.Duration // the last wait after a connection that did not live, 0 = the last one lived
	next  time.Time     // zero = not by time
}

func newRetry(now time.Time) retry { return retry{state: Trying, since: now, next: now} }

// failed notes an attempt that began at started and ended now.
func (r *retry) failed(started, now time.Time, c Class) {
	r.tries++
	if c != r.class {
		r.grown = 0
	}
	r.class = c
	rest, resting := rests[c]
	first, growing := grows[c]
	switch {
	case c == ClassSelf:
		r.state, r.next = self, time.Time{}
	case growing:
		r.grown = min(max(first, 2*r.grown), growMost)
		r.state, r.next = Paused, now.Add(r.grown+rand.N(r.grown/10))
	case resting:
		r.state, r.next = Paused, now.Add(rest+rand.N(rest/10))
	default:
		r.state, r.next = Trying, started.Add(r.interval(started))
		if soonest := now.Add(dropWait); r.next.Before(soonest) {
			r.next = soonest // the attempt took longer than the interval
		}
	}
}

// interval is that of the phase, ± 20 %.
func (r *retry) interval(now time.Time) time.Duration {
	d := slowEvery
	switch since := now.Sub(r.since); {
	case since < eagerFor:
		d = eagerEvery
	case since < fastFor:
		d = fastEvery
	}
	return around(d)
}

// around is d ± 20 %.
func around(d time.Duration) time.Duration { return d*8/10 + rand.N(d*4/10) }

// up notes that the peer is connected and ready.
func (r *retry) up(now time.Time) {
	r.state, r.class, r.tries, r.grown = Connected, "", 0, 0
	r.upAt, r.next = now, time.Time{}
}

// down notes that its connection is gone, c being what its goodbye stands for.
func (r *retry) down(now time.Time, c Class) {
	_, resting := rests[c]
	_, growing := grows[c]
	switch {
	case resting || growing:
		r.failed(now, now, c)
	case now.Sub(r.upAt) < flapping:
		r.tries++
		r.flap = min(max(flapFirst, 2*r.flap), slowEvery)
		r.state, r.class, r.next = Trying, c, now.Add(around(r.flap))
	default:
		r.state, r.class, r.since, r.flap = Trying, c, now, 0
		r.next = now.Add(rand.N(dropWait))
	}
}
