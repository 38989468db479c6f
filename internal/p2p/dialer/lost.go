package dialer

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
)

// A cut of the network takes outbound peers away, and each side fills the free
// slots with its own. So who went without a word is tried for a while, and has
// its slot back when it answers: who came in its place leaves. Otherwise two
// halves stay apart, for no slot is free when the cut is over.
const (
	lostFirst = 15 * time.Second // after it went; it doubles
	lostMost  = 2 * time.Minute
	lostKept  = 2 * time.Hour
	lostLived = 20 * time.Second // a cut shows after 30 s of silence; who goes sooner was hardly there
)

// lost is a full outbound peer that went without a word.
type lost struct {
	was   hold
	addrs []ma.Multiaddr
	at    time.Time
	next  time.Time
	wait  time.Duration
}

// lose notes that h, which v tells of, is gone. A goodbye is no loss, nor is a
// connection that hardly lived, or an extra one.
func (s *Slots) lose(h *hold, v event.PeerDisconnected, now time.Time) {
	if h.slot != SlotOutbound || h.extra || v.By != "them" || v.Goodbye != 0 || now.Sub(h.since) < lostLived {
		return
	}
	e, ok := s.book.Get(h.id)
	if !ok {
		return
	}
	if len(s.lost) >= s.cfg.Outbound {
		var first *lost
		for _, l := range s.lost {
			if first == nil || l.at.Before(first.at) {
				first = l
			}
		}
		delete(s.lost, first.was.id)
	}
	s.lost[h.id] = &lost{was: *h, addrs: e.Addrs, at: now, next: now.Add(lostFirst), wait: lostFirst}
}

// returned says that what kept us apart may be over: all who were lost are
// tried at once.
func (s *Slots) returned(now time.Time) {
	for _, l := range s.lost {
		l.next, l.wait = now, lostFirst
	}
}

// didNotAnswer reports whether p was dialled lately and nobody was there.
func (s *Slots) didNotAnswer(p peer.ID) bool {
	r, ok := s.rests[p]
	return ok && r.class != "" && restStart[r.class] == 0
}

// revisit dials who was lost and is due, beyond the number of the slots.
func (s *Slots) revisit(now time.Time) (jobs []task) {
	for id, l := range s.lost {
		switch {
		case now.Sub(l.at) >= lostKept || s.dial.Has(id) || s.dial.isLeft(id, now) || s.dial.rep.Refused(id) || s.held[id] != nil && s.held[id].up:
			delete(s.lost, id)
			continue
		case s.held[id] != nil || now.Before(l.next):
			continue
		case s.dial.connected(id) && s.dial.reachedAt(id) == nil: // it came by itself, maybe only to ask
			l.next = now.Add(lostFirst)
			continue
		}
		l.wait = min(2*l.wait, lostMost)
		l.next = now.Add(l.wait)
		h := &hold{
			id: id, slot: SlotOutbound, extra: true, back: l.at, source: l.was.source, group: l.was.group, public: l.was.public,
			aged: l.was.aged, since: now, seenAt: now, alone: s.nobodyBut(id),
		}
		s.take(h)
		jobs = append(jobs, task{hold: h, addrs: l.addrs})
	}
	return jobs
}

// revisitAt is when the next of those who were lost is due, zero = nobody was.
func (s *Slots) revisitAt() (at time.Time) {
	for id, l := range s.lost {
		if s.held[id] == nil && (at.IsZero() || l.next.Before(at)) {
			at = l.next
		}
	}
	return at
}

// giveBack gives those who are back their slots: of who came since they were
// lost the youngest leaves, first one of the same address group.
func (s *Slots) giveBack(now time.Time) (jobs []task) {
	for _, h := range s.held {
		if h.back.IsZero() || !h.up {
			continue
		}
		var out *hold
		for _, o := range s.held {
			if o.slot != SlotOutbound || !o.up || o.extra || o.since.Before(h.back) {
				continue
			}
			if out == nil || sameGroup(o, h) && !sameGroup(out, h) || sameGroup(o, h) == sameGroup(out, h) && o.since.After(out.since) {
				out = o
			}
		}
		up, dialling := s.count(SlotOutbound)
		room := up+dialling < s.cfg.Outbound
		switch {
		case out != nil && (!room || sameGroup(out, h)):
			jobs = append(jobs, s.part(out, "who had its slot before is back", partedRest, now))
		case !room:
			continue // for the dial under way
		}
		h.extra, h.back = false, time.Time{}
	}
	return jobs
}

func sameGroup(a, b *hold) bool { return a.public && b.public && a.group == b.group }

// nextDue is the earliest of times that is not zero, or wake.
func nextDue(wake time.Time, times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() && t.Before(wake) {
			wake = t
		}
	}
	return wake
}
