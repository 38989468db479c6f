package dialer

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/tally"
)

const (
	settles    = 10 * time.Second // who was admitted or evicted shows in the table within it
	floodEvery = 20               // evictions a minute are a flood
	floodRate  = 100              // refused connections a second too, for a minute
	pushAgain  = 30 * time.Minute // who gave its place up pushes nobody out before
	maxLosers  = 4096             // places of the network that are remembered for it
)

// inbound is who comes and goes between two looks at the table of peers.
type inbound struct {
	mu      sync.Mutex // guards below
	given   uint64     // places, since the start
	coming  map[peer.ID]time.Time
	leaving map[peer.ID]time.Time
	evicted []time.Time // at most floodEvery+1, oldest first
	losers  losers
	turned  []turned // one a second, oldest first; those after the first are less than a minute old
	brief   brief
	cuts    *tally.Tally[string] // of groups: those in handshake who were too many
}

// turned is how many connections were refused by then.
type turned struct {
	at    time.Time
	total uint64
}

// losers is from where peers were evicted lately. Ids cost nothing, and without
// it a few hosts that come back at once push everybody out in turn; so what an
// eviction costs is an address.
type losers map[netip.Prefix]time.Time

func (l losers) add(ip netip.Addr, now time.Time) {
	if !limited(ip) {
		return
	}
	if len(l) >= maxLosers {
		maps.DeleteFunc(l, func(_ netip.Prefix, at time.Time) bool { return now.Sub(at) >= pushAgain })
	}
	for net := range l { // any
		if len(l) < maxLosers {
			break
		}
		delete(l, net)
	}
	l[netKey(ip)] = now
}

func (l losers) has(ip netip.Addr, now time.Time) bool {
	at, ok := l[netKey(ip)]
	return ok && limited(ip) && now.Sub(at) < pushAgain
}

// limited reports whether the rules of networks bear on ip: behind a private
// address there may be a whole site.
func limited(ip netip.Addr) bool { return ip.IsValid() && addrbook.Public(ip) }

// Admit decides whether p, which dialled us and whose handshake is fine, has a
// place, maybe a short one, and who has to go for it, "" = nobody. An error says
// in words fit for p why it has none.
func (s *Slots) Admit(p peer.ID) (evict peer.ID, err error) {
	in := &s.inbound
	in.mu.Lock()
	defer in.mu.Unlock()
	guests := s.current()
	now := time.Now()
	in.prune(now)
	delete(in.leaving, p) // it is back already
	delete(in.brief.peers, p)
	i := slices.IndexFunc(guests, func(g placed) bool { return g.id == p })
	if i < 0 { // it is gone, or has another place
		return "", nil
	}
	came := guests[i].guest
	have := without(in.taken(guests), []guest{came})
	if why := held(have, came); why != "" {
		return "", errors.New(why)
	}
	if len(have) >= s.cfg.Inbound {
		evict = victim(have, s.key)
		i = slices.IndexFunc(have, func(g guest) bool { return g.id == evict })
		switch {
		case (i < 0 || !have[i].bad && in.losers.has(came.ip, now)) && in.brief.takes(p, came.ip, now):
			return "", nil
		case i < 0:
			return "", fmt.Errorf("all %d places for inbound peers are taken", s.cfg.Inbound)
		case !have[i].bad && in.losers.has(came.ip, now):
			return "", fmt.Errorf("all %d places for inbound peers are taken, and your network gave one up a short while ago", s.cfg.Inbound)
		}
		s.evict(have[i], now)
	}
	in.given++
	in.coming[p] = now
	return evict, nil
}

// current is guests, but whoever has a place by now is among them: one that
// connected after a look can have been given a place before that look is judged
// by. mu is held, but for the look itself.
func (s *Slots) current() []placed {
	in := &s.inbound
	for {
		given := in.given
		in.mu.Unlock()
		guests, _ := s.guests()
		in.mu.Lock()
		if in.given == given {
			return guests
		}
	}
}

// taken lists those of guests who have a place, or are on the way to it; mu held.
func (in *inbound) taken(guests []placed) []guest {
	var have []guest
	for _, g := range guests {
		_, coming := in.coming[g.id]
		_, leaving := in.leaving[g.id]
		_, short := in.brief.peers[g.id]
		if (g.ready || coming) && !leaving && !short {
			have = append(have, g.guest)
		}
	}
	return have
}

// evict notes that g gives its place up; mu held.
func (s *Slots) evict(g guest, now time.Time) {
	in := &s.inbound
	in.losers.add(g.ip, now)
	in.leaving[g.id] = now
	delete(in.coming, g.id)
	in.evicted = append(in.evicted, now)
	in.evicted = in.evicted[max(0, len(in.evicted)-floodEvery-1):]
	s.metrics.evictions.Inc()
}

func (in *inbound) prune(now time.Time) { // mu held
	for _, m := range []map[peer.ID]time.Time{in.coming, in.leaving} {
		for p, at := range m {
			if now.Sub(at) >= settles {
				delete(m, p)
			}
		}
	}
}

// Arrive looks at the handshakes under way when p has connected, and names one
// that is to be closed and why, "" = none: p itself where its address has its
// peers already, else one of too many.
func (s *Slots) Arrive(p peer.ID) (closed peer.ID, why string) {
	guests, all := s.guests()
	if !all[p] {
		return "", "" // static, trusted, or of our own choice
	}
	var ready, greeting []guest
	var came guest
	for _, g := range guests {
		if g.ready {
			ready = append(ready, g.guest)
		} else {
			greeting = append(greeting, g.guest)
		}
		if g.id == p {
			came = g.guest
		}
	}
	if why := held(ready, came); why != "" {
		return p, why
	}
	return s.inbound.excess(greeting, time.Now()), "too many peers in handshake"
}

// excess closes one of greeting where they are too many.
func (in *inbound) excess(greeting []guest, now time.Time) peer.ID {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cuts.Forget(now)
	id := excess(greeting, in.cuts.Of, now)
	if i := slices.IndexFunc(greeting, func(g guest) bool { return g.id == id }); i >= 0 {
		in.cuts.Add(greeting[i].group, now)
	}
	return id
}

type placed struct {
	guest
	ready bool
}

// guests lists the inbound peers that have no place by right, and their ids.
// Those that leave are none: who does not read does so slowly, and would be
// closed again and again in place of others.
func (s *Slots) guests() ([]placed, map[peer.ID]bool) {
	var list []placed
	ids := map[peer.ID]bool{}
	for _, p := range s.fns.Peers() {
		if slot, _ := s.SlotOf(p.ID); !p.Inbound || p.Leaving || slot != "" || s.dial.Exempt(p.ID) {
			continue
		}
		ip := addrbook.IP(p.Addr)
		score := s.dial.rep.Score(p.ID)
		g := guest{
			id: p.ID, ip: ip, group: s.book.GroupOf(ip), since: p.ConnectedAt, rtt: p.MinRTT,
			bad: s.dial.rep.Refused(p.ID), score: score.Score, credit: score.Credit,
		}
		g.tx, g.block = s.fns.Gave(p.ID)
		list = append(list, placed{g, p.Ready})
		ids[p.ID] = true
	}
	return list, ids
}

// countInbound counts the inbound peers for the metrics, as of now.
func (s *Slots) countInbound() {
	guests, _ := s.guests()
	s.ready, s.greeting = 0, 0
	s.inbound.mu.Lock()
	defer s.inbound.mu.Unlock()
	for _, g := range guests {
		_, short := s.inbound.brief.peers[g.id]
		switch {
		case short: // it has none of the places
		case g.ready:
			s.ready++
		default:
			s.greeting++
		}
	}
}

// flood raises and clears the alarm on evictions and on refused connections.
func (s *Slots) flood(now time.Time) {
	s.inbound.mu.Lock()
	n := 0
	for _, at := range s.inbound.evicted {
		if now.Sub(at) < time.Minute {
			n++
		}
	}
	rate := 0.0
	if s.fns.Refused != nil {
		rate = s.inbound.refusals(s.fns.Refused(), now)
	}
	s.inbound.mu.Unlock()
	text := "inbound peers push each other out"
	if n <= floodEvery {
		text = "many connections are refused"
	}
	s.fns.Alarms.Set(alarmFlood, n > floodEvery || rate > floodRate, text, map[string]any{"evictions_min": n, "refused_s": math.Round(rate)})
}

// refusals tells how many connections were refused a second in the last minute,
// 0 while it is not known; mu held.
func (in *inbound) refusals(total uint64, now time.Time) float64 {
	if n := len(in.turned); n == 0 || now.Sub(in.turned[n-1].at) >= time.Second {
		in.turned = append(in.turned, turned{now, total})
	}
	for len(in.turned) > 1 && now.Sub(in.turned[1].at) >= time.Minute {
		in.turned = in.turned[1:]
	}
	first := in.turned[0]
	if age := now.Sub(first.at); age >= time.Minute {
		return float64(total-first.total) / age.Seconds()
	}
	return 0
}
