package handshake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/tracing"
	"github.com/parley-p2p/parley/internal/wire"
)

// Greet swaps status with a connected peer and returns nil once it is ready; at
// once where it is ready already. A peer that just starts, and does not speak
// status yet, is asked again for 2 s. An answer may take 10 s. A *Refusal means
// that either side said no: the connection is closed then, as it is where an
// answer did not come or does not decode. After another error the connection
// stands, and closing it is up to the caller.
func (s *Handshake) Greet(ctx context.Context, p peer.ID) error {
	if p == s.host.ID() {
		return ErrSelf
	}
	select {
	case <-s.running: // the table is followed from here on
	case <-ctx.Done():
		return fmt.Errorf("greet %s: %w", p, ctx.Err())
	}
	for {
		s.mu.Lock()
		e := s.peers[p]
		if e != nil && e.peer.Ready {
			s.mu.Unlock()
			return nil
		}
		if e == nil || e.greeting == nil {
			end := make(chan struct{})
			if e != nil {
				e.greeting = end
			}
			s.mu.Unlock()
			defer s.greeted(e, end)
			return s.greet(ctx, p)
		}
		other := e.greeting
		s.mu.Unlock()
		select { // two at once would be one too many on this connection
		case <-other:
		case <-ctx.Done():
			return fmt.Errorf("greet %s: %w", p, ctx.Err())
		}
	}
}

// greeted ends a greeting that others may wait for.
func (s *Handshake) greeted(e *entry, end chan struct{}) {
	if e == nil {
		return
	}
	s.mu.Lock()
	e.greeting = nil
	s.mu.Unlock()
	close(end)
}

// greet greets p though it may be ready.
func (s *Handshake) greet(ctx context.Context, p peer.ID) (err error) {
	ctx, span := s.span(ctx, p, "outbound")
	defer func() { tracing.End(span, err) }()
	again := s.IsReady(p)
	s.mu.Lock()
	e := s.peers[p]
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("greet %s: not connected", p)
	}
	var ver wire.Verack
	err = errParting
	if !s.parting(e) {
		ver, err = s.exchange(ctx, p)
	}
	for wait, left := greetAgain, greetMost; isStarting(err) && left > 0 && s.awaits(p, e); wait *= 2 {
		wait = min(wait, left)
		left -= wait
		s.log.Debug("peer does not speak status yet", "peer", p, "err", err, "next", wait)
		if !sleep(ctx, wait) {
			break
		}
		if s.awaits(p, e) {
			ver, err = s.exchange(ctx, p)
		}
	}
	if err != nil && !again && s.IsReady(p) { // it greeted us in the meantime
		return nil
	}
	if err == nil {
		if refusal := s.heard(p, ver); refusal != nil {
			s.refuse(ctx, p, ver.Version, refusal)
			return refusal
		}
		s.metrics.result(wire.VerackName(wire.VerackOK))
		return nil
	}
	// A peer that is full or leaves says so by a goodbye in place of a verack.
	s.mu.Lock()
	bye := e.goodbye
	s.mu.Unlock()
	if code := refusalOf(bye.Code); code != wire.VerackOK {
		s.metrics.result(wire.VerackName(code))
		return &Refusal{Code: code, Text: bye.Text}
	}
	s.metrics.result("failed")
	s.charge(p, err)
	return fmt.Errorf("greet %s: %w", p, err)
}

// span begins the span of a handshake.
func (s *Handshake) span(ctx context.Context, p peer.ID, direction string) (context.Context, trace.Span) {
	ctx, span := tracing.Start(ctx, s.cfg.Tracer, "handshake")
	if span.IsRecording() {
		span.SetAttributes(attribute.Stringer("peer", p), attribute.String("direction", direction))
	}
	return ctx, span
}

// errNotOpened means that the peer took no stream for our status.
var errNotOpened = errors.New("no stream")

// errParting means that the connection is about to be closed. A greeting on it
// would be one too many for the other side.
var errParting = errors.New("the connection is being closed")

// parting reports whether either side has begun to part.
func (s *Handshake) parting(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.byUs || e.goodbye.Code != 0
}

// isStarting reports whether err is what a peer that just starts makes of a
// greeting: it does not know the protocol yet or resets the stream.
func isStarting(err error) bool {
	return errors.Is(err, errNotOpened) || errors.Is(err, network.ErrReset) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// awaits reports whether p is still connected as e, not ready, and neither side
// has begun to part.
func (s *Handshake) awaits(p peer.ID, e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[p] == e && !e.peer.Ready && !e.byUs && e.goodbye.Code == 0
}

// sleep reports false where ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// exchange sends our version and reads the verack.
func (s *Handshake) exchange(ctx context.Context, p peer.ID) (ver wire.Verack, err error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // the reset was ours
		}
	}()
	// It waits for identify, which tells us that the protocol is spoken.
	st, err := s.host.NewStream(network.WithNoDial(ctx, "handshake"), p, StatusProtocol)
	if err != nil {
		return wire.Verack{}, fmt.Errorf("open %s: %w: %w", StatusProtocol, errNotOpened, err)
	}
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	defer st.Close() // also tells the other side that we have read its answer
	deadline, _ := ctx.Deadline()
	_ = st.SetDeadline(deadline)

	defer func() { // the peer may have heard us, and would charge a second greeting on this connection
		if err != nil && (ctx.Err() != nil || !isStarting(err)) && !s.IsReady(p) {
			_ = st.Conn().Close()
		}
	}()
	start := time.Now()
	if err := wire.WriteFrame(st, s.version().Encode()); err != nil {
		return wire.Verack{}, fmt.Errorf("send version: %w", err)
	}
	b, err := wire.ReadFrame(st, wire.MaxVerack)
	if err != nil {
		return wire.Verack{}, fmt.Errorf("read verack: %w", err)
	}
	took := time.Since(start)
	s.tripped(p, took)
	tracing.Observe(s.metrics.seconds, took.Seconds(), trace.SpanFromContext(ctx))
	if ver, err = wire.DecodeVerack(b); err != nil {
		return wire.Verack{}, fmt.Errorf("decode verack: %w", err)
	}
	return ver, nil
}

// heard judges a verack and, where all is well, makes p ready.
func (s *Handshake) heard(p peer.ID, ver wire.Verack) *Refusal {
	if ver.Code != wire.VerackOK {
		return &Refusal{Code: ver.Code, Text: ver.Text}
	}
	if r := s.judge(p, ver.Version); r != nil {
		return r
	}
	if !s.ready(p, ver.Version) {
		return &Refusal{Code: wire.NotAllowed, Text: "the connection closed during the handshake", ByUs: true}
	}
	return nil
}

// answer serves one status stream: it reads a version and sends the verack.
func (s *Handshake) answer(ctx context.Context, st network.Stream) (err error) {
	p, start := st.Conn().RemotePeer(), time.Now()
	ctx, span := s.span(ctx, p, "inbound")
	defer func() { tracing.End(span, err) }()
	b, err := wire.ReadFrame(st, wire.MaxVersion)
	if err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	said, err := wire.DecodeVersion(b)
	if err != nil {
		return fmt.Errorf("decode version: %w", err)
	}
	if !s.mayGreet(st.Conn(), said) {
		return chain.Invalid(chain.Violation, "status again within %s", statusEvery)
	}
	ver := wire.Verack{}
	refusal := s.judge(p, said)
	if refusal == nil {
		refusal = s.admit(ctx, p)
	} else {
		s.strange(st.Conn(), refusal)
	}
	if refusal != nil {
		ver.Code, ver.Text = refusal.Code, refusal.Text
	} else if !s.ready(p, said) {
		// Ready before the verack leaves, for the peer may open its next
		// stream the moment it has read it.
		return errors.New("the connection closed during the handshake")
	}
	ver.Version = s.version()
	if err := wire.WriteFrame(st, ver.Encode()); err != nil {
		return fmt.Errorf("send verack: %w", err)
	}
	tracing.Observe(s.metrics.seconds, time.Since(start).Seconds(), span)
	s.awaitRead(st)
	if refusal != nil {
		s.refuse(ctx, p, said, refusal)
		return nil
	}
	s.metrics.result(wire.VerackName(wire.VerackOK))
	return nil
}

// awaitRead waits until the greeter, who closes when it has read our answer,
// closes: that is one round trip, and after it the connection may go.
func (s *Handshake) awaitRead(st network.Stream) {
	start := time.Now()
	_ = st.CloseWrite()
	_ = st.SetReadDeadline(start.Add(partTimeout))
	if _, err := st.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		s.tripped(st.Conn().RemotePeer(), time.Since(start))
	}
}

// tripped notes how long a round trip to p took.
func (s *Handshake) tripped(p peer.ID, took time.Duration) {
	s.host.Peerstore().RecordLatency(p, took)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.peers[p]; e != nil && (e.peer.MinRTT == 0 || took < e.peer.MinRTT) {
		e.peer.MinRTT = max(took, 1)
	}
}

// mayGreet allows one status a connection, one more when the peer's chain
// became known, and beyond these one per statusEvery and peer.
func (s *Handshake) mayGreet(c network.Conn, said wire.Version) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.peers[c.RemotePeer()]
	if e == nil || e.byUs || e.goodbye.Code != 0 {
		return true // it is closing, and a greeting under way is no offence
	}
	// Not what it said last: that may be an answer to our own greeting, on its
	// way together with the greeting by which it tells of its chain.
	allowed := now.Sub(e.statusAt) >= statusEvery || !e.born && !said.GenesisHash.IsZero()
	e.born = e.born || !said.GenesisHash.IsZero()
	for _, l := range e.conns {
		if l.conn == c && !l.greeted {
			l.greeted, allowed = true, true
		}
	}
	if allowed {
		e.statusAt = now
	}
	return allowed
}

// judge says whether p, that said this of itself, can be a peer.
func (s *Handshake) judge(p peer.ID, said wire.Version) *Refusal {
	no := func(code uint32, text string) *Refusal { return &Refusal{Code: code, Text: text, ByUs: true} }
	if said.Nonce == s.nonce {
		return no(wire.Self, ErrSelf.Error())
	}
	if s.rep.Refused(p) {
		return no(wire.Banned, "too many points for misbehaviour")
	}
	if said.Protocol < wire.ProtocolVersion {
		return no(wire.ProtocolTooOld, fmt.Sprintf("protocol %d is too old, %d is needed", said.Protocol, wire.ProtocolVersion))
	}
	err := s.net.CheckStatus(said.Status())
	if err == nil {
		return nil
	}
	if mismatch, ok := errors.AsType[*chain.MismatchError](err); ok {
		return no(mismatch.Code, mismatch.Text)
	}
	return no(wire.NotAllowed, err.Error())
}

// admit gives p a place where it is inbound and asks for one, and parts with
// the peer that gives its own up.
func (s *Handshake) admit(ctx context.Context, p peer.ID) *Refusal {
	if s.cfg.Admit == nil {
		return nil
	}
	if v, ok := s.Peer(p); !ok || v.Slot != "inbound" || v.Ready {
		return nil
	}
	evict, err := s.cfg.Admit(p)
	if err != nil {
		return &Refusal{Code: wire.TooManyPeers, Text: err.Error(), ByUs: true}
	}
	if evict != "" {
		s.spawn(func() { s.Disconnect(ctx, evict, wire.GoodbyeTooManyPeers, "its place went to another peer") })
	}
	return nil
}

// arrived closes whoever is one too many in handshake. There is no goodbye: a
// flood would hold its connections by not reading it.
func (s *Handshake) arrived(p peer.ID) {
	excess, why := s.cfg.Arrive(p)
	if excess == "" {
		return
	}
	s.mu.Lock()
	e := s.peers[excess]
	if e == nil || e.byUs || e.peer.Ready {
		s.mu.Unlock()
		return
	}
	e.byUs, e.reason = true, why
	conns := make([]network.Conn, 0, len(e.conns))
	for _, l := range e.conns {
		conns = append(conns, l.conn)
	}
	s.mu.Unlock()
	s.metrics.result("crowded")
	s.tellRefused(excess, &Refusal{Code: wire.TooManyPeers, Text: why, ByUs: true}, wire.Version{})
	for _, c := range conns {
		if c.ConnState().Transport == "tcp" {
			_ = c.Close() // to say why waits, for up to 10 s, for one that does not read
		} else {
			_ = c.CloseWithError(network.ConnResourceLimitExceeded)
		}
	}
}

// ready marks p as ready and tells so the first time. It reports false where p
// is not connected any more, or about to be.
func (s *Handshake) ready(p peer.ID, said wire.Version) bool {
	s.mu.Lock()
	e := s.peers[p]
	if e == nil || e.byUs || e.goodbye.Code != 0 {
		s.mu.Unlock()
		return false
	}
	first := !e.peer.Ready
	e.peer.Ready = true
	e.peer.learn(said, time.Now())
	c := e.conns[0].conn
	s.mu.Unlock()
	if !first {
		return true
	}
	if s.cfg.Ready != nil {
		s.cfg.Ready(p)
	}
	d := s.describe(p, c)
	s.log.Info("peer ready", "peer", p, "name", said.Name, "addr", d.Addr, "direction", d.Direction,
		"height", said.BestHeight, "agent", said.UserAgent)
	s.bus.Publish(event.PeerReady{
		PeerConnected: d,
		Agent:         said.UserAgent,
		Name:          said.Name,
		Height:        said.BestHeight,
		Hash:          said.BestHash,
		Services:      said.Services.Names(),
	})
	return true
}

// refuse tells of a refusal, by whichever side, and parts with the peer.
func (s *Handshake) refuse(ctx context.Context, p peer.ID, said wire.Version, r *Refusal) {
	s.metrics.result(wire.VerackName(r.Code))
	s.tellRefused(p, r, said)
	s.Disconnect(ctx, p, goodbyeOf(r.Code), r.Text)
}

// tellRefused logs and publishes a refusal, once a connection.
func (s *Handshake) tellRefused(p peer.ID, r *Refusal, said wire.Version) {
	s.mu.Lock()
	e := s.peers[p]
	if e == nil || e.refused {
		s.mu.Unlock()
		return
	}
	e.refused = true
	c := e.conns[0].conn
	s.mu.Unlock()
	addr := c.RemoteMultiaddr().String()
	by := "them"
	if r.ByUs {
		by = "us"
	}
	ours := s.net.Status()
	log := s.log.Debug
	if s.rep.Refuse(event.PeerRefused{Peer: p, Direction: direction(c), Addr: addr, Place: reputation.PlaceHandshake, By: by, Reason: r.Text}) {
		log = s.log.Info // at most a few a second
	}
	log("peer refused", "peer", p, "addr", addr, "by", by, "result", wire.VerackName(r.Code), "reason", r.Text,
		"our_chain", chainName(ours.ChainID, ours.Genesis), "their_chain", chainName(said.ChainID, said.GenesisHash))
}

func chainName(id string, genesis chain.Hash) string {
	if genesis.IsZero() {
		return "none yet"
	}
	return id + " (genesis " + genesis.Short() + ")"
}
