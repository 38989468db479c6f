package host

import (
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	hardCapSlack    = 32  // connections above all slots
	maxHalfQUIC     = 32  // inbound connections over QUIC in their handshake
	maxHalfPart     = 8   // of them from one part of the network
	askSource       = 8   // from so many on, an address must prove that it is one
	peerStreams     = 256 // inbound, per peer
	localPerIP      = 32  // inbound connections from one private address
	quicAfterTCP    = 250 * time.Millisecond
	newConnsPerSec  = 100 // from all public addresses together
	newConnsAtOnce  = 200
	newConnsPerIP   = 0.2 // a second; the library's own
	newConnsIPBurst = 16
	newConnsPerPart = 1 // a second, from one part of the network: 32 parts are a third of all
	partBurst       = 32
	freshPerSec     = 50 // more, from parts that nobody has come from for freshAfter
	freshAtOnce     = 100
	freshAfter      = time.Minute
	maxParts        = 1 << 14  // remembered for it; beyond them none is fresh
	peerMemory      = 12 << 20 // bytes of stream windows, per peer: 48 streams that nobody reads
)

// hardCap is the most connections of a host with maxPeers slots: the rest of
// them is in the handshake of the transport.
func hardCap(maxPeers int) int { return maxPeers + hardCapSlack + maxHandshakes }

// maxHandshakes is more than the lobby holds: who comes to a full one is let in
// before another goes, and one that went counts until its goroutine has ended.
const maxHandshakes = 2*maxLobby + maxHalfQUIC

// local are the networks without limits by group: several nodes behind one
// address are normal there. Loopback is free of all limits.
var (
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	local    = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
	}
)

// newLimits makes the resource manager of a host with maxPeers slots.
// refused is told of each inbound connection that passes a limit, and why; it
// MUST be quick. Nil = nobody is told.
// banned addresses are refused here too: of QUIC nothing else is asked before
// the handshake. Nil = none are.
func newLimits(maxPeers int, refused func(remote ma.Multiaddr, why string), banned func(ma.Multiaddr) bool) (network.ResourceManager, error) {
	var free4, free6 []rcmgr.NetworkPrefixLimit
	free := []rate.PrefixLimit{}
	for _, p := range append(append([]netip.Prefix{}, loopback...), local...) {
		l := rcmgr.NetworkPrefixLimit{Network: p, ConnCount: 1 << 30}
		if p.Addr().Is4() {
			free4 = append(free4, l)
		} else {
			free6 = append(free6, l)
		}
		free = append(free, rate.PrefixLimit{Prefix: p})
	}
	perIP := rate.Limit{RPS: newConnsPerIP, Burst: newConnsIPBurst}
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(resources(maxPeers)),
		// Its metrics are written under one lock of all streams, at each of a
		// stream's dozen of steps: a fourteenth of our work under a flood.
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithNetworkPrefixLimit(free4, free6),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 8}, {PrefixLength: 24, ConnCount: 32}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: 8}, {PrefixLength: 48, ConnCount: 64}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: free, // and the limit of all together is in arrivals
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: perIP}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: perIP}, {PrefixLength: 48, Limit: rate.Limit{RPS: 0.5, Burst: 80}}},
				GracePeriod:      time.Minute,
			},
		}))
	if err != nil {
		return nil, err
	}
	return &gatekeeper{
		ResourceManager: m, refused: refused, banned: banned,
		arrivals: newArrivals(), conns: map[netip.Addr]int{}, half: map[netip.Prefix]int{},
	}, nil
}

// resources are what a host with maxPeers slots may take in all and for one
// peer. No sum of what peers may take is above what all may, so that none takes
// another one's share.
func resources(maxPeers int) rcmgr.ConcreteLimitConfig {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	conns := rcmgr.LimitVal(hardCap(maxPeers))
	peers := rcmgr.LimitVal(maxPeers + hardCapSlack)
	return rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: conns, ConnsInbound: conns, ConnsOutbound: conns, FD: 2 * conns,
			Streams: 3 * peerStreams * peers, StreamsInbound: peerStreams * peers, StreamsOutbound: 2 * peerStreams * peers,
			Memory: peerMemory * rcmgr.LimitVal64(peers),
		},
		Transient: rcmgr.ResourceLimits{ // what has no peer or no protocol yet
			Conns: conns, ConnsInbound: maxHandshakes, ConnsOutbound: conns, FD: conns,
			Streams: 3 * peerStreams * peers, StreamsInbound: peerStreams * peers, StreamsOutbound: 2 * peerStreams * peers,
			Memory: peerMemory * rcmgr.LimitVal64(peers),
		},
		PeerDefault: rcmgr.ResourceLimits{
			StreamsInbound: peerStreams, StreamsOutbound: 2 * peerStreams, Streams: 3 * peerStreams, Memory: peerMemory,
		},
	}.Build(limits.AutoScale())
}

// rankDials tries TCP first, for QUIC costs three times the CPU, and QUIC
// after 250 ms; within each it is the library's own order.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	var quic, rest []ma.Multiaddr
	for _, a := range addrs {
		if Transport(a) == "quic-v1" {
			quic = append(quic, a)
		} else {
			rest = append(rest, a)
		}
	}
	ranked := swarm.DefaultDialRanker(rest)
	for _, d := range swarm.DefaultDialRanker(quic) {
		if len(rest) > 0 {
			d.Delay += quicAfterTCP
		}
		ranked = append(ranked, d)
	}
	return ranked
}
