package host

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	xrate "golang.org/x/time/rate"
)

// gatekeeper is the resource manager with what the library cannot say of
// inbound connections: how many may come from one part of the network in a
// second, how many over QUIC may be in their handshake, and at most localPerIP
// from each private address. It tells of every one refused.
type gatekeeper struct {
	network.ResourceManager
	refused  func(remote ma.Multiaddr, why string)
	banned   func(ma.Multiaddr) bool
	arrivals *arrivals

	mu    sync.Mutex           // guards below
	conns map[netip.Addr]int   // private addresses only
	half  map[netip.Prefix]int // QUIC handshakes by part
	halfs int                  // of all parts
}

// OpenConnection implements [network.ResourceManager].
func (g *gatekeeper) OpenConnection(dir network.Direction, usefd bool, remote ma.Multiaddr) (network.ConnManagementScope, error) {
	if dir != network.DirInbound {
		return g.ResourceManager.OpenConnection(dir, usefd, remote)
	}
	if g.banned != nil && g.banned(remote) {
		return nil, errBanned
	}
	scope, err := g.admit(usefd, remote)
	if err != nil && g.refused != nil {
		g.refused(remote, err.Error())
	}
	return scope, err
}

// VerifySourceAddress implements [network.ResourceManager]: with a few QUIC
// handshakes under way, or many connections lately, an address proves first
// that it is one. Else forged ones would use up what is for all.
func (g *gatekeeper) VerifySourceAddress(a net.Addr) bool {
	g.mu.Lock()
	crowded := g.halfs >= askSource
	g.mu.Unlock()
	return crowded || g.arrivals.many() || g.ResourceManager.VerifySourceAddress(a)
}

var errBanned = errors.New("the address is banned")

// admit counts an inbound connection in; usefd tells TCP from QUIC.
func (g *gatekeeper) admit(usefd bool, remote ma.Multiaddr) (network.ConnManagementScope, error) {
	ip := remoteIP(remote)
	near := contains(local, ip)
	if !near && !contains(loopback, ip) {
		if err := g.arrivals.allow(ip, time.Now()); err != nil {
			return nil, err
		}
	}
	s := &inbound{keeper: g, ip: ip, near: near, half: !usefd}
	if err := g.take(s); err != nil {
		return nil, err
	}
	scope, err := g.ResourceManager.OpenConnection(network.DirInbound, usefd, remote)
	if err != nil {
		g.give(s)
		return nil, err
	}
	s.ConnManagementScope = scope
	return s, nil
}

func (g *gatekeeper) take(s *inbound) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	part := partOf(s.ip)
	switch {
	case s.near && g.conns[s.ip] >= localPerIP:
		return fmt.Errorf("%d connections from %s: %w", localPerIP, s.ip, network.ErrResourceLimitExceeded)
	case s.half && g.halfs >= maxHalfQUIC:
		return fmt.Errorf("%d handshakes over QUIC: %w", maxHalfQUIC, network.ErrResourceLimitExceeded)
	case s.half && !contains(loopback, s.ip) && g.half[part] >= maxHalfPart:
		return fmt.Errorf("%d handshakes over QUIC with %s: %w", maxHalfPart, part, network.ErrResourceLimitExceeded)
	}
	if s.near {
		g.conns[s.ip]++
	}
	if s.half {
		g.halfs++
		g.half[part]++
	}
	return nil
}

// give frees what s has; met frees the place of its handshake alone.
func (g *gatekeeper) give(s *inbound) {
	g.met(s)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.near {
		return
	}
	s.near = false
	if g.conns[s.ip]--; g.conns[s.ip] <= 0 {
		delete(g.conns, s.ip)
	}
}

func (g *gatekeeper) met(s *inbound) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.half {
		return
	}
	s.half = false
	g.halfs--
	part := partOf(s.ip)
	if g.half[part]--; g.half[part] <= 0 {
		delete(g.half, part)
	}
}

// inbound is the scope of one inbound connection.
type inbound struct {
	network.ConnManagementScope
	keeper *gatekeeper
	ip     netip.Addr
	near   bool // counts for a private address; keeper.mu
	half   bool // is in a QUIC handshake; keeper.mu
}

// SetPeer implements [network.ConnManagementScope].
func (s *inbound) SetPeer(p peer.ID) error {
	s.keeper.met(s)
	return s.ConnManagementScope.SetPeer(p)
}

// Done implements [network.ConnManagementScope].
func (s *inbound) Done() {
	s.ConnManagementScope.Done()
	s.keeper.give(s)
}

func remoteIP(a ma.Multiaddr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	raw, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip.Unmap()
}

// arrivals bounds how often connections come from public addresses: first by
// part of the network, for a part that is over its share must cost the others
// nothing, and then all together, where a part that nobody has come from lately
// has a reserve: a flood from so many parts that all is used up comes from the
// same ones again. What it lets through is few, so the library remembers few
// addresses, however many an attacker has.
type arrivals struct {
	parts *rate.SubnetLimiter
	all   *xrate.Limiter
	fresh *xrate.Limiter

	mu    sync.Mutex                 // guards below
	came  map[netip.Prefix]time.Time // last, let in or not; at most maxParts
	swept time.Time                  // when the old ones of it were dropped
}

func newArrivals() *arrivals {
	l := rate.Limit{RPS: newConnsPerPart, Burst: partBurst}
	return &arrivals{
		parts: &rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 16, Limit: l}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: l}},
			GracePeriod:      time.Minute,
		},
		all:   xrate.NewLimiter(newConnsPerSec, newConnsAtOnce),
		fresh: xrate.NewLimiter(freshPerSec, freshAtOnce),
		came:  map[netip.Prefix]time.Time{},
	}
}

func (a *arrivals) allow(ip netip.Addr, now time.Time) error {
	first := a.first(partOf(ip), now)
	if !a.parts.Allow(ip, now) {
		return fmt.Errorf("new connections from %s: more than %d a second: %w", partOf(ip), newConnsPerPart, network.ErrResourceLimitExceeded)
	}
	if !a.all.AllowN(now, 1) && !(first && a.fresh.AllowN(now, 1)) {
		return fmt.Errorf("new connections: more than %d a second: %w", newConnsPerSec, network.ErrResourceLimitExceeded)
	}
	return nil
}

// first notes that one comes from part, and reports whether none did for freshAfter.
func (a *arrivals) first(part netip.Prefix, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, known := a.came[part]
	if !known && len(a.came) >= maxParts {
		if now.Sub(a.swept) >= time.Second { // it goes through all of them
			maps.DeleteFunc(a.came, func(_ netip.Prefix, at time.Time) bool { return now.Sub(at) >= freshAfter })
			a.swept = now
		}
		if len(a.came) >= maxParts {
			return false
		}
	}
	a.came[part] = now
	return !known || now.Sub(at) >= freshAfter
}

// many reports whether half of what may come at once has come.
func (a *arrivals) many() bool { return a.all.Tokens() < newConnsAtOnce/2 }
