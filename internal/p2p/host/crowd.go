package host

import (
	"container/list"
	"net"
	"net/netip"
	"time"

	"github.com/parley-p2p/parley/internal/tally"
)

const (
	failedFor = time.Minute // that a part is charged for one that showed nothing
	maxFailed = 4096        // of those; the oldest is forgotten
)

// crowd is the connections that have not shown yet who comes. When it is full,
// one of them makes room for the newcomer: of the part of the network that has
// most of them here, those counted in that failed in the last minute, the one
// that has been silent longest. So a flood pushes itself out, from a few parts
// at once and from many that come again and again.
// It is not safe for concurrent use.
type crowd struct {
	most   int
	list   *list.List // of member, oldest first
	parts  map[netip.Prefix]int
	failed *tally.Tally[netip.Prefix] // who went without having shown who comes
}

type member struct {
	conn net.Conn
	part netip.Prefix
}

func newCrowd(most int) *crowd {
	return &crowd{most: most, list: list.New(), parts: map[netip.Prefix]int{}, failed: tally.New[netip.Prefix](failedFor, maxFailed)}
}

// add takes conn in. out, where it is not nil, is one that is no member any
// more and MUST be closed.
func (c *crowd) add(conn net.Conn) (place *list.Element, out net.Conn) {
	c.failed.Forget(time.Now())
	if c.list.Len() >= c.most {
		e := c.victim()
		out = e.Value.(member).conn
		c.fail(e)
	}
	m := member{conn, partOf(addrOf(conn.RemoteAddr()))}
	c.parts[m.part]++
	return c.list.PushBack(m), out
}

// remove reports whether place was a member still.
func (c *crowd) remove(place *list.Element) bool {
	m, n := place.Value.(member), c.list.Len()
	if c.list.Remove(place); c.list.Len() == n {
		return false
	}
	if c.parts[m.part]--; c.parts[m.part] == 0 {
		delete(c.parts, m.part)
	}
	return true
}

// fail removes place, and charges its part for it.
func (c *crowd) fail(place *list.Element) bool {
	if !c.remove(place) {
		return false
	}
	c.failed.Add(place.Value.(member).part, time.Now())
	return true
}

// weight is of how many of a part the crowd knows.
func (c *crowd) weight(e *list.Element) int {
	part := e.Value.(member).part
	return c.parts[part] + c.failed.Of(part)
}

func (c *crowd) victim() *list.Element {
	most := 0
	for e := c.list.Front(); e != nil; e = e.Next() {
		most = max(most, c.weight(e))
	}
	e := c.list.Front()
	for c.weight(e) < most {
		e = e.Next()
	}
	return e
}

// conns lists the members, oldest first.
func (c *crowd) conns() []net.Conn {
	var all []net.Conn
	for e := c.list.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(member).conn)
	}
	return all
}

// partOf is the part of the network that shares limits: /16, of IPv6 /32. A
// private address and loopback stand for themselves.
func partOf(ip netip.Addr) netip.Prefix {
	bits := 32
	if ip.Is4() {
		bits = 16
	}
	if !ip.IsValid() || contains(local, ip) || contains(loopback, ip) {
		bits = ip.BitLen()
	}
	p, _ := ip.Prefix(bits) // the zero Prefix where ip is none
	return p
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	p, _ := netip.ParseAddrPort(a.String()) // the zero Addr where it is none
	return p.Addr().Unmap()
}

func contains(nets []netip.Prefix, ip netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}
