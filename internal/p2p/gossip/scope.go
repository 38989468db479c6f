package gossip

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/chain"
)

// scope is the host as pubsub sees it. It holds pubsub's streams, because
// pubsub ends with its context but its reads and handlers do not, and it tells
// credit what has left.
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
	served  []protocol.ID
}

func newScope(h host.Host, c *credit, p *pace, maxRPC int, ended func(peer.ID, chain.Offence, string)) *scope {
	return &scope{Host: h, credit: c, pace: p, maxRPC: maxRPC, ended: ended, streams: map[network.Stream]struct{}{}}
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

// close resets every stream and returns when handlers and validators have
// ended. Call it after pubsub's context has ended.
func (s *scope) close() {
	s.mu.Lock()
	s.closed = true
	streams, served := slices.Collect(maps.Keys(s.streams)), s.served
	s.mu.Unlock()
	for _, id := range served {
		s.Host.RemoveStreamHandler(id)
	}
	for _, st := range streams {
		_ = st.Reset()
	}
	s.running.Wait()
}

// SetStreamHandler implements [host.Host].
func (s *scope) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	s.mu.Lock()
	s.served = append(s.served, id)
	s.mu.Unlock()
	s.Host.SetStreamHandler(id, func(st network.Stream) {
		if !s.enter() {
			_ = st.Reset()
			return
		}
		defer s.leave()
		p := st.Conn().RemotePeer()
		in := &inbound{Stream: st, peer: p, pace: s.pace, over: make(chan struct{})}
		if !s.hold(in) {
			_ = st.Reset()
			return
		}
		defer s.drop(in)
		s.pace.open(p, time.Now())
		defer s.pace.close(p)
		handle(in)
		o, detail := in.fault(s.maxRPC)
		s.ended(p, o, detail)
	})
}

var errClosed = errors.New("gossip has stopped")

// NewStream implements [host.Host]. It dials nobody: that is the dialer's, and
// pubsub would where a peer has just left.
func (s *scope) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	st, err := s.Host.NewStream(network.WithNoDial(ctx, "gossip"), p, ids...)
	if err != nil {
		s.credit.clear(p) // pubsub drops the queue
		return nil, err
	}
	out := newOutbound(st, s.credit, p, s.drop)
	if !s.hold(out) {
		_ = st.Reset()
		return nil, errClosed
	}
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
