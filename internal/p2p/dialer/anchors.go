package dialer

import (
	"cmp"
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

// candidate is who could be an anchor.
type candidate struct {
	id    peer.ID
	entry addrbook.Entry
	known bool
	gone  bool
}

// before puts first who is there, and then who was good first.
func (c candidate) before(o candidate) int {
	if c.gone != o.gone {
		if c.gone {
			return 1
		}
		return -1
	}
	return cmp.Or(c.entry.FirstGood.Compare(o.entry.FirstGood), cmp.Compare(c.id, o.id))
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

// retitle finds who is an anchor now: of those that are fit who was good first,
// for an attacker stays connected for as long as it likes but cannot have been
// there before. Who is gone keeps the title where no other could have it: an
// outage of ours takes it from nobody.
func (s *Slots) retitle(now time.Time) {
	var list []candidate
	for _, h := range s.held {
		if h.up && h.slot != SlotFeeler && now.Sub(h.since) >= anchorAfter && !h.gave.IsZero() && !s.losesTitle(h.id, now) {
			list = append(list, candidate{id: h.id})
		}
	}
	for _, p := range s.anchors.current {
		if !slices.ContainsFunc(list, func(c candidate) bool { return c.id == p }) && !s.losesTitle(p, now) {
			list = append(list, candidate{id: p, gone: s.held[p] == nil && !s.dial.connected(p)})
		}
	}
	for i := range list {
		list[i].entry, list[i].known = s.book.Get(list[i].id)
	}
	slices.SortFunc(list, candidate.before)
	var next []peer.ID
	groups := map[string]bool{}
	for _, c := range list {
		if !c.known || len(next) == maxAnchors || groups[c.entry.Group] && dialsPublic(c.entry) {
			continue
		}
		groups[c.entry.Group] = true
		next = append(next, c.id)
	}
	if !slices.Equal(next, s.anchors.current) {
		s.anchors.current = next
		s.book.SetAnchors(next)
		s.log.Debug("anchors changed", "peers", next)
	}
}

// losesTitle reports whether p lags behind or misbehaves.
func (s *Slots) losesTitle(p peer.ID, now time.Time) bool {
	h := s.held[p]
	return s.dial.rep.Refused(p) || h != nil && h.up && !h.off.IsZero() && now.Sub(h.off) >= anchorBehind
}
