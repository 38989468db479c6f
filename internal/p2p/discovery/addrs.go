package discovery

import (
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const maxAddrs = 8 // of one peer, as in the address book

// dialable leaves in what may be dialled, at most maxAddrs. told is where the
// word came from: only a teller on this machine can name its loopback. An
// invalid one is our own word.
func (d *Discovery) dialable(p peer.ID, addrs []ma.Multiaddr, told netip.Addr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		ip := addrbook.IP(a)
		switch {
		case len(out) == maxAddrs:
			return out
		case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast(), !addrbook.Public(ip) && !d.cfg.Private, d.fns.Banned(p, ip):
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
		if ip := addrbook.IP(a); addrbook.Public(ip) {
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
func remoteIP(c network.Conn) netip.Addr { return addrbook.IP(c.RemoteMultiaddr()) }

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
