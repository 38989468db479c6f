// Package host owns the libp2p host: identity key, transports, the port that
// the API and libp2p share, and limits.
package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/config"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	bconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ws "github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// protocolVersion is what identify tells, beside the agent.
const protocolVersion = "parley/1"

// Options is what New builds a host from.
type Options struct {
	Key    crypto.PrivKey // Ed25519
	Listen []ma.Multiaddr // see ListenAddrs
	// APIListener is the TCP listener of the API, whose connections that are
	// not HTTP become libp2p's. The host owns it from New on, also when New
	// fails. Nil: the API's port carries no libp2p.
	APIListener net.Listener
	Advertise   []ma.Multiaddr          // told to peers before our own addresses; see Advertise
	Gater       connmgr.ConnectionGater // nil refuses nobody
	MaxPeers    int                     // sizes the limits; 0 means 100
	// Refused is told of inbound connections above a limit, of which nobody
	// knows whose they are. It MUST be quick. Nil = nobody is told.
	Refused func(remote ma.Multiaddr, why string)
	// Banned is asked of each inbound connection before any handshake, and
	// tells of those that it refuses. It MUST be quick. Nil = none is.
	Banned func(remote ma.Multiaddr) bool
	// BannedIP is the same question, which tells of nothing. It is asked of each
	// packet of QUIC and MUST NOT wait for anything. Nil = none is.
	BannedIP func(ip netip.Addr) bool
	// ListenUDP opens the sockets of QUIC; nil = [net.ListenUDP]. Tests give the
	// simulated network here.
	ListenUDP func(network string, at *net.UDPAddr) (net.PacketConn, error)
	// Greets means that peers which do not greet soon are none: Greeted is told
	// of those that did, and the others may send little.
	Greets bool
	// Private is the network's fence of shared keys: TCP and WebSocket, which
	// then needs a port of its own, run below it, and QUIC is off. Nil = none.
	Private *PrivateNetwork
	// Keyless is told of inbound connections that proved no shared key. It MUST
	// be quick. Nil = nobody is told.
	Keyless    func(remote ma.Multiaddr, why string)
	UserAgent  string                // told by identify, ≤ 128 bytes
	Websocket  bool                  // needed to listen on and dial /ws
	QUICOnly   bool                  // for virtual time: TCP would dial for real
	Registerer prometheus.Registerer // nil: no metrics
	Log        *slog.Logger          // nil: silent
	Extra      []libp2p.Option       // wins over ours; other sockets of QUIC than ours let banned addresses in
}

// Host is a libp2p host that listens. It is safe for concurrent use.
type Host struct {
	host.Host
	key       crypto.PrivKey
	sorter    *sorter         // nil without an API listener
	private   *PrivateNetwork // may be nil
	advertise atomic.Pointer[[]ma.Multiaddr]
	bandwidth *bandwidth
	udp       *quicreuse.ConnManager // nil without QUIC, or with sockets of Options.Extra
	reg       prometheus.Registerer
	collector prometheus.Collector
}

// New builds the host and listens on every address of o; one that cannot be
// had is an error, but for IPv6 wildcards on a machine without IPv6. Where a
// port is taken, the error names that address alone and is EADDRINUSE. libp2p
// works in the background from here on until Close.
func New(o Options) (*Host, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPeers <= 0 {
		o.MaxPeers = 100
	}
	routeLibraryLog(o.Log)
	h, err := build(o)
	if err != nil {
		if o.APIListener != nil {
			o.APIListener.Close()
		}
		return nil, err
	}
	listen := o.Listen
	if h.sorter != nil {
		h.sorter.ended.Go(h.sorter.run)
		listen = append(uncovered(listen, h.sorter.addrs), h.sorter.addrs...)
	}
	if err := h.listen(listen, o.Log); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// ErrForcedPrivate means that the environment asks for a shared key and there
// is none.
var ErrForcedPrivate = errors.New("LIBP2P_FORCE_PNET=1 wants a private network, and p2p.shared_key_file names no key: set it, or unset LIBP2P_FORCE_PNET")

// build makes a host that does not listen yet.
func build(o Options) (*Host, error) {
	if o.Key == nil || o.Key.Type() != crypto.Ed25519 {
		return nil, errors.New("build host: the identity key must be Ed25519")
	}
	if pnet.ForcePrivateNetwork && o.Private == nil {
		return nil, ErrForcedPrivate
	}
	h := &Host{key: o.Key, private: o.Private, bandwidth: &bandwidth{}, reg: o.Registerer}
	h.setAdvertise(o.Advertise)
	m := newMetrics(h)
	if o.APIListener != nil {
		s, err := newSorter(o.APIListener, m.dropped, o.Log)
		if err != nil {
			return nil, fmt.Errorf("share the API's port: %w", err)
		}
		h.sorter = s
	}
	b := base{o: o, host: h, metrics: m}
	b.lobby = newLobby(b.limited, o.Greets)
	if o.BannedIP != nil {
		b.turnstile = newTurnstile(o.BannedIP, b.banned, m.unread)
	}
	if o.Private != nil {
		o.Private.told = b.keyless
		if pnet.ForcePrivateNetwork { // the library does not see our key, and would refuse
			pnet.ForcePrivateNetwork = false
		}
	}
	lib, err := libp2p.New(append(slices.Clone(o.Extra), b.network, b.behaviour, b.transports)...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build host: %w", err), h.closeUDP())
	}
	h.Host = lib
	h.SetStreamHandler(ping.ID, (&pinger{busy: map[peer.ID]struct{}{}}).handle)
	h.Network().Notify(m.notifiee())
	if err := m.register(o.Registerer); err != nil {
		h.Close()
		return nil, fmt.Errorf("register metrics of the host: %w", err)
	}
	h.collector = m
	return h, nil
}

// base is our part of libp2p's configuration. Its options come last and leave
// alone what Options.Extra has set.
type base struct {
	o         Options
	host      *Host
	metrics   *metrics
	lobby     *lobby
	turnstile *turnstile // nil where nobody is banned
}

// network sets who and how many may connect.
func (b base) network(c *config.Config) error {
	if c.ResourceManager == nil {
		limits, err := newLimits(b.o.MaxPeers, b.limited, b.banned)
		if err != nil {
			return fmt.Errorf("resource limits: %w", err)
		}
		c.ResourceManager = limits
	}
	if b.turnstile != nil {
		c.ResourceManager = b.turnstile.guard(c.ResourceManager)
	}
	if c.ConnManager == nil {
		// Above every limit of ours: it keeps tags and protections and never
		// trims by itself, for that closes honest peers first (DEFENCE 2).
		low := hardCap(b.o.MaxPeers) + 64
		m, err := bconnmgr.NewConnManager(low, low+64)
		if err != nil {
			return fmt.Errorf("connection manager: %w", err)
		}
		c.ConnManager = m
	}
	if c.ConnectionGater == nil && b.o.Gater != nil {
		c.ConnectionGater = countingGater{b.o.Gater, b.metrics}
	}
	if c.DialRanker == nil {
		c.DialRanker = rankDials
	}
	if c.Reporter == nil {
		c.Reporter = b.host.bandwidth
	}
	return nil
}

// banned refuses an inbound connection by its address, and counts it.
func (b base) banned(remote ma.Multiaddr) bool {
	if b.o.Banned == nil || !b.o.Banned(remote) {
		return false
	}
	b.metrics.count(network.DirInbound, remote, resultRefused)
	return true
}

// limited counts an inbound connection above a limit and tells of it.
func (b base) limited(remote ma.Multiaddr, why string) {
	b.metrics.count(network.DirInbound, remote, resultLimited)
	if b.o.Refused != nil {
		b.o.Refused(remote, why)
	}
}

// keyless counts a connection that proved no shared key and tells of it.
func (b base) keyless(remote ma.Multiaddr, why string) {
	b.metrics.count(network.DirInbound, remote, resultKeyless)
	if b.o.Keyless != nil {
		b.o.Keyless(remote, why)
	}
}

// behaviour sets what the host does by itself, which is little: our address
// is learnt by another room, and relays, hole punching, port mapping and
// dial-back are off.
func (b base) behaviour(c *config.Config) error {
	c.PeerKey = b.o.Key
	c.ListenAddrs = []ma.Multiaddr{} // New listens, to see each error
	c.UserAgent = b.o.UserAgent
	c.ProtocolVersion = protocolVersion
	c.RelayCustom, c.Relay = true, false
	c.DisablePing = true                     // pinger answers
	c.DisableIdentifyAddressDiscovery = true // it also stalls a bubble
	unknown := network.ReachabilityUnknown
	c.AutoNATConfig.ForceReachability = &unknown // no probing
	if c.AddrsFactory == nil {
		c.AddrsFactory = b.host.advertised
	}
	// The detectors would stop dials of a peer that was down for long.
	if err := c.Apply(libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil)); err != nil {
		return err
	}
	if b.o.Registerer == nil {
		c.DisableMetrics = true
	} else {
		c.PrometheusRegisterer = lessIdle{b.o.Registerer}
	}
	return nil
}

// transports adds TCP, QUIC and, if asked, WebSocket; in a private network
// there is no QUIC. TLS comes before Noise, which needs 1.4 times the CPU where
// AES is in hardware.
func (b base) transports(c *config.Config) error {
	private := b.o.Private
	// /ws is on the port of /tcp; but below a shared key the library, which
	// looks at the first bytes, cannot tell TCP from noise.
	c.ShareTCPListener = b.o.Websocket && private == nil
	opts := []libp2p.Option{libp2p.DefaultSecurity, libp2p.DefaultMuxers}
	if private == nil {
		opts = append(opts, libp2p.Transport(quic.NewTransport))
		if c.QUICReuse == nil {
			opts = append(opts, b.sockets(c))
		}
	}
	if !b.o.QUICOnly {
		opts = append(opts, libp2p.Transport(func(u transport.Upgrader, limits network.ResourceManager, shared *tcpreuse.ConnMgr) (*sharedTCP, error) {
			return b.host.sorter.transport(b.lobby.guard(private.under(u)), limits, shared)
		}))
	}
	if b.o.Websocket {
		opts = append(opts, libp2p.Transport(func(u transport.Upgrader, limits network.ResourceManager, shared *tcpreuse.ConnMgr) (*ws.WebsocketTransport, error) {
			return ws.New(b.lobby.guard(private.under(u)), limits, shared)
		}))
	}
	return c.Apply(opts...)
}

// listen opens each of addrs, up to the first whose port is taken: it is the
// one to mend, and who has it often has the others too.
func (h *Host) listen(addrs []ma.Multiaddr, log *slog.Logger) error {
	var errs []error
	for _, a := range addrs {
		// Listen of the interface loses what kind of error it was.
		err := h.Network().(*swarm.Swarm).AddListenAddr(a)
		switch {
		case err == nil:
		case isIPv6Wildcard(a) && noIPv6(err):
			log.Info("no IPv6 on this machine", "addr", a, "err", err)
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("listen on %s: the port is taken: choose another with p2p.port: %w", a, syscall.EADDRINUSE)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return fmt.Errorf("listen on %s: %w", a, syscall.EADDRNOTAVAIL)
		default:
			errs = append(errs, fmt.Errorf("listen on %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

func noIPv6(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EPROTONOSUPPORT)
}

// Key is the node's identity key.
func (h *Host) Key() crypto.PrivKey { return h.key }

// HTTP yields the connections of the API's port that speak HTTP or TLS; nil
// without an API listener. Closing it leaves libp2p on that port alone. What
// waits there is bounded: serve it soon.
func (h *Host) HTTP() net.Listener {
	if h.sorter == nil {
		return nil
	}
	return h.sorter.http
}

// closeUDP closes the sockets of QUIC, once, after all that is on them.
func (h *Host) closeUDP() error {
	m := h.udp
	if h.udp = nil; m == nil {
		return nil
	}
	return m.Close()
}

// Close closes all listeners and connections, the API's listener too. When it
// returns, every goroutine of the host has ended or is about to.
func (h *Host) Close() error {
	var errs []error
	if h.Host != nil {
		errs = append(errs, h.Host.Close(), h.closeUDP())
	}
	if h.sorter != nil {
		errs = append(errs, h.sorter.close())
	}
	if h.reg != nil && h.collector != nil {
		h.reg.Unregister(h.collector)
	}
	return errors.Join(errs...)
}
