package host

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/config"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	xrate "golang.org/x/time/rate"
)

const (
	maxAnswers = 1000                   // a second, to banned addresses over QUIC; above them they hear nothing
	oneAttempt = 100 * time.Millisecond // in which packets with one connection id are one attempt
	lingers    = 3 * time.Second        // that the packets of a closed connection still come in
)

// turnstile is where QUIC comes in: the UDP sockets. It turns banned addresses
// away before the QUIC library has read a packet of them, whose three goroutines
// cost two to four times as much. An address that has a connection keeps it,
// until somebody who can say why closes it.
type turnstile struct {
	banned  func(netip.Addr) bool          // of each packet
	refused func(remote ma.Multiaddr) bool // of each attempt that is turned away
	answers *xrate.Limiter
	unread  prometheus.Counter // packets

	mu     sync.Mutex         // guards below
	inside map[netip.Addr]int // connections over QUIC, for lingers longer than they last
	last   initial            // that was refused
	lastAt time.Time
}

func newTurnstile(banned func(netip.Addr) bool, refused func(remote ma.Multiaddr) bool, unread prometheus.Counter) *turnstile {
	return &turnstile{banned: banned, refused: refused, answers: xrate.NewLimiter(maxAnswers, maxAnswers), unread: unread, inside: map[netip.Addr]int{}}
}

// shut reports whether a packet from a is not to be read.
func (t *turnstile) shut(a net.Addr) bool {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return false
	}
	ip, _ := netip.AddrFromSlice(u.IP) // the zero Addr, that nobody bans, where it is none
	if ip = ip.Unmap(); !t.banned(ip) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inside[ip] == 0
}

// refuse takes note of a packet of a banned address and returns the answer to
// it, nil where it gets none: to what is no attempt to connect, to the other
// packets of one attempt, and where too many come. An answer costs less than
// silence: who hears nothing sends its first packets four times more.
func (t *turnstile) refuse(p []byte, from net.Addr) []byte {
	t.unread.Inc()
	i, ok := parseInitial(p)
	if !ok {
		return nil
	}
	now := time.Now()
	t.mu.Lock()
	again := i == t.last && now.Sub(t.lastAt) < oneAttempt
	if !again {
		t.last, t.lastAt = i, now
	}
	t.mu.Unlock()
	if again {
		return nil
	}
	if remote, err := quicreuse.ToQuicMultiaddr(from, quic.Version1); err == nil {
		t.refused(remote)
	}
	if !t.answers.AllowN(now, 1) {
		return nil
	}
	return i.refusal()
}

// guard has the turnstile know who is inside.
func (t *turnstile) guard(m network.ResourceManager) network.ResourceManager {
	return turnstileManager{m, t}
}

type turnstileManager struct {
	network.ResourceManager
	turnstile *turnstile
}

// OpenConnection implements [network.ResourceManager].
func (m turnstileManager) OpenConnection(dir network.Direction, usefd bool, remote ma.Multiaddr) (network.ConnManagementScope, error) {
	scope, err := m.ResourceManager.OpenConnection(dir, usefd, remote)
	if err != nil || usefd { // usefd tells TCP from QUIC
		return scope, err
	}
	return &guest{scope, m.turnstile.enter(remoteIP(remote))}, nil
}

// guest is the scope of a connection over QUIC.
type guest struct {
	network.ConnManagementScope
	leave func()
}

// Done implements [network.ConnManagementScope].
func (g *guest) Done() {
	g.ConnManagementScope.Done()
	g.leave()
}

// enter has the packets of ip come in until some time after leave: who did not
// hear that its connection was closed is told again when it sends more.
func (t *turnstile) enter(ip netip.Addr) (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inside[ip]++
	return sync.OnceFunc(func() {
		time.AfterFunc(lingers, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.inside[ip]--; t.inside[ip] <= 0 {
				delete(t.inside, ip)
			}
		})
	})
}

// sockets has QUIC read through the turnstile, and be refused by the limits before its
// handshake, as the library does by itself where nobody asks for other sockets.
func (b base) sockets(c *config.Config) libp2p.Option {
	listen := b.o.ListenUDP
	opts := []quicreuse.Option{
		quicreuse.ConnContext(func(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
			return admitQUIC(ctx, c.ResourceManager, from.RemoteAddr)
		}),
		quicreuse.VerifySourceAddress(func(a net.Addr) bool { return c.ResourceManager.VerifySourceAddress(a) }),
	}
	if listen == nil {
		listen = func(network string, at *net.UDPAddr) (net.PacketConn, error) { return net.ListenUDP(network, at) }
	} else { // the machine's routes say nothing of it: we dial from where we listen
		at := &ownIP{}
		inner := listen
		listen = func(network string, a *net.UDPAddr) (net.PacketConn, error) {
			at.IP = a.IP
			return inner(network, a)
		}
		opts = append(opts, quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return ownIP{at.IP}, nil }))
	}
	opts = append(opts, quicreuse.OverrideListenUDP(func(network string, at *net.UDPAddr) (net.PacketConn, error) {
		conn, err := listen(network, at)
		if err != nil || b.turnstile == nil {
			return conn, err
		}
		return b.turnstile.socket(conn), nil
	}))
	if !c.DisableMetrics {
		opts = append(opts, quicreuse.EnableMetrics(c.PrometheusRegisterer))
	}
	return libp2p.QUICReuse(func(reset quic.StatelessResetKey, token quic.TokenGeneratorKey) (m *quicreuse.ConnManager, err error) {
		m, err = quicreuse.NewConnManager(reset, token, opts...)
		b.host.udp = m
		return m, err
	})
}

// admitQUIC has the limits count a connection before its handshake, until it ends.
func admitQUIC(ctx context.Context, limits network.ResourceManager, from net.Addr) (context.Context, error) {
	remote, err := quicreuse.ToQuicMultiaddr(from, quic.Version1)
	if err != nil {
		remote = nil // the limits decide
	}
	scope, err := limits.OpenConnection(network.DirInbound, false, remote)
	if err != nil {
		return ctx, err
	}
	ctx = network.WithConnManagementScope(ctx, scope)
	context.AfterFunc(ctx, scope.Done)
	return ctx, nil
}

// ownIP is the address of the one socket that a simulated node has.
type ownIP struct{ net.IP }

// PreferredSourceIPForDestination implements [quicreuse.SourceIPSelector].
func (o ownIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) { return o.IP, nil }
