package dialer

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// Places of inbound peers by where they come from (DEFENCE 4.1). Behind one
// private address there may be a whole site, and groups say nothing there.
const (
	perIP      = 4 // /32, /64
	perNet     = 8 // /24, /56
	perGroup   = 16
	perLocalIP = 32
)

// Who is spared at an eviction (DEFENCE 4.3). A flood cannot have all of these
// at once: groups that it cannot choose, a short way, and deeds.
const (
	spareGroups  = 4
	spareNear    = 8
	spareTx      = 4
	spareBlock   = 4
	spareCredit  = 4
	mostCredit   = 20 // what is above it does not count
	maxGreeting  = 16 // inbound peers in handshake
	hurryingTill = 2 * time.Second
)

// guest is an inbound peer as eviction sees it.
type guest struct {
	id    peer.ID
	ip    netip.Addr
	group string
	since time.Time
	rtt   time.Duration // the best; 0 = not measured

	bad    bool // discouraged
	score  int
	credit int
	tx     time.Time // its last novel one
	block  time.Time // its last novel one
}

// held tells in words which limit of its address would be passed if came got a
// place beside guests; "" = none.
func held(guests []guest, came guest) string {
	if !came.ip.IsValid() {
		return ""
	}
	ips, nets, groups := 0, 0, 0
	for _, g := range guests {
		if !g.ip.IsValid() || g.id == came.id {
			continue
		}
		if ipKey(g.ip) == ipKey(came.ip) {
			ips++
		}
		if netKey(g.ip) == netKey(came.ip) {
			nets++
		}
		if g.group == came.group {
			groups++
		}
	}
	switch {
	case !addrbook.Public(came.ip) && ips >= perLocalIP:
		return fmt.Sprintf("%d peers from %s are here, which is the most", ips, came.ip)
	case !addrbook.Public(came.ip):
		return ""
	case ips >= perIP:
		return fmt.Sprintf("%d peers from %s are here, which is the most", ips, ipKey(came.ip))
	case nets >= perNet:
		return fmt.Sprintf("%d peers from %s are here, which is the most", nets, netKey(came.ip))
	case groups >= perGroup:
		return fmt.Sprintf("%d peers from your part of the network are here, which is the most", groups)
	}
	return ""
}

func ipKey(ip netip.Addr) netip.Prefix  { return prefix(ip, 32, 64) }
func netKey(ip netip.Addr) netip.Prefix { return prefix(ip, 24, 56) }

func prefix(ip netip.Addr, v4, v6 int) netip.Prefix {
	bits := v6
	if ip.Is4() {
		bits = v4
	}
	p, _ := ip.Prefix(bits) // fails for none of these
	return p
}

// victim names the one of guests that gives its place up, "" = nobody has to.
// key makes which groups are spared a secret of this node.
func victim(guests []guest, key [32]byte) peer.ID {
	if bad := slices.DeleteFunc(slices.Clone(guests), func(g guest) bool { return !g.bad }); len(bad) > 0 {
		return slices.MinFunc(bad, func(a, b guest) int { return cmp.Compare(a.score, b.score) }).id
	}
	rest := spare(slices.Clone(guests), key)
	if len(rest) == 0 {
		return ""
	}
	size := map[string]int{}
	for _, g := range guests {
		size[g.group]++
	}
	most := 0
	for _, g := range rest {
		most = max(most, size[g.group])
	}
	if most == 1 {
		return rest[rand.IntN(len(rest))].id
	}
	// The youngest one: who pushes in by numbers pushes itself out.
	rest = slices.DeleteFunc(rest, func(g guest) bool { return size[g.group] < most })
	return slices.MaxFunc(rest, func(a, b guest) int { return a.since.Compare(b.since) }).id
}

// spare takes those who are spared out of guests, which it changes.
func spare(guests []guest, key [32]byte) (rest []guest) {
	rank := map[string]string{}
	for _, g := range guests {
		if rank[g.group] == "" {
			rank[g.group] = keyed(key, g.group)
		}
	}
	byGroup := slices.Clone(guests)
	slices.SortStableFunc(byGroup, func(a, b guest) int {
		return cmp.Or(cmp.Compare(rank[a.group], rank[b.group]), a.since.Compare(b.since))
	})
	byGroup = slices.CompactFunc(byGroup, func(a, b guest) bool { return a.group == b.group }) // the oldest of each
	rest = without(guests, byGroup[:min(spareGroups, len(byGroup))])

	rest = best(rest, spareNear, func(g guest) bool { return g.rtt > 0 }, func(a, b guest) int { return cmp.Compare(a.rtt, b.rtt) })
	rest = best(rest, spareTx, func(g guest) bool { return !g.tx.IsZero() }, func(a, b guest) int { return b.tx.Compare(a.tx) })
	rest = best(rest, spareBlock, func(g guest) bool { return !g.block.IsZero() }, func(a, b guest) int { return b.block.Compare(a.block) })
	rest = best(rest, spareCredit, func(g guest) bool { return g.credit > 0 }, func(a, b guest) int {
		return cmp.Compare(min(b.credit, mostCredit), min(a.credit, mostCredit))
	})
	return best(rest, len(rest)/2, func(guest) bool { return true }, func(a, b guest) int { return a.since.Compare(b.since) })
}

// best leaves out of list the n that come first by order among those that
// count. Equals come in the order of their age.
func best(list []guest, n int, counts func(guest) bool, order func(a, b guest) int) []guest {
	first := slices.DeleteFunc(slices.Clone(list), func(g guest) bool { return !counts(g) })
	slices.SortStableFunc(first, func(a, b guest) int { return cmp.Or(order(a, b), a.since.Compare(b.since)) })
	return without(list, first[:min(n, len(first))])
}

func without(list, some []guest) []guest {
	return slices.DeleteFunc(list, func(g guest) bool {
		return slices.ContainsFunc(some, func(s guest) bool { return s.id == g.id })
	})
}

func keyed(key [32]byte, group string) string {
	sum := sha256.Sum256(append(key[:], group...))
	return string(sum[:])
}

// excess names the one of those in handshake that is closed for there are too
// many: of the group with most of them, those counted in that were closed so
// lately, one that dawdles, else any, for the oldest would be the honest one of
// a far country, and the youngest too.
func excess(greeting []guest, lately func(group string) int, now time.Time) peer.ID {
	if len(greeting) <= maxGreeting {
		return ""
	}
	size := map[string]int{}
	for _, g := range greeting {
		size[g.group]++
	}
	most := 0
	for group := range size {
		size[group] += lately(group)
		most = max(most, size[group])
	}
	rest := slices.DeleteFunc(slices.Clone(greeting), func(g guest) bool { return size[g.group] < most })
	late := slices.DeleteFunc(slices.Clone(rest), func(g guest) bool { return now.Sub(g.since) < hurryingTill })
	if len(late) > 0 {
		rest = late
	}
	return rest[rand.IntN(len(rest))].id
}

// Who was closed for there were too many in handshake is counted by group. A
// flood that comes one by one from many groups is told from newcomers by it:
// without, each of both is as likely to go, thirty times a second.
const (
	cutFor  = time.Minute // that a group is charged for one of too many
	maxCuts = 4096        // of those; the oldest is forgotten
)
