package discovery

import (
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const maxAddrs = 8 // of one peer, as in the address book

// ipOf gives the IP that an address begins with; of a relayed one, the relay's.
func ipOf(a ma.Multiaddr) (netip.Addr, bool) {
	if a == nil {
		return netip.Addr{}, false
	}
	raw, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(raw)
	return ip.Unmap(), ok
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // carriers' NAT

// isPublic reports whether an address can be reached from elsewhere.
func isPublic(ip netip.Addr) bool {
	return ip.IsValid() && ip.IsGlobalUnicast() && !ip.IsPrivate() && !shared.Contains(ip)
}

// dialable leaves in what may be dialled, at most maxAddrs. told is where the
// word came from: only a teller on this machine can name its loopback. An
// invalid one is our own word.
func (d *Discovery) dialable(p peer.ID, addrs []ma.Multiaddr, told netip.Addr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		ip, ok := ipOf(a)
		switch {
		case len(out) == maxAddrs:
			return out
		case !ok || ip.IsUnspecified() || ip.IsMulticast(), !isPublic(ip) && !d.cfg.Private, d.fns.Banned(p, ip):
		case ip.IsLoopback() && told.IsValid() && !told.IsLoopback():
		default:
			out = append(out, a)
		}
	}
	return out
}

// group is the address group that limits count by. "" = none: no public
// address, for several nodes behind one address are normal there.
func (d *Discovery) group(addrs []ma.Multiaddr) string {
	for _, a := range addrs {
		if ip, ok := ipOf(a); ok && isPublic(ip) {
			return d.intake.book.GroupOf(ip)
		}
	}
	return ""
}

// liveGroup is the group of a connected peer, by where it is connected from.
func (d *Discovery) liveGroup(p peer.ID) string {
	var addrs []ma.Multiaddr
	for _, c := range d.host.Network().ConnsToPeer(p) {
		addrs = append(addrs, c.RemoteMultiaddr())
	}
	return d.group(addrs)
}

// remoteIP is where a connection comes from or leads to.
func remoteIP(c network.Conn) netip.Addr {
	ip, _ := ipOf(c.RemoteMultiaddr())
	return ip
}

// lastIP is where a peer is or was, as far as we know.
func (d *Discovery) lastIP(p peer.ID) netip.Addr {
	if ip := d.peerIP(p); ip.IsValid() {
		return ip
	}
	return firstIP(d.host.Peerstore().Addrs(p))
}

// peerIP is where a connected peer is; invalid without a connection.
func (d *Discovery) peerIP(p peer.ID) netip.Addr {
	for _, c := range d.host.Network().ConnsToPeer(p) {
		if ip := remoteIP(c); ip.IsValid() {
			return ip
		}
	}
	return netip.Addr{}
}
