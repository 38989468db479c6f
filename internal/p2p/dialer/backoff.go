package dialer

import (
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Backoff of one peer (DEFENCE 4.1), ± 50 %.
const (
	restFirst = 5 * time.Second
	restMost  = time.Hour
	restAlone = 30 * time.Second // at most while nobody is connected: the fault is ours then
	maxRests  = 8192
)

// restStart is where the doubling begins for classes that do not pass soon.
var restStart = map[Class]time.Duration{
	ClassFull: time.Minute, ClassIdentity: 10 * time.Minute, ClassNotAllowed: 10 * time.Minute, ClassBanned: 10 * time.Minute,
	ClassWrongNetwork: time.Hour, ClassSelf: time.Hour,
}

// resting is a peer that is not dialled for now.
type resting struct {
	fails int // in a row
	class Class
	until time.Time
}

// company forgives those who did not answer while nobody was connected: the
// fault was ours.
func (s *Slots) company(now time.Time) {
	alone := s.alone()
	if s.lonely && !alone {
		s.forgive(now)
	}
	s.lonely = alone
}

// forgive ends the rests of those who did not answer.
func (s *Slots) forgive(now time.Time) {
	for p, r := range s.rests {
		if restStart[r.class] == 0 {
			delete(s.rests, p)
		}
	}
	s.dial.rests.forgive()
	s.returned(now)
	s.fill.again, s.fill.wait = now, 0
}

// rest lets a peer rest after a failure. One that came while nobody at all was
// connected, alone, is likely our own fault and does not add up.
func (s *Slots) rest(p peer.ID, class Class, alone bool, now time.Time) {
	if len(s.rests) >= maxRests {
		for id, r := range s.rests {
			if !now.Before(r.until) || len(s.rests) >= maxRests {
				delete(s.rests, id)
			}
		}
	}
	r := s.rests[p]
	if r.class != class {
		r.fails = 0
	}
	wait := restStart[class]
	if wait == 0 {
		wait = restFirst
	}
	wait = min(wait<<min(r.fails, 16), restMost)
	switch still := s.nobodyBut(p); { // its own connection may not be gone yet
	case class == ClassFull && still: // it may be the only one we know
		wait, r.fails = restAlone, 0
	case !alone || restStart[class] != 0:
		r.fails++
	case still && s.young(now):
		wait, r.fails = eagerEvery, 0 // as of a static peer
	case still:
		wait, r.fails = min(wait, restAlone), min(r.fails, 3)
	default: // somebody was reached meanwhile
		wait, r.fails = restFirst, 0
	}
	r.class = class
	r.until = now.Add(wait/2 + rand.N(wait))
	s.rests[p] = r
}

// alone reports whether nobody is connected.
func (s *Slots) alone() bool { return s.nobodyBut("") }

// nobodyBut reports whether nobody is connected, p left out.
func (s *Slots) nobodyBut(p peer.ID) bool {
	peers := s.dial.host.Network().Peers()
	return len(peers) == 0 || len(peers) == 1 && peers[0] == p
}

// young reports whether the run has just begun.
func (s *Slots) young(now time.Time) bool { return now.Sub(s.fill.since) < eagerFor }
