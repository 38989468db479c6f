package handshake

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/wire"
)

// Disconnect says goodbye to p and closes its connections. It blocks for at
// most a second, of which a second call takes what the first one left: a
// goodbye under way is not cut off.
func (s *Handshake) Disconnect(ctx context.Context, p peer.ID, code uint64, text string) {
	s.mu.Lock()
	e := s.peers[p]
	if e == nil {
		s.mu.Unlock()
		return
	}
	first, said := !e.byUs, e.said
	if first {
		said = make(chan struct{})
		e.said = said
	}
	if e.goodbye.Code == 0 {
		e.byUs = true
		e.reason = text
	}
	e.peer.Ready = false
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	switch {
	case first:
		defer close(said)
		if err := s.sayGoodbye(ctx, p, wire.Goodbye{Code: code, Text: text}); err != nil {
			s.log.Debug("goodbye failed", "peer", p, "err", err)
		}
	case said != nil:
		select {
		case <-said:
		case <-ctx.Done():
		}
	}
	s.closeAllOf(e)
}

// closeAllOf closes the connections of e alone: the peer may have come again.
func (s *Handshake) closeAllOf(e *entry) {
	s.mu.Lock()
	links := slices.Clone(e.conns)
	s.mu.Unlock()
	for _, l := range links {
		if err := l.conn.Close(); err != nil {
			s.log.Debug("close failed", "peer", e.peer.ID, "err", err)
		}
	}
}

// sayGoodbye returns when p has read it, for closing a connection throws away
// what is still under way.
func (s *Handshake) sayGoodbye(ctx context.Context, p peer.ID, g wire.Goodbye) error {
	st, err := s.host.NewStream(network.WithNoDial(ctx, "goodbye"), p, GoodbyeProtocol)
	if err != nil {
		return fmt.Errorf("open %s: %w", GoodbyeProtocol, err)
	}
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	defer st.Close()
	deadline, _ := ctx.Deadline()
	_ = st.SetDeadline(deadline)
	if err := wire.WriteFrame(st, g.Encode()); err != nil {
		return fmt.Errorf("send goodbye: %w", err)
	}
	_ = st.CloseWrite()
	_, _ = io.CopyN(io.Discard, st, 1) // ends when p closes its side
	return nil
}

// hearGoodbye keeps the reason for the event that follows, and closes where the
// peer does not.
func (s *Handshake) hearGoodbye(ctx context.Context, st network.Stream) error {
	p := st.Conn().RemotePeer()
	b, err := wire.ReadFrame(st, wire.MaxGoodbye)
	if err != nil {
		return fmt.Errorf("read goodbye: %w", err)
	}
	bye, err := wire.DecodeGoodbye(b)
	if err != nil {
		return fmt.Errorf("decode goodbye: %w", err)
	}
	s.mu.Lock()
	e := s.peers[p]
	var said wire.Version
	wasReady := false
	if e != nil {
		wasReady = e.peer.Ready
		e.goodbye = bye
		e.peer.Ready = false // it serves us no more
		e.peer.LastSeen = time.Now()
		said.SetStatus(e.peer.Status)
	}
	s.mu.Unlock()
	s.log.Debug("goodbye heard", "peer", p, "code", bye.Code, "text", bye.Text)
	// In an exchange under way its own end tells of the refusal.
	if bye.Code == wire.GoodbyeWrongNetwork && wasReady {
		s.tellRefused(p, &Refusal{Code: wire.WrongNetwork, Text: bye.Text}, said)
	}
	_ = st.Close() // heard: the peer may close now
	select {
	case <-time.After(partTimeout):
	case <-ctx.Done():
		return nil
	}
	if e != nil {
		s.closeAllOf(e)
	}
	return nil
}

// partAll says goodbye to every peer at once and closes them.
func (s *Handshake) partAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, v := range s.Peers() {
		wg.Go(func() { s.Disconnect(ctx, v.ID, wire.GoodbyeShutdown, "the node stops") })
	}
}

// goodbyeOf is the goodbye that follows a refusal with a code of a verack.
func goodbyeOf(verack uint32) uint64 {
	switch verack {
	case wire.WrongNetwork, wire.WrongGenesis:
		return wire.GoodbyeWrongNetwork
	case wire.TooManyPeers:
		return wire.GoodbyeTooManyPeers
	case wire.Banned:
		return wire.GoodbyeBanned
	}
	return wire.GoodbyeFault
}

// refusalOf is the refusal that a goodbye stands for, VerackOK for none.
func refusalOf(goodbye uint64) uint32 {
	switch goodbye {
	case wire.GoodbyeWrongNetwork:
		return wire.WrongNetwork
	case wire.GoodbyeTooManyPeers:
		return wire.TooManyPeers
	case wire.GoodbyeBadScore, wire.GoodbyeBanned:
		return wire.Banned
	}
	return wire.VerackOK
}
