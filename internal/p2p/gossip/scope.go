package gossip

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/chain"
)

// scope is the host as pubsub sees it. It holds pubsub's streams, because
// pubsub ends with its context but its reads and handlers do not, and it tells
// credit what has left. It has the two streams between us and a peer begin
// together: pubsub forgets a peer's topics when its own stream to it ends, and
// the peer tells them at the begin of its stream alone.
type scope struct {
	host.Host
	credit *credit
	pace   *pace
	// ended is told of each stream that pubsub reads no more, and what the peer
	// sent that made it stop; "" is nothing.
	ended  func(p peer.ID, o chain.Offence, detail string)
	maxRPC int // bytes

	running sync.WaitGroup // stream handlers and validators

	mu      sync.Mutex // guards below
	closed  bool
	streams map[network.Stream]struct{}
	served  map[protocol.ID]network.StreamHandler
	without map[peer.ID]time.Time // peers to whom we have no stream any more, since then
}

func newScope(h host.Host, c *credit, p *pace, maxRPC int, ended func(peer.ID, chain.Offence, string)) *scope {
	return &scope{
		Host: h, credit: c, pace: p, maxRPC: maxRPC, ended: ended,
		streams: map[network.Stream]struct{}{}, served: map[protocol.ID]network.StreamHandler{}, without: map[peer.ID]time.Time{},
	}
}

// enter reports whether work may begin; if so it MUST end with leave.
func (s *scope) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

func (s *scope) leave() { s.running.Done() }

func (s *scope) hold(st network.Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.streams[st] = struct{}{}
	return true
}

func (s *scope) drop(st network.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
}

// over drops a stream of ours that has ended: what came from that peer before is
// forgotten.
func (s *scope) over(o *outbound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, held := s.streams[o]; !held {
		return
	}
	delete(s.streams, o)
	s.without[o.peer] = time.Now()
	for st := range s.streams {
		if in, ok := st.(*inbound); ok && in.peer == o.peer {
			in.forgotten = true
		}
	}
}

// rested lists connected peers whom pubsub has given up for so long that it has
// forgotten why, once each time.
func (s *scope) rested(now time.Time) (list []peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, since := range s.without {
		switch {
		case s.Network().Connectedness(p) != network.Connected:
			delete(s.without, p)
		case now.Sub(since) >= restTime:
			s.without[p] = now
			list = append(list, p)
		}
	}
	return list
}

const restTime = pubsub.TimeToLive + pubsub.BackoffCleanupInterval

// restart ends the streams of p of which all is forgotten, and gives it time to
// hear of that: what we say before, it would forget.
func (s *scope) restart(ctx context.Context, p peer.ID) error {
	s.mu.Lock()
	var old []*inbound
	for st := range s.streams {
		if in, ok := st.(*inbound); ok && in.peer == p && in.forgotten {
			old = append(old, in)
		}
	}
	s.mu.Unlock()
	if len(old) == 0 {
		return nil
	}
	for _, in := range old {
		_ = in.Reset()
	}
	select {
	case <-time.After(restartTime):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const restartTime = time.Second

// close resets every stream and returns when handlers and validators have
// ended. Call it after pubsub's context has ended.
func (s *scope) close() {
	s.mu.Lock()
	s.closed = true
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	s.withdraw()
	for _, st := range streams {
		_ = st.Reset()
	}
	s.running.Wait()
}

// SetStreamHandler implements [host.Host].
func (s *scope) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	served := func(st network.Stream) {
		if !s.enter() {
			_ = st.Reset()
			return
		}
		defer s.leave()
		in := &inbound{Stream: st, peer: st.Conn().RemotePeer(), pace: s.pace, over: make(chan struct{})}
		if !s.hold(in) {
			_ = st.Reset()
			return
		}
		defer s.drop(in)
		s.pace.open(in.peer, time.Now())
		defer s.pace.close(in.peer)
		handle(in)
		o, detail := in.fault(s.maxRPC)
		s.ended(in.peer, o, detail)
	}
	s.mu.Lock()
	s.served[id] = served
	s.mu.Unlock()
	s.Host.SetStreamHandler(id, served)
}

// withdraw has the host serve pubsub's protocols no more, of which identify
// tells every peer. Streams that stand go on.
func (s *scope) withdraw() {
	for id := range s.handlers() {
		s.Host.RemoveStreamHandler(id)
	}
}

// offer takes withdraw back.
func (s *scope) offer() {
	for id, handle := range s.handlers() {
		s.Host.SetStreamHandler(id, handle)
	}
}

func (s *scope) handlers() map[protocol.ID]network.StreamHandler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.served)
}

var errClosed = errors.New("gossip has stopped")

// NewStream implements [host.Host]. It dials nobody: that is the dialer's, and
// pubsub would where a peer has just left.
func (s *scope) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	if err := s.restart(ctx, p); err != nil {
		return nil, err
	}
	st, err := s.Host.NewStream(network.WithNoDial(ctx, "gossip"), p, ids...)
	if err != nil {
		s.credit.clear(p) // pubsub drops the queue
		s.mu.Lock()
		s.without[p] = time.Now()
		s.mu.Unlock()
		return nil, err
	}
	out := newOutbound(st, s.credit, p, s.over)
	if !s.hold(out) {
		_ = st.Reset()
		return nil, errClosed
	}
	s.mu.Lock()
	delete(s.without, p)
	s.mu.Unlock()
	return out, nil
}

// cut resets our streams to p; pubsub drops the queue then, and opens a new one
// after a while. It does not block.
func (s *scope) cut(p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for st := range s.streams {
		if out, ok := st.(*outbound); ok && out.peer == p {
			s.running.Go(func() { _ = st.Reset() }) // to say so may wait for a peer that does not read
		}
	}
}
