package host

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	hardCapSlack    = 32  // connections above all slots
	peerStreams     = 256 // inbound, per peer
	localPerIP      = 32  // inbound connections from one private address
	quicAfterTCP    = 250 * time.Millisecond
	newConnsPerSec  = 100 // from all public addresses together
	newConnsAtOnce  = 200
	newConnsPerIP   = 0.2 // a second; the library's own
	newConnsIPBurst = 16
)

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
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	conns := rcmgr.LimitVal(maxPeers + hardCapSlack)
	concrete := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: conns, ConnsInbound: conns, ConnsOutbound: conns, FD: 2 * conns,
			Streams: 64 * conns, StreamsInbound: 64 * conns, StreamsOutbound: 64 * conns,
		},
		PeerDefault: rcmgr.ResourceLimits{StreamsInbound: peerStreams, StreamsOutbound: 2 * peerStreams, Streams: 3 * peerStreams},
	}.Build(limits.AutoScale())
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
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(concrete),
		rcmgr.WithNetworkPrefixLimit(free4, free6),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 8}, {PrefixLength: 24, ConnCount: 32}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: 8}, {PrefixLength: 48, ConnCount: 64}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: free,
			GlobalLimit:         rate.Limit{RPS: newConnsPerSec, Burst: newConnsAtOnce},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: perIP}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: perIP}, {PrefixLength: 48, Limit: rate.Limit{RPS: 0.5, Burst: 80}}},
				GracePeriod:      time.Minute,
			},
		}))
	if err != nil {
		return nil, err
	}
	return &localLimit{ResourceManager: m, refused: refused, banned: banned, conns: map[netip.Addr]int{}}, nil
}

// localLimit adds what the library cannot say: at most localPerIP inbound
// connections from each private address. It tells of every one refused.
type localLimit struct {
	network.ResourceManager
	refused func(remote ma.Multiaddr, why string)
	banned  func(ma.Multiaddr) bool

	mu    sync.Mutex
	conns map[netip.Addr]int // guarded by mu; private addresses only
}

// OpenConnection implements [network.ResourceManager].
func (l *localLimit) OpenConnection(dir network.Direction, usefd bool, remote ma.Multiaddr) (network.ConnManagementScope, error) {
	if dir == network.DirInbound && l.banned != nil && l.banned(remote) {
		return nil, errBanned
	}
	scope, err := l.open(dir, usefd, remote)
	if err != nil && dir == network.DirInbound && l.refused != nil {
		l.refused(remote, err.Error())
	}
	return scope, err
}

var errBanned = errors.New("the address is banned")

func (l *localLimit) open(dir network.Direction, usefd bool, remote ma.Multiaddr) (network.ConnManagementScope, error) {
	ip, ok := localIP(remote)
	if !ok || dir != network.DirInbound {
		return l.ResourceManager.OpenConnection(dir, usefd, remote)
	}
	if !l.take(ip) {
		return nil, fmt.Errorf("%d connections from %s: %w", localPerIP, ip, network.ErrResourceLimitExceeded)
	}
	scope, err := l.ResourceManager.OpenConnection(dir, usefd, remote)
	if err != nil {
		l.give(ip)
		return nil, err
	}
	return &localScope{ConnManagementScope: scope, done: sync.OnceFunc(func() { l.give(ip) })}, nil
}

func (l *localLimit) take(ip netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[ip] >= localPerIP {
		return false
	}
	l.conns[ip]++
	return true
}

func (l *localLimit) give(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[ip]--; l.conns[ip] <= 0 {
		delete(l.conns, ip)
	}
}

type localScope struct {
	network.ConnManagementScope
	done func()
}

// Done implements [network.ConnManagementScope].
func (s *localScope) Done() {
	s.ConnManagementScope.Done()
	s.done()
}

func localIP(a ma.Multiaddr) (netip.Addr, bool) {
	if a == nil {
		return netip.Addr{}, false
	}
	raw, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	ip, _ := netip.AddrFromSlice(raw)
	ip = ip.Unmap()
	for _, p := range local {
		if p.Contains(ip) {
			return ip, true
		}
	}
	return ip, false
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
