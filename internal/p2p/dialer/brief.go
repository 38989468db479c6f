package dialer

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A bootstrap peer whose places are all taken would keep everybody out who knows
// nobody else. So a few more peers are let in to ask for others and for the
// chain, and go soon after; each network has such a place once a minute, so that
// they do not all go to one.
const (
	briefPlaces = 8               // beside the others
	briefStay   = 5 * time.Second // at least
	briefAgain  = time.Minute
)

// brief is who is here for a short time.
type brief struct {
	peers map[peer.ID]time.Time      // since when
	nets  map[netip.Prefix]time.Time // the last place of each, at most maxLosers
}

// takes gives p one of the short places, where one is left for its network.
func (b *brief) takes(p peer.ID, ip netip.Addr, now time.Time) bool {
	if len(b.peers) >= briefPlaces {
		return false
	}
	if limited(ip) {
		if at, ok := b.nets[netKey(ip)]; ok && now.Sub(at) < briefAgain {
			return false
		}
		if len(b.nets) >= maxLosers {
			maps.DeleteFunc(b.nets, func(_ netip.Prefix, at time.Time) bool { return now.Sub(at) >= briefAgain })
		}
		if len(b.nets) >= maxLosers {
			return false
		}
		b.nets[netKey(ip)] = now
	}
	b.peers[p] = now
	return true
}

// seeOff parts with those whose short time is over, unless a place has become
// free for them, and with those who are too many: who had a place by right, and
// has lost it, asked nobody for one of these.
func (s *Slots) seeOff(now time.Time) (jobs []task) {
	leave := func(p peer.ID, why string) {
		jobs = append(jobs, task{hold: &hold{id: p, slot: SlotFeeler}, leave: why})
	}
	in := &s.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	guests := s.current()
	in.prune(now)
	have := in.taken(guests)
	for p, at := range in.brief.peers {
		i := slices.IndexFunc(guests, func(g placed) bool { return g.id == p })
		switch {
		case i < 0 && now.Sub(at) >= settles:
			delete(in.brief.peers, p)
		case i < 0 || now.Sub(at) < briefStay:
		case len(have) < s.cfg.Inbound:
			have = append(have, guests[i].guest)
			delete(in.brief.peers, p)
		default:
			leave(p, "all places for inbound peers are taken, and you had the time to ask")
		}
	}
	for len(have) > s.cfg.Inbound {
		p := victim(have, s.key)
		i := slices.IndexFunc(have, func(g guest) bool { return g.id == p })
		if i < 0 {
			break
		}
		s.evict(have[i], now)
		have = slices.Delete(have, i, i+1)
		leave(p, "there are more inbound peers than places")
	}
	return jobs
}
