package dialer

import (
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	scarceKind   = 10 * time.Second // nobody fits the rule of kinds: it gives way; sources get 2 s each to answer
	scarceGroup  = time.Minute      // nobody is left in a free group: that rule gives way too
	fewGroups    = 4                // outbound peers in fewer look like an eclipse
	fewGroupsFor = 10 * time.Minute
	lowPeersFor  = 5 * time.Minute
	noInboundFor = 10 * time.Minute // since the start
	quietFor     = time.Hour        // since the last of some
)

// Codes of alarms (DEFENCE 13).
const (
	alarmEclipse   = "possible_eclipse"
	alarmDiversity = "low_diversity"
	alarmLowPeers  = "low_peers"
	alarmFlood     = "inbound_flood"
	alarmNoInbound = "no_inbound"
	alarmPoisoned  = "book_poisoned"
	alarmSkew      = "clock_skew"
	alarmUnknown   = "not_announced"
)

// kindOf is the kind of source that counts for e: the first that told of it.
func kindOf(e addrbook.Entry) addrbook.Kind {
	if len(e.Sources) == 0 {
		return addrbook.Operator
	}
	return e.Sources[0].Kind
}

// dialsPublic reports whether the rule of groups bears on e.
func dialsPublic(e addrbook.Entry) bool {
	if len(e.Addrs) == 0 {
		return false
	}
	ip := addrbook.IP(e.Addrs[0])
	return !ip.IsValid() || addrbook.Public(ip)
}

// usedGroups are those of the outbound peers we hold or dial.
func (s *Slots) usedGroups() map[string]bool {
	used := map[string]bool{}
	for _, h := range s.held {
		if h.slot != SlotFeeler && h.public {
			used[h.group] = true
		}
	}
	return used
}

// fullKinds are the kinds of sources that have a third of the slots; what the
// operator named is not rationed.
func (s *Slots) fullKinds() map[addrbook.Kind]bool {
	full := map[addrbook.Kind]bool{}
	if s.kinds.Load() < 2 {
		return full
	}
	most := max(1, (s.cfg.Outbound+s.cfg.BlockOnly)/3)
	for kind, n := range s.bySource() {
		k := addrbook.Kind(kind)
		full[k] = n >= most && k != addrbook.Operator && k != addrbook.Static
	}
	return full
}

// bySource counts the outbound peers we hold or dial.
func (s *Slots) bySource() map[string]int {
	n := map[string]int{}
	for _, h := range s.held {
		if h.slot != SlotFeeler {
			n[h.source]++
		}
	}
	return n
}

// spread is how the outbound peers that are up lie.
type spread struct {
	up, public, groups int
	kind               string // that brought most of them, of those that strangers can feed; "" = none did
	ofKind             int
}

// oneKind reports whether more than a third came from one kind of source,
// though there are others.
func (s *Slots) oneKind(v spread) bool { return s.kinds.Load() >= 2 && v.up >= 3 && 3*v.ofKind > v.up }

func (s *Slots) spread() spread {
	var v spread
	groups, kinds := map[string]bool{}, map[string]int{}
	for _, h := range s.held {
		if !h.up || h.slot == SlotFeeler {
			continue
		}
		v.up++
		switch addrbook.Kind(h.source) {
		case addrbook.Operator, addrbook.Static, sourceAnchor:
		default:
			kinds[h.source]++
		}
		if h.public {
			v.public++
			groups[h.group] = true
		}
	}
	v.groups = len(groups)
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		if kinds[k] > v.ofKind {
			v.kind, v.ofKind = k, kinds[k]
		}
	}
	return v
}

// diversity raises and clears the alarms on how many there are and where.
func (s *Slots) diversity(now time.Time) {
	v := s.spread()
	facts := map[string]any{"outbound": v.up, "groups": v.groups}
	s.fns.Alarms.Set(alarmDiversity, v.public > v.groups, "outbound peers share address groups, for no others were left for a minute", facts)

	narrow := v.public >= 8 && v.groups < fewGroups
	if !narrow {
		s.watch.narrow = time.Time{}
	} else if s.watch.narrow.IsZero() {
		s.watch.narrow = now
	}

	// Where the book knows of nobody else a small network is complete.
	low := v.up < s.cfg.Outbound/2 && !s.fill.noKind.IsZero() && s.book.Stats().Tried+s.book.Stats().New > s.cfg.Outbound
	if !low {
		s.watch.low = time.Time{}
	} else if s.watch.low.IsZero() {
		s.watch.low = now
	}
	s.fns.Alarms.Set(alarmLowPeers, low && now.Sub(s.watch.low) >= lowPeersFor, "fewer than half of the outbound slots are filled", facts)
}

// unheard raises and clears the alarm that nobody dials us, though we can be
// reached and the book knows of many who could: a port may be closed on the way.
func (s *Slots) unheard(peers map[peer.ID]Peer, now time.Time) {
	w := &s.watch
	outbound := 0
	for _, p := range peers {
		switch {
		case p.Inbound:
			w.inbound, w.heard = now, true
		case p.Ready:
			outbound++
		}
	}
	wait := noInboundFor
	if w.heard {
		wait = quietFor
	}
	stats := s.book.Stats()
	is := outbound > 0 && now.Sub(w.inbound) >= wait && s.fns.Reachable() && stats.New+stats.Tried > 2*len(peers)
	s.fns.Alarms.Set(alarmNoInbound, is, "nobody dials this node: is its port open on firewall and router?", map[string]any{
		"outbound": outbound, "for_s": now.Sub(w.inbound).Round(time.Second).Seconds(), "ever": w.heard,
	})
}
