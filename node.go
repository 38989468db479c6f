// Package parley is a peer-to-peer node for blockchain networks: New wires
// every room, Run runs them, and the methods of Node are its face.
package parley

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/p2p/gossip"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/history"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/replica"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/sidecar"
)

// Env is what a node takes from outside. The zero Env is that of a process.
type Env struct {
	Log      *slog.Logger         // nil = discard
	Registry *prometheus.Registry // nil = a new one

	// Resolve looks up a host name; nil = the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// End ends the process after a line in the log, where the engine or the
	// store can not go on; nil = a panic.
	End func()
	// Reload reads the configuration again, of its files, environment and flags,
	// with settings, where they are not nil, in place of [config.SettingsName];
	// nil = it came from a program.
	Reload func(settings []byte) (*config.Loaded, error)
	// Values of the configuration that New is given, as people read them; nil =
	// it came from a program.
	Values []config.Value
	// LogLevel is what Log lets through now; nil = what was read.
	LogLevel func() string
	// Live are keys of the configuration that others take over while the node
	// runs. Each is asked when its value changes: an error refuses the reload,
	// else act is called, once all is known to be good. A key without one waits
	// for a restart, if no room of the node takes it.
	Live map[string]func(config.Config) (act func(), err error)
	// Tracer makes spans of blocks, dials, handshakes and requests of sync; nil =
	// nothing is traced, at no cost.
	Tracer trace.Tracer

	// For virtual time, where there are no TCP sockets and no disks:
	NoListeners bool                  // neither API listeners nor a shared port
	NoHistory   bool                  // no history.db: the newest is kept in memory
	NoBans      bool                  // no bans.db: they are forgotten at the end
	Host        []libp2p.Option       // more options of the libp2p host
	LedgerFS    vfs.FS                // nil = the disk
	MemoryWAL   *consensus.MemoryWAL  // nil = the disk
	Clock       func() time.Time      // of the validator; nil = time.Now
	Outgoing    consensus.Outgoing    // nil = an honest validator
	Listen      []multiaddr.Multiaddr // nil = by configuration
	// ListenUDP opens the sockets of QUIC; nil = those of the machine.
	ListenUDP func(network string, at *net.UDPAddr) (net.PacketConn, error)
}

// Node is one node. All methods are safe for concurrent use.
type Node struct {
	cfg     config.Config
	env     Env
	log     *slog.Logger
	bus     *event.Bus
	alarms  *event.Alarms
	started time.Time

	listeners []Listener
	ipc       net.Listener // nil = none
	host      *host.Host
	private   *host.PrivateNetwork // nil = an open network
	history   *history.History
	bans      *reputation.Bans
	rep       *reputation.Book
	gate      *reputation.Gate
	shake     *handshake.Handshake
	asMap     *addrbook.ASMap
	book      *addrbook.Book
	dial      *dialer.Dialer
	slots     *dialer.Slots
	disc      *discovery.Discovery
	gossip    *gossip.Gossip
	network   chain.Network                      // one of the next two
	replica   *replica.Replica                   // nil on other networks
	sidecar   *sidecar.Sidecar                   // nil on other networks
	backing   sync.Mutex                         // held while a backup is written
	lastStats atomic.Pointer[event.StatsSampled] // nil = none yet

	renamed chan struct{} // wakes watchNames: other ones are advertised

	reloading   sync.Mutex    // guards below
	live        config.Config // cfg, with what was reloaded
	secrets     [][]byte      // of tokens
	secretsRead bool          // somebody needs them
	told        advertising   // before Run also by New

	foundMu  sync.Mutex // guards below
	found    []Finding  // about peers, and outside as of the last look
	outside  []Finding  // [Node.FoundOutside]
	unbanned []string   // files of bans.import that found no place, and why
}

// New opens the data directory, the key, the listeners and the store, and wires
// the rooms. It starts nothing. A *[StartError] means that a restart will not
// help.
func New(cfg config.Config, env Env) (*Node, error) {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	if env.Registry == nil {
		env.Registry = prometheus.NewRegistry()
	}
	n := &Node{cfg: cfg, live: cfg, env: env, log: env.Log, bus: event.NewBus(cfg.API.EventBuffer), started: time.Now(), renamed: make(chan struct{}, 1)}
	n.alarms = event.NewAlarms(n.bus, n.room("alarms"))
	err := startFault(n.open())
	if errors.Is(err, syscall.EROFS) {
		err = &StartError{Code: 104, Err: fmt.Errorf("data_dir %s is on a read-only disk (%w): look at the kernel's log for disk faults, then mount it read-write", cfg.DataDir, err)}
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// startFault makes a *StartError of the faults of other rooms that a restart
// will not mend.
func startFault(err error) error {
	var start *replica.StartError
	var format *ledger.FormatError
	var corrupt *ledger.CorruptError
	switch {
	case errors.As(err, &start):
		return &StartError{Code: 101, Err: err}
	case errors.As(err, &format):
		return &StartError{Code: 104, Err: err}
	case errors.Is(err, ledger.ErrFork): // whoever starts again meets it again
		return &StartError{Code: 602, Err: fmt.Errorf("%w: the evidence is in the data directory: this chain has two histories, keep all data and settle with the other operators which one is true", err)}
	case errors.As(err, &corrupt):
		return &StartError{Code: 104, Err: fmt.Errorf("%w: restore a backup, or start with an empty data directory and sync again", err)}
	}
	return err
}

// open builds the rooms from the ground up. What it has opened when it fails
// is closed by Close.
func (n *Node) open() error {
	if err := n.loadASMap(); err != nil {
		return err
	}
	if err := openDataDir(n.cfg.DataDir, n.cfg.Network); err != nil {
		return err
	}
	key, created, err := n.identity()
	if err != nil {
		return err
	}
	if err := n.openPrivate(); err != nil {
		return err
	}
	if n.listeners, err = n.listen(); err != nil {
		return err
	}
	registerBuildInfo(n.env.Registry)
	n.env.Registry.MustRegister(alarmMetric{n.alarms})
	if err := n.openKeepers(key, created); err != nil {
		return err
	}
	if err := n.openDoers(key); err != nil {
		return err
	}
	n.rep.Exempt(n.dial.Exempt) // static and trusted peers and members are never banned for points
	n.rep.Facts(n.factsOf)
	n.bans.Protect(n.protected)
	n.bans.Closes(n.covered)
	_, err = n.importBans(context.Background(), n.cfg)
	return err
}

// openKeepers opens what holds the node's state: of peers, and its network.
func (n *Node) openKeepers(key crypto.PrivKey, created bool) (err error) {
	if n.history, err = n.openHistory(); err != nil {
		return err
	}
	if err := n.openReputation(key); err != nil {
		return err
	}
	if n.host, err = n.newHost(key); err != nil {
		return err
	}
	if err := n.openNetwork(key, created); err != nil {
		return err
	}
	if err := n.writeMeta(); err != nil {
		return err
	}
	return n.openBook()
}

// openDoers wires what moves the state of peers.
func (n *Node) openDoers(key crypto.PrivKey) (err error) {
	n.shake = handshake.New(handshake.Config{
		Name: n.cfg.Node.Name, BaseURL: n.cfg.Node.BaseURL, UserAgent: n.Version().agent(), APIPort: n.apiPort(),
		StatusInterval: n.cfg.Gossip.StatusInterval, Source: n.sourceOf, Known: n.book.Has,
		Slot:   n.slotOf,
		Admit:  func(p peer.ID) (peer.ID, error) { return n.slots.Admit(p) },
		Arrive: func(p peer.ID) (peer.ID, string) { return n.slots.Arrive(p) },
		Ready:  n.host.Greeted,
		Tracer: n.env.Tracer,
	}, n.host, n.rep, n.network, n.bus, n.room("p2p.handshake"), n.env.Registry)
	if n.gossip, err = gossip.New(gossip.Config{Names: n.topicNames(), Key: key, Takes: n.takes, PeerRate: n.peerRate(), Tracer: n.env.Tracer}, n.host, n.rep, n.bus, n.room("p2p.gossip"), n.env.Registry); err != nil {
		return err
	}
	trusted, err := trustedPeers(n.cfg.P2P)
	if err != nil {
		return &StartError{Code: 101, Err: err}
	}
	n.dial, err = dialer.New(dialer.Config{
		Items: n.cfg.P2P.StaticPeers, Trusted: trusted, DefaultPort: config.Default().P2P.Port, Own: n.host.Addrs,
		File: filepath.Join(n.cfg.DataDir, "static-peers.json"), OptimiseRetries: n.cfg.P2P.OptimiseRetries, Tracer: n.env.Tracer,
	}, dialer.Functions{Resolve: n.resolver(), Identity: n.identityOf(), Known: n.knownAddrs, SharedKey: n.dialsWith, Refusal: n.gate.Why, Greet: n.shake.Greet}, n.host, n.rep, n.bus, n.room("p2p.dialer"), n.env.Registry)
	if err != nil {
		return err
	}
	if err := n.openSlots(); err != nil {
		return err
	}
	return n.openDiscovery()
}

func (n *Node) openHistory() (*history.History, error) {
	cfg := history.Config{Keep: n.cfg.History.Keep}
	if !n.env.NoHistory {
		cfg.File = filepath.Join(n.cfg.DataDir, historyName)
	}
	return history.Open(cfg, n.bus, n.room("p2p.history"), n.env.Registry)
}

func (n *Node) newHost(key crypto.PrivKey) (*host.Host, error) {
	listen := n.env.Listen
	if listen == nil {
		var err error
		if listen, err = host.ListenAddrs(n.cfg.P2P.Port, n.quicPort(), n.cfg.P2P.Listen, n.cfg.P2P.WebSocket); err != nil {
			return nil, fmt.Errorf("p2p.listen: %w", err)
		}
	}
	var shared *Listener
	if i := n.firstTCP(); n.cfg.P2P.OnAPIPort && i >= 0 {
		shared = &n.listeners[i]
	}
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("peer id of %s: %w", n.keyPath(), err)
	}
	advertise, left, err := n.advertised(n.cfg.P2P, self)
	if err != nil {
		return nil, &StartError{Code: 101, Err: err}
	}
	n.noteIgnored(left)
	o := host.Options{
		Key: key, Listen: listen, Advertise: advertise, Gater: n.gate,
		MaxPeers: n.cfg.P2P.MaxPeers, Refused: n.limited, Banned: n.rep.RefuseAddr, BannedIP: n.rep.BannedIP, ListenUDP: n.env.ListenUDP, UserAgent: n.Version().agent(), Websocket: n.cfg.P2P.WebSocket, QUICOnly: n.env.NoListeners,
		Private: n.private, Keyless: n.keyless, Greets: true, Registerer: n.env.Registry, Log: n.room("p2p.host"), Extra: n.env.Host,
	}
	if shared != nil {
		o.APIListener = shared.Listener
	}
	h, err := host.New(o)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, NewPortError("p2p.port", net.JoinHostPort("", strconv.Itoa(n.cfg.P2P.Port)), err)
	}
	if errors.Is(err, host.ErrForcedPrivate) {
		return nil, &StartError{Code: 101, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("start the p2p host: %w", ForeignAddr(err))
	}
	if shared != nil {
		shared.Listener = h.HTTP()
	}
	return h, nil
}

// limited tells of a connection that came above a limit.
func (n *Node) limited(remote multiaddr.Multiaddr, why string) {
	told := n.rep.Refuse(event.PeerRefused{Direction: "inbound", Addr: fmt.Sprint(remote), Place: reputation.PlaceLimits, By: "us", Reason: why})
	if told { // at most a few a second
		n.room("p2p.host").Info("peer refused", "addr", remote, "by", "us", "place", reputation.PlaceLimits, "reason", why)
	}
}

// Run works until ctx ends or a room fails. When it returns, every goroutine
// that it started has ended, and the caller, once nobody reads the face any
// more, calls Close. It may be called once.
func (n *Node) Run(ctx context.Context) error {
	n.bus.Publish(event.NodeStarted{Version: n.Version().Version, Network: n.cfg.Network, Peer: n.host.ID()})
	n.log.Info("node started", "version", n.Version().Version, "peer", n.host.ID(), "name", n.cfg.Node.Name, "chain", n.network.Status().ChainID)
	s := &services{Node: n, unborn: n.network.ID().Net == ""}
	g, gctx := errgroup.WithContext(ctx)
	run := func(room string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(gctx); err != nil && gctx.Err() == nil {
				return fmt.Errorf("%s: %w", room, err)
			}
			return nil
		})
	}
	run("p2p.history", n.history.Run)
	run("p2p.bans", n.bans.Run)
	run("p2p.reputation", n.rep.Run)
	run("p2p.handshake", n.shake.Run)
	run("p2p.gossip", n.gossip.Run)
	run("p2p.addrbook", n.book.Run)
	run("p2p.dialer", n.dial.Run)
	run("p2p.slots", n.slots.Run)
	run("p2p.discovery", n.disc.Run)
	run(n.networkRoom(), func(ctx context.Context) error { return n.network.Run(ctx, s) })
	run("findings", n.watchPeers)
	run("goodbyes", n.watchGoodbyes)
	run("sampler", n.sample)
	run("advertised names", n.watchNames)
	run("announcer", n.announce)
	<-gctx.Done()
	why := "asked to stop"
	if cause := context.Cause(ctx); ctx.Err() == nil {
		why = "a room failed"
	} else if !errors.Is(cause, context.Canceled) {
		why = cause.Error()
	}
	n.bus.Publish(event.NodeStopping{Why: why})
	err := startFault(g.Wait())
	s.end()
	n.log.Info("node stopped", "why", why)
	return err
}

// Close gives back what New opened, the way of open backwards: no connection
// may write to a store that is gone. Nothing of the face may be called after.
func (n *Node) Close() error {
	var errs []error
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	if n.replica != nil {
		errs = append(errs, n.replica.Close())
	}
	if n.bans != nil {
		errs = append(errs, n.bans.Close())
	}
	if n.history != nil { // no connection is left to tell of
		errs = append(errs, n.history.Close())
	}
	if n.ipc != nil {
		if err := n.ipc.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, l := range n.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (n *Node) room(name string) *slog.Logger { return n.log.With("room", name) }

func (n *Node) keyPath() string {
	if filepath.IsAbs(n.cfg.Node.KeyFile) {
		return n.cfg.Node.KeyFile
	}
	return filepath.Join(n.cfg.DataDir, n.cfg.Node.KeyFile)
}

func (n *Node) resolver() func(context.Context, string) ([]netip.Addr, error) {
	if n.env.Resolve != nil {
		return n.env.Resolve
	}
	return func(ctx context.Context, name string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}
}

// identityOf asks a host's API for its peer id. In virtual time there is no
// TCP, and the id is learned by a dial.
func (n *Node) identityOf() func(context.Context, string) (dialer.Identity, error) {
	if n.env.NoListeners {
		return func(context.Context, string) (dialer.Identity, error) { return dialer.Identity{}, dialer.ErrNotHTTP }
	}
	return func(ctx context.Context, hostport string) (dialer.Identity, error) {
		return dialer.FetchIdentity(ctx, nil, hostport)
	}
}

// fullAddrs are the addresses that others can dial, each with our id.
func (n *Node) fullAddrs() []multiaddr.Multiaddr {
	full, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()})
	if err != nil {
		return nil
	}
	return full
}

func (v Version) agent() string { return fmt.Sprintf("parley/%s/%s-%s", v.Version, v.OS, v.Arch) }

func registerBuildInfo(reg *prometheus.Registry) {
	v := buildVersion()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_build_info", Help: "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": v.Version, "commit": v.Commit, "go": runtime.Version()}})
	g.Set(1)
	reg.MustRegister(g)
}
