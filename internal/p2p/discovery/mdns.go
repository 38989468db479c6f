package discovery

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// runMDNS tells and hears of peers on the same LAN until ctx ends.
func (d *Discovery) runMDNS(ctx context.Context) {
	d.mu.Lock()
	service := "_parley-" + d.net + "._udp"
	d.mu.Unlock()
	s := mdns.NewMdnsService(d.host, service, lan{d})
	if err := s.Start(); err != nil {
		d.log.Warn("no mDNS on this machine", "err", err)
		return
	}
	d.log.Info("mDNS is on", "service", service)
	<-ctx.Done()
	if err := s.Close(); err != nil {
		d.log.Debug("close mDNS", "err", err)
	}
}

// lan takes what mDNS finds.
type lan struct{ d *Discovery }

// HandlePeerFound stores the non-public addresses alone: anybody on the LAN
// could name a public one.
func (l lan) HandlePeerFound(info peer.AddrInfo) {
	if info.ID == l.d.host.ID() {
		return
	}
	var addrs, here []ma.Multiaddr
	for _, a := range info.Addrs {
		switch ip := addrbook.IP(a); {
		case !ip.IsValid() || addrbook.Public(ip) || ip.IsUnspecified():
		case ip.IsLoopback(): // every machine tells its own; it counts where there is nothing else
			here = append(here, a)
		default:
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		addrs = here
	}
	addrs = addrs[:min(len(addrs), maxAddrs)]
	if len(addrs) == 0 {
		return
	}
	info.Addrs = addrs
	if err := l.d.intake.bare(addrbook.Source{Kind: addrbook.MDNS, Peer: info.ID, IP: firstIP(addrs)}, info); err != nil {
		l.d.log.Debug("peer of the LAN not stored", "peer", info.ID, "err", err)
	}
}
