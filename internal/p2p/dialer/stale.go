package dialer

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	staleTimes  = 3                // the expected interval without a new head
	doubtFor    = time.Minute      // better or other heads of peers count from then on
	extraStays  = 45 * time.Second // of an extra peer on the head
	extraRotate = 5 * time.Minute  // an extra one that changed nothing goes for another
	spareGivers = 4                // outbound peers that brought the head
)

// watch is what makes us doubt that we see the chain (DEFENCE 4.4).
type watch struct {
	head   chain.Head
	at     time.Time // it moved
	better time.Time // since when two outbound peers have proved a higher one
	one    time.Time // since when one has
	split  time.Time // since when block-only and full peers disagree
	narrow time.Time // since when outbound peers are in too few groups
	low    time.Time // since when there are too few
	asked  time.Time // discovery, for an extra one

	inbound time.Time // a peer that dialled us was there last; at first the start
	heard   bool      // there was one
}

func (w *watch) begin(head chain.Head, now time.Time) { w.head, w.at, w.inbound = head, now, now }

func (w *watch) moved(head chain.Head, now time.Time) {
	if head != w.head {
		w.head, w.at = head, now
	}
}

// eclipse looks for signs that our peers keep the chain from us, tells of them,
// and sees to one more outbound peer outside of all groups that we have.
func (s *Slots) eclipse(head chain.Head, peers map[peer.ID]Peer, now time.Time) (jobs []task) {
	s.watch.moved(head, now)
	v := s.spread()
	why := s.doubt(peers, v, now)
	s.fns.Alarms.Set(alarmEclipse, why != "", cmp.Or(why, "the signs are gone"), map[string]any{
		"outbound": v.up, "groups": v.groups, "source": v.kind, "of_source": v.ofKind, "height": head.Height, "head_age_s": now.Sub(s.watch.at).Round(time.Second).Seconds(),
	})
	h := s.extra(SlotOutbound)
	switch {
	case h != nil && h.up && why == "" && h.off.IsZero() && now.Sub(h.since) >= extraStays:
		jobs = append(jobs, s.dropWorst(h, peers, now))
	case h != nil && h.up && now.Sub(h.since) >= extraRotate:
		jobs = append(jobs, s.part(h, "it brought nothing new", partedRest, now))
	case h == nil && why != "":
		jobs = append(jobs, s.dialExtra(now)...)
	}
	return jobs
}

// doubt says what looks like an eclipse, "" = nothing.
func (s *Slots) doubt(peers map[peer.ID]Peer, v spread, now time.Time) string {
	better, full, quiet := 0, chain.Head{}, chain.Head{}
	for id, h := range s.held {
		if !h.up || h.slot == SlotFeeler {
			continue
		}
		p := peers[id]
		if p.Validated.Height > s.watch.head.Height {
			better++
		}
		if h.slot == SlotBlockOnly {
			quiet = higher(quiet, p.Validated)
		} else {
			full = higher(higher(full, p.Claimed), p.Validated)
		}
	}
	lasts := func(since *time.Time, is bool) bool {
		switch {
		case !is:
			*since = time.Time{}
		case since.IsZero():
			*since = now
		}
		return is && now.Sub(*since) >= doubtFor
	}
	syncing := s.fns.Syncing()
	still := now.Sub(s.watch.at) >= doubtFor && !syncing
	ahead := lasts(&s.watch.better, better >= 2 && still)
	behind := lasts(&s.watch.one, better == 1 && still)
	// A higher block that full peers have not even heard of, or another one at
	// the same height.
	split := lasts(&s.watch.split, quiet.Height > full.Height && full.Height > 0 || quiet.Height == full.Height && quiet.Height > 0 && quiet.Hash != full.Hash)
	every := s.fns.Interval()
	switch {
	case every > 0 && now.Sub(s.watch.at) >= staleTimes*every && !syncing && len(s.held) > 0:
		return "no new block for three times the expected interval"
	case ahead:
		return "outbound peers have proved a higher block, and ours does not move"
	case split:
		return "block-only peers know another head than full ones"
	case s.oneKind(v) && (behind || every > 0 && now.Sub(s.watch.at) >= staleTimes*every):
		// Less is needed where one kind of source could have chosen our peers: one
		// who knows better, or a sync that brings nothing.
		return fmt.Sprintf("more than a third of the outbound peers were told of by %s, and our head is stale", v.kind)
	case !s.watch.narrow.IsZero() && now.Sub(s.watch.narrow) >= fewGroupsFor:
		return "the outbound peers are in very few address groups"
	}
	return ""
}

func higher(a, b chain.Head) chain.Head {
	if b.Height > a.Height {
		return b
	}
	return a
}

// dialExtra dials one outbound peer beyond the number, in a free group, of the
// bootnodes if one is left.
func (s *Slots) dialExtra(now time.Time) []task {
	if now.Sub(s.watch.asked) >= needFirst {
		s.watch.asked = now
		s.fns.Need()
	}
	s.dial.hurry()
	groups := s.usedGroups()
	out := func(e addrbook.Entry) bool { return s.unfit(e, now) || groups[e.Group] && dialsPublic(e) }
	e, ok := s.book.Pick(addrbook.PickOptions{Skip: func(e addrbook.Entry) bool { return kindOf(e) != addrbook.Bootstrap || out(e) }})
	if !ok {
		e, ok = s.book.Pick(addrbook.PickOptions{Skip: out})
	}
	if !ok {
		return nil
	}
	return []task{s.start(e, want{slot: SlotOutbound, extra: true}, now)}
}

// hurry tries the static peers that are not connected at once, but for those
// that rest for a reason.
func (d *Dialer) hurry() {
	now := time.Now()
	d.mu.Lock()
	for _, it := range d.items {
		for _, s := range it.slots {
			if s.retry.state == Trying && s.retry.next.After(now) {
				s.retry.next = now
			}
		}
	}
	d.mu.Unlock()
	d.changed()
}

// dropWorst brings the outbound peers back to their number: the one with the
// lowest head goes, of several the youngest, and none of the four that brought
// ours last.
func (s *Slots) dropWorst(extra *hold, peers map[peer.ID]Peer, now time.Time) task {
	var full []*hold
	for _, h := range s.held {
		if h.slot == SlotOutbound && h.up {
			full = append(full, h)
		}
	}
	slices.SortFunc(full, func(a, b *hold) int { return b.gave.Compare(a.gave) })
	givers := 0
	for givers < min(spareGivers, len(full)) && !full[givers].gave.IsZero() {
		givers++
	}
	worst := extra
	if rest := full[givers:]; len(rest) > 0 {
		worst = lowest(rest, peers)
	}
	extra.extra = false
	return s.part(worst, "others know the chain better", partedRest, now)
}

// lowest is the one of list with the lowest head, of several the youngest.
func lowest(list []*hold, peers map[peer.ID]Peer) *hold {
	return slices.MinFunc(list, func(a, b *hold) int {
		return cmp.Or(cmp.Compare(peers[a.id].height(), peers[b.id].height()), b.since.Compare(a.since))
	})
}

func (p Peer) height() uint64 { return max(p.Claimed.Height, p.Validated.Height) }
