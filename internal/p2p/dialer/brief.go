package dialer

import (
	"maps"
	"net/netip"
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
// free for them.
func (s *Slots) seeOff(now time.Time) (jobs []task) {
	guests, _ := s.guests()
	in := &s.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	here, settled := map[peer.ID]bool{}, 0
	for _, g := range guests {
		here[g.id] = true
		if _, short := in.brief.peers[g.id]; g.ready && !short {
			settled++
		}
	}
	for p, at := range in.brief.peers {
		switch {
		case !here[p] && now.Sub(at) >= settles:
			delete(in.brief.peers, p)
		case !here[p] || now.Sub(at) < briefStay:
		case settled < s.cfg.Inbound:
			settled++
			delete(in.brief.peers, p)
		default:
			jobs = append(jobs, task{hold: &hold{id: p, slot: SlotFeeler}, leave: "all places for inbound peers are taken, and you had the time to ask"})
		}
	}
	return jobs
}
