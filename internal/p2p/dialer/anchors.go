package dialer

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	maxAnchors   = 4
	anchorTries  = 3
	anchorAgain  = 5 * time.Second  // between two tries of one
	anchorHolds  = 5 * time.Second  // others wait so long at the start for the anchors to be tried once
	anchorAfter  = 30 * time.Minute // of connection
	anchorBehind = 10 * time.Minute // not on our head: no anchor any more
)

// titles is who is an anchor, and which of the last run's are still to be
// dialled (DEFENCE 4.2).
type titles struct {
	start   []*try
	since   time.Time
	current []peer.ID
}

// try is an anchor of the last run.
type try struct {
	entry   addrbook.Entry
	tries   int // begun
	over    bool
	busy    bool
	next    time.Time
	decided bool // it was tried once
}

// begin takes over the anchors of the last run, for at most half of the slots.
func (t *titles) begin(entries []addrbook.Entry, slots int, now time.Time) {
	t.since = now
	for _, e := range entries {
		t.current = append(t.current, e.ID)
		if len(t.start) < max(1, slots/2) {
			t.start = append(t.start, &try{entry: e})
		}
	}
}

// dialAnchors dials the anchors of the last run, and says whether others wait
// for them.
func (s *Slots) dialAnchors(now time.Time) (jobs []task, wait bool) {
	t := &s.anchors
	t.start = slices.DeleteFunc(t.start, func(a *try) bool { return a.over })
	for _, a := range t.start {
		wait = wait || !a.decided && now.Sub(t.since) < anchorHolds
		if a.busy || now.Before(a.next) {
			continue
		}
		if s.held[a.entry.ID] != nil || s.dial.Has(a.entry.ID) || s.dial.connected(a.entry.ID) {
			a.over = true // somebody was quicker
			continue
		}
		if up, dialling := s.count(SlotOutbound); up+dialling >= s.cfg.Outbound {
			a.over = true
			continue
		}
		a.busy = true
		a.tries++
		j := s.start(a.entry, want{slot: SlotOutbound}, now)
		j.hold.anchor, j.hold.source = true, sourceAnchor
		s.take(j.hold) // under its new source
		jobs = append(jobs, j)
	}
	return jobs, wait
}

// tried enters what came of a try.
func (t *titles) tried(p peer.ID, good bool, now time.Time) {
	for _, a := range t.start {
		if a.entry.ID == p {
			a.busy, a.decided = false, true
			a.over = good || a.tries >= anchorTries
			a.next = now.Add(anchorAgain << (a.tries - 1))
		}
	}
}

// retitle finds who is an anchor now. Who has the title keeps it until it lags
// behind, misbehaves, or is gone and another one could have it: an outage of
// ours takes it from nobody.
func (s *Slots) retitle(now time.Time) {
	loses := func(p peer.ID) bool {
		h := s.held[p]
		return s.dial.rep.Refused(p) || h != nil && h.up && !h.off.IsZero() && now.Sub(h.off) >= anchorBehind
	}
	next := slices.DeleteFunc(slices.Clone(s.anchors.current), loses)
	var fit []*hold
	for _, h := range s.held {
		fits := h.up && h.slot != SlotFeeler && now.Sub(h.since) >= anchorAfter && !h.gave.IsZero() && (h.off.IsZero() || now.Sub(h.off) < anchorBehind)
		if fits && !slices.Contains(next, h.id) && !loses(h.id) {
			fit = append(fit, h)
		}
	}
	slices.SortFunc(fit, func(a, b *hold) int { return a.since.Compare(b.since) })
	for _, h := range fit {
		if s.sharesGroup(h, next) {
			continue
		}
		if len(next) < maxAnchors {
			next = append(next, h.id)
			continue
		}
		gone := slices.IndexFunc(next, func(p peer.ID) bool { return s.held[p] == nil && !s.dial.connected(p) })
		if gone < 0 {
			break
		}
		next[gone] = h.id
	}
	if !slices.Equal(next, s.anchors.current) {
		s.anchors.current = next
		s.book.SetAnchors(next)
		s.log.Debug("anchors changed", "peers", next)
	}
}

// sharesGroup reports whether an anchor is in the group of h.
func (s *Slots) sharesGroup(h *hold, anchors []peer.ID) bool {
	return h.public && slices.ContainsFunc(anchors, func(p peer.ID) bool {
		e, ok := s.book.Get(p)
		return ok && e.Group == h.group
	})
}
