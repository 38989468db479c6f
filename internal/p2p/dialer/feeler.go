package dialer

import (
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	feelerMean  = 2 * time.Minute
	testEvery   = 10 * time.Second // the book is asked for a test that is due
	extraEvery  = 5 * time.Minute  // a block-only peer beyond the number
	extraJudged = 30 * time.Second // after it is up
)

// feeling is when the next peer is only looked at.
type feeling struct {
	at    time.Time // wake for either of the two
	next  time.Time // feeler
	extra time.Time
}

func (f *feeling) begin(now time.Time) {
	f.next, f.extra = now.Add(feelerWait()), now.Add(extraEvery)
	f.at = now.Add(testEvery)
}

func feelerWait() time.Duration {
	return min(time.Duration(rand.ExpFloat64()*float64(feelerMean)), 10*feelerMean)
}

// feelers begins what is due of feelers, of tests of the book, and of extra
// block-only peers.
func (s *Slots) feelers(now time.Time) (jobs []task) {
	f := &s.feel
	if now.Before(f.at) {
		return nil
	}
	busy := false
	for _, h := range s.held {
		busy = busy || h.slot == SlotFeeler
	}
	if !busy {
		jobs = s.feeler(now)
	}
	if !now.Before(f.extra) {
		f.extra = now.Add(extraEvery)
		jobs = append(jobs, s.extraBlockOnly(now)...)
	}
	f.at = now.Add(testEvery)
	for _, t := range []time.Time{f.next, f.extra} {
		if t.After(now) && t.Before(f.at) {
			f.at = t
		}
	}
	return jobs
}

// feeler looks at one peer: at one of tried that a newcomer wants to replace,
// or at a new one.
func (s *Slots) feeler(now time.Time) []task {
	w := want{slot: SlotFeeler}
	if old, ok := s.book.Test(); ok {
		switch {
		case s.held[old.ID] != nil && s.held[old.ID].up:
			s.book.Good(old.ID, nil) // our own dial stands
		case s.held[old.ID] == nil && !s.dial.connected(old.ID):
			j := s.start(old, w, now)
			j.hold.test = true
			return []task{j}
		}
	}
	if now.Before(s.feel.next) {
		return nil
	}
	s.feel.next = now.Add(feelerWait())
	e, ok := s.book.Pick(addrbook.PickOptions{Table: addrbook.New, Skip: func(e addrbook.Entry) bool { return s.unfit(e, now) }})
	if !ok {
		return nil
	}
	return []task{s.start(e, w, now)}
}

// extraBlockOnly dials one block-only peer beyond their number: should all that
// we hold keep something from us, it would be the one to tell.
func (s *Slots) extraBlockOnly(now time.Time) []task {
	if s.cfg.BlockOnly == 0 || s.extra(SlotBlockOnly) != nil || len(s.lacking(now)) > 0 {
		return nil // a slot that is empty comes first
	}
	if up, _ := s.count(SlotBlockOnly); up == 0 {
		return nil // there is nobody to compare it with
	}
	w := want{slot: SlotBlockOnly, extra: true}
	e, ok := s.pick(w, 0, now)
	if !ok {
		return nil
	}
	return []task{s.start(e, w, now)}
}

// extra is the peer beyond the number of a slot, nil = there is none. Who gets
// its slot back is none.
func (s *Slots) extra(slot string) *hold {
	for _, h := range s.held {
		if h.slot == slot && h.extra && h.back.IsZero() {
			return h
		}
	}
	return nil
}

// judgeExtra compares the extra block-only peer with the others: it replaces
// the worst or leaves.
func (s *Slots) judgeExtra(peers map[peer.ID]Peer, now time.Time) []task {
	h := s.extra(SlotBlockOnly)
	if h == nil || !h.up || now.Sub(h.since) < extraJudged {
		return nil
	}
	var others []*hold
	for _, o := range s.held {
		if o.slot == SlotBlockOnly && o.up && !o.extra {
			others = append(others, o)
		}
	}
	if len(others) > 0 {
		worst := lowest(others, peers)
		if peers[h.id].height() <= peers[worst.id].height() {
			return []task{s.part(h, "knows no more than those we have", lookedRest, now)}
		}
		h.extra = false
		return []task{s.part(worst, "another peer knows a higher block", partedRest, now)}
	}
	h.extra = false
	return nil
}
