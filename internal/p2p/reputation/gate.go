package reputation

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/parley-p2p/parley/event"
)

// Places where a peer is turned away.
const (
	PlaceLimits    = "limits" // of connections, before it is known who comes
	PlaceGate      = "gate"
	PlaceHandshake = "handshake"
	PlaceSharedKey = "shared_key" // of a private network, before it is known who comes
)

// NotAllowed is the reason of a refusal by the allow-list.
const NotAllowed = "not_allowed"

var places = []string{PlaceLimits, PlaceGate, PlaceHandshake, PlaceSharedKey}

// refusalRate is how many peer.refused events are published a second.
const refusalRate = 10

// refusals keeps a flood of refused peers from flooding the bus.
type refusals struct {
	mu    sync.Mutex
	since time.Time // begin of the second
	sent  int       // since then
	more  int       // left out since the last event
}

// take reports whether an event may be sent now, and how many were left out.
func (r *refusals) take(now time.Time) (more int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Second {
		r.since, r.sent = now, 0
	}
	if r.sent >= refusalRate {
		r.more++
		return 0, false
	}
	r.sent++
	more, r.more = r.more, 0
	return more, true
}

// Refuse counts a refusal and tells of it: at most 10 events a second, the
// next one says in More how many were left out. It sets e.More and reports
// whether it sent the event: who logs by that is not flooded either.
func (b *Book) Refuse(e event.PeerRefused) (told bool) {
	b.metrics.refusals.WithLabelValues(e.Place).Inc()
	b.refused.Add(1)
	more, ok := b.refusals.take(time.Now())
	if !ok {
		return false
	}
	e.More, e.Reason = more, clean(e.Reason)
	b.log.Debug("peer refused", "peer", e.Peer, "addr", e.Addr, "place", e.Place, "reason", e.Reason, "more", more)
	b.publish(e)
	return true
}

// Refusals counts every connection that was refused so far, told of or not.
func (b *Book) Refusals() uint64 { return b.refused.Load() }

// Gate refuses connections with peers that the book refuses or that are
// denied, and with addresses that are banned. It is safe for concurrent use.
type Gate struct {
	book   *Book
	denied atomic.Pointer[map[peer.ID]struct{}]
}

var _ connmgr.ConnectionGater = (*Gate)(nil)

// NewGate returns a gate that denies nobody yet.
func NewGate(b *Book) *Gate { return &Gate{book: b} }

// SetDenied replaces the peers to which there is no way at all, exempt or not:
// the other side of a partition of a devnet. It keeps denied and MUST be the
// last to write to it. Live connections are the caller's to close.
func (g *Gate) SetDenied(denied map[peer.ID]struct{}) { g.denied.Store(&denied) }

// Denied reports whether p is denied.
func (g *Gate) Denied(p peer.ID) bool {
	m := g.denied.Load()
	if m == nil {
		return false
	}
	_, ok := (*m)[p]
	return ok
}

// denied is the reason of a refusal for [Gate.SetDenied].
const denied = "denied"

// refusal says why p is refused, "" if it is not.
func (g *Gate) refusal(p peer.ID) string {
	if g.Denied(p) {
		return denied
	}
	return g.book.refusal(p)
}

// Why says in words why p is refused, and what ends it; "" = it is not.
func (g *Gate) Why(p peer.ID) string {
	switch why := g.refusal(p); why {
	case denied:
		return "devnet partition cuts this node off from it: parley devnet heal ends that"
	case string(Banned):
		return "this node has banned it: see parley bans check"
	case string(Discouraged):
		return "this node rests from it, for it misbehaved: see parley peers show"
	case NotAllowed:
		return "it is not on this node's list of peers that may connect: see p2p.allow_peers"
	default:
		return why
	}
}

// AddrOf is the IP address of a, not valid where it has none of its own: a name,
// or through a relay, whose address it is.
func AddrOf(a ma.Multiaddr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return netip.Addr{}
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// bannedAddr reports whether connections with a are refused, and counts that
// one is.
func (b *Book) bannedAddr(a ma.Multiaddr) bool {
	ip := AddrOf(a)
	if !b.BannedIP(ip) {
		return false
	}
	b.bans.list.hit(ip)
	return true
}

// BannedIP reports whether connections with ip are refused. It is asked of each
// packet of QUIC: it takes no lock and no memory, and counts nothing.
func (b *Book) BannedIP(ip netip.Addr) bool {
	return b.bans != nil && ip.IsValid() && b.bans.list.addr(ip)
}

// InterceptPeerDial refuses our own dials, which is counted and no event.
func (g *Gate) InterceptPeerDial(p peer.ID) bool {
	if g.refusal(p) == "" {
		return true
	}
	g.book.metrics.refusals.WithLabelValues(PlaceGate).Inc()
	return false
}

// InterceptAddrDial refuses our own dials to banned addresses.
func (g *Gate) InterceptAddrDial(_ peer.ID, a ma.Multiaddr) bool {
	if !g.book.bannedAddr(a) {
		return true
	}
	g.book.metrics.refusals.WithLabelValues(PlaceGate).Inc()
	return false
}

// InterceptAccept refuses by address, before any handshake. QUIC connections
// come here after theirs: the resource manager refuses them earlier.
func (g *Gate) InterceptAccept(a network.ConnMultiaddrs) bool {
	return !g.book.RefuseAddr(a.RemoteMultiaddr())
}

// RefuseAddr reports whether an inbound connection from a is refused, and tells
// of it where that is no flood.
func (b *Book) RefuseAddr(a ma.Multiaddr) bool {
	if !b.bannedAddr(a) {
		return false
	}
	b.Refuse(event.PeerRefused{Direction: "inbound", Addr: a.String(), Place: PlaceGate, By: "us", Reason: string(Banned)})
	return true
}

// RefusedConn says why a connection that stands is to be closed, "" = it is not.
func (b *Book) RefusedConn(c network.Conn) string {
	if b.BannedIP(AddrOf(c.RemoteMultiaddr())) {
		return string(Banned)
	}
	return b.refusal(c.RemotePeer())
}

// InterceptSecured refuses by peer ID once it is proven. Who dialled us over TCP
// and is not on the list goes on to [Gate.InterceptUpgraded]: here it could only
// be hung up on, and would look for the fault elsewhere.
func (g *Gate) InterceptSecured(d network.Direction, p peer.ID, a network.ConnMultiaddrs) bool {
	why := g.refusal(p)
	if why == "" || why == NotAllowed && d == network.DirInbound && !isQUIC(a.RemoteMultiaddr()) {
		return true
	}
	g.refuse(d, p, a, why)
	return false
}

// InterceptUpgraded refuses those whom the list does not let in, before a stream
// of theirs is read, and they are told that they are refused. Over QUIC
// [Gate.InterceptSecured] does so.
func (g *Gate) InterceptUpgraded(c network.Conn) (allow bool, _ control.DisconnectReason) {
	d, p := c.Stat().Direction, c.RemotePeer()
	if d != network.DirInbound {
		return true, 0
	}
	why := g.refusal(p)
	if why == "" {
		return true, 0
	}
	g.refuse(d, p, c, why)
	return false, 0
}

func isQUIC(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_QUIC_V1)
	return err == nil
}

func (g *Gate) refuse(d network.Direction, p peer.ID, a network.ConnMultiaddrs, why string) {
	if why == string(Banned) {
		g.book.bans.list.find(p, netip.Addr{}, true)
	}
	g.book.Refuse(event.PeerRefused{
		Peer: p, Direction: strings.ToLower(d.String()), Addr: a.RemoteMultiaddr().String(), Place: PlaceGate, By: "us", Reason: why,
	})
}
