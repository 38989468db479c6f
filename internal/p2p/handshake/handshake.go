// Package handshake owns the table of connected peers and what each of them
// said of itself when the two nodes swapped their status.
package handshake

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// The protocols of this room. They carry no <net>, so that a node of another
// chain can be told so.
const (
	StatusProtocol  protocol.ID = "/parley/status/1"
	GoodbyeProtocol protocol.ID = "/parley/goodbye/1"
)

const (
	greetTimeout   = 10 * time.Second       // for the exchange, and for an inbound peer to begin it
	goodbyeTimeout = time.Second            // a goodbye is a courtesy: it holds up nothing
	partTimeout    = 2 * time.Second        // for a refused peer to read why
	statusEvery    = time.Minute            // one connection says its status no more often
	greetAgain     = 200 * time.Millisecond // the first wait for a peer that does not speak status yet; it doubles
	greetMost      = 2 * time.Second        // of waits in one greeting
	maxWaiting     = 256                    // streams that wait for Run
	maxStreams     = 2                      // of one protocol on one connection: more come of no greeting
)

// Config is what a node says of itself beside its chain's status.
type Config struct {
	Tracer         trace.Tracer // makes a span of each handshake; nil = none
	Name           string       // ≤ 64 bytes
	BaseURL        string       // public URL of the API, "" = none
	UserAgent      string
	APIPort        int
	StatusInterval time.Duration // of topic node_status; 0 = 10 s
	// Source says who told us of a peer that we dialled, "" = nobody knows. It
	// MUST be quick. Nil = nobody knows.
	Source func(peer.ID) string
	// Slot says which slot of ours a peer has that we chose, and who told us of
	// it; "" = none, and its direction says. It MUST be quick. Nil = nobody has.
	Slot func(peer.ID) (slot, source string)
	// Known says whether the address of a peer is known, though it is not
	// connected. It MUST be quick. Nil = nobody's is.
	Known func(peer.ID) bool
	// Arrive is asked at each new inbound peer, before its handshake. It names
	// one of those in handshake to be closed at once, and why; "" = none. Nil =
	// none.
	Arrive func(peer.ID) (excess peer.ID, why string)
	// Admit is asked whether an inbound peer, whose status is fine, gets a
	// place, and who gives its own up for it, "" = nobody. An error is the text
	// of the refusal. Nil = everybody gets one.
	Admit func(peer.ID) (evict peer.ID, err error)
	// Ready is told of each peer that becomes ready, before it is told so, and of
	// each later connection with it. It MUST be quick. Nil = nobody is told.
	Ready func(peer.ID)
}

// Handshake greets peers, answers their greetings and knows who is ready. All
// methods are safe for concurrent use.
type Handshake struct {
	cfg     Config
	host    host.Host
	rep     *reputation.Book
	net     chain.Network
	bus     *event.Bus
	log     *slog.Logger
	metrics metrics
	nonce   uint64        // of this run; a version that carries it is our own
	kick    chan struct{} // a connection was made: look at the deadlines
	regreet chan struct{} // our chain became known
	running chan struct{} // closed when Run follows the connections
	told    heard         // statuses of others

	mu        sync.Mutex // guards below; nothing blocks under it
	open      bool       // Run runs and streams are served
	inflight  sync.WaitGroup
	handle    network.StreamHandler // of both protocols; nil before Run
	waiting   []network.Stream      // came before Run
	peers     map[peer.ID]*entry
	streams   map[streamKey]int // that are served, or wait for it
	strangers strangers
	none      chan struct{} // closed when peers is empty; nil = nobody waits for that
}

// New wires a handshake and registers its protocols, so that h speaks them as
// soon as it listens; streams that come before Run wait for it. reg may be nil.
func New(cfg Config, h host.Host, rep *reputation.Book, net chain.Network, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) *Handshake {
	if cfg.StatusInterval <= 0 {
		cfg.StatusInterval = 10 * time.Second
	}
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails, says its documentation
	s := &Handshake{
		cfg: cfg, host: h, rep: rep, net: net, bus: bus, log: log,
		metrics:   newMetrics(reg),
		nonce:     binary.BigEndian.Uint64(nonce[:]),
		kick:      make(chan struct{}, 1),
		regreet:   make(chan struct{}, 1),
		running:   make(chan struct{}),
		peers:     map[peer.ID]*entry{},
		streams:   map[streamKey]int{},
		strangers: strangers{},
	}
	h.SetStreamHandler(StatusProtocol, s.arrive)
	h.SetStreamHandler(GoodbyeProtocol, s.arrive)
	return s
}

// ErrSelf means that the other side is this very node.
var ErrSelf = errors.New("the peer is this node itself")

// Refusal says that two nodes will not be peers.
type Refusal struct {
	Code uint32 // of a Verack, never 0
	Text string // as told to the other side
	ByUs bool
}

func (r *Refusal) Error() string {
	by := "the peer"
	if r.ByUs {
		by = "us"
	}
	return fmt.Sprintf("refused by %s: %s: %s", by, wire.VerackName(r.Code), r.Text)
}

// RefusalCode is Code, for those who do not import this package.
func (r *Refusal) RefusalCode() uint32 { return r.Code }

// ChainKnown tells Run that the network learned its chain: the peers that were
// greeted without one are greeted again. It does not block.
func (s *Handshake) ChainKnown() {
	select {
	case s.regreet <- struct{}{}:
	default:
	}
}

// Run serves status and goodbye, follows the connections and closes those that
// stay silent or whose peer was discouraged. When ctx ends it says goodbye to
// all and closes them, which takes at most a second or so. It is called once.
func (s *Handshake) Run(ctx context.Context) error {
	sub := s.bus.Subscribe()
	defer sub.Close()
	s.mu.Lock()
	s.open = true
	s.mu.Unlock()
	handle := func(st network.Stream) { s.serve(ctx, st) }

	// The notifiee comes before the streams, so that every stream has its entry.
	watch := &network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { s.connected(c) },
		DisconnectedF: func(_ network.Network, c network.Conn) { s.disconnected(c) },
	}
	s.host.Network().Notify(watch)
	for _, c := range s.host.Network().Conns() {
		s.connected(c)
	}
	s.mu.Lock()
	s.handle = handle
	waiting := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	for _, st := range waiting {
		s.spawn(func() { handle(st) })
	}

	close(s.running)
	s.loop(ctx, sub)

	s.host.RemoveStreamHandler(StatusProtocol)
	s.partAll(context.WithoutCancel(ctx))
	s.awaitNone()
	s.host.RemoveStreamHandler(GoodbyeProtocol)
	s.mu.Lock()
	s.open = false
	s.mu.Unlock()
	s.inflight.Wait()
	s.host.Network().StopNotify(watch)
	return nil
}

// awaitNone waits a moment for the connections that were closed to be gone, so
// that their end is told before we are deaf.
func (s *Handshake) awaitNone() {
	none := make(chan struct{})
	s.mu.Lock()
	if len(s.peers) == 0 {
		close(none)
	} else {
		s.none = none
	}
	s.mu.Unlock()
	timer := time.NewTimer(goodbyeTimeout)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C:
	}
}

func (s *Handshake) loop(ctx context.Context, sub *event.Subscription) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := time.NewTicker(closeEvery)
	defer again.Stop()
	s.closeAll(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.kick:
		case <-s.regreet:
			for _, p := range s.readyIDs() {
				s.spawn(func() {
					if err := s.greet(ctx, p); err != nil {
						s.log.Debug("greeting again failed", "peer", p, "err", err)
					}
				})
			}
		case <-sub.Wake():
			s.closeRefused(ctx, sub)
		case <-again.C:
			s.closeAll(ctx)
		}
		late, wake := s.late(time.Now())
		for _, p := range late {
			s.spawn(func() { s.closeLate(ctx, p) })
		}
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
	}
}

// closeLate parts with an inbound peer that did not greet in time.
func (s *Handshake) closeLate(ctx context.Context, p peer.ID) {
	s.rep.Penalize(p, chain.Timeout, "no status within "+greetTimeout.String())
	s.metrics.result("late")
	s.Disconnect(ctx, p, wire.GoodbyeFault, "no status within "+greetTimeout.String())
}

// closeEvery is how often all connections are compared with who is refused.
const closeEvery = 30 * time.Second

// closeRefused re-reads the reputation of those whom an event names, or of all
// where somebody is banned or events were lost.
func (s *Handshake) closeRefused(ctx context.Context, sub *event.Subscription) {
	envelopes, lost := sub.Take(256)
	all := lost > 0
	for _, e := range envelopes {
		switch v := e.Data.(type) {
		case event.PeerDiscouraged:
			for _, c := range s.host.Network().ConnsToPeer(v.Peer) {
				s.closeIfRefused(ctx, c)
			}
		case event.PeerBanned:
			all = true
		}
	}
	if all {
		s.closeAll(ctx)
	}
}

func (s *Handshake) closeAll(ctx context.Context) {
	for _, c := range s.host.Network().Conns() {
		s.closeIfRefused(ctx, c)
	}
}

// NotAllowed is the text of a goodbye to who is not on the allow-list.
const NotAllowed = "not on the list of peers that may connect"

// closeIfRefused parts with the peer of c. Of a peer with connections from
// several addresses one of which is banned, all go: it can come back by another.
// While the fault may be our own, the last peers stay though they have too many
// points: without any a node never learns that it is wrong.
func (s *Handshake) closeIfRefused(ctx context.Context, c network.Conn) {
	code, text := wire.GoodbyeBadScore, "too many points for misbehaviour"
	switch s.rep.RefusedConn(c) {
	case "":
		return
	case string(reputation.Discouraged):
		if s.rep.Doubtful() && s.isLast(c.RemotePeer()) {
			return
		}
	case string(reputation.Banned):
		code, text = wire.GoodbyeBanned, "banned"
	case reputation.NotAllowed:
		code, text = wire.GoodbyeBanned, NotAllowed
	}
	s.spawn(func() { s.Disconnect(ctx, c.RemotePeer(), code, text) })
}

// isLast reports whether p is ready and nobody else is who is not refused too.
func (s *Handshake) isLast(p peer.ID) bool {
	ready := s.readyIDs()
	return slices.Contains(ready, p) && !slices.ContainsFunc(ready, func(o peer.ID) bool { return o != p && !s.rep.Refused(o) })
}

// spawn runs f in a goroutine that Run waits for.
func (s *Handshake) spawn(f func()) {
	if s.enter() {
		go func() {
			defer s.inflight.Done()
			f()
		}()
	}
}

func (s *Handshake) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		s.inflight.Add(1)
	}
	return s.open
}

// streamKey is where streams are counted: a goodbye is looked after for some
// seconds, in which the peer may come back and leave again.
type streamKey struct {
	conn     string
	protocol protocol.ID
}

func keyOf(st network.Stream) streamKey { return streamKey{st.Conn().ID(), st.Protocol()} }

// arrive serves a stream, or keeps it for Run. Its deadline begins now, and
// the host's end ends it too.
func (s *Handshake) arrive(st network.Stream) {
	_ = st.SetDeadline(time.Now().Add(greetTimeout))
	key := keyOf(st)
	s.mu.Lock()
	handle := s.handle
	full := s.streams[key] >= maxStreams || handle == nil && len(s.waiting) >= maxWaiting
	if !full {
		s.streams[key]++
		if handle == nil {
			s.waiting = append(s.waiting, st)
		}
	}
	s.mu.Unlock()
	switch {
	case full:
		s.metrics.result("streams")
		_ = st.Reset()
	case handle != nil:
		handle(st)
	}
}

// served ends what arrive has counted.
func (s *Handshake) served(key streamKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[key]--; s.streams[key] == 0 {
		delete(s.streams, key)
	}
}

// serve serves one stream until ctx ends; Run waits for it.
func (s *Handshake) serve(ctx context.Context, st network.Stream) {
	defer s.served(keyOf(st))
	if !s.enter() {
		_ = st.Reset()
		return
	}
	defer s.inflight.Done()
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	f := s.answer
	if st.Protocol() == GoodbyeProtocol {
		f = s.hearGoodbye
	}
	if err := f(ctx, st); err != nil {
		_ = st.Reset()
		s.charge(st.Conn().RemotePeer(), err)
		return
	}
	_ = st.Close()
}

// charge charges p where err proves its fault.
func (s *Handshake) charge(p peer.ID, err error) {
	s.log.Debug("stream failed", "peer", p, "err", err)
	if bad, ok := errors.AsType[*chain.InvalidError](wire.Fault(err)); ok {
		s.rep.Penalize(p, bad.Offence, bad.Detail)
	}
}

// version is what we say of ourselves now.
func (s *Handshake) version() wire.Version {
	v := wire.Version{
		Protocol:  wire.ProtocolVersion,
		UserAgent: s.cfg.UserAgent,
		Name:      s.cfg.Name,
		BaseURL:   s.cfg.BaseURL,
		Nonce:     s.nonce,
		TimeMS:    uint64(time.Now().UnixMilli()),
		APIPort:   uint16(s.cfg.APIPort),
	}
	v.SetStatus(s.net.Status())
	return v
}
