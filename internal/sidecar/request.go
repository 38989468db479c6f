package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/wire"
)

// Limits of requests between programs.
const (
	MaxRequest  = wire.MaxAppData  // bytes
	MaxChunk    = wire.MaxAppChunk // bytes of one part of an answer
	RequestTime = 30 * time.Second // of a request with its answer, at most

	maxIncoming = 64       // requests of others, at once
	forKept     = 8        // of them for peers that we were told to keep alone
	maxOutgoing = 64       // requests of ours, at once
	maxBacklog  = 16 << 20 // bytes of an answer that wait for the peer to read
)

// Request asks the program of a ready peer, and gives each part of its answer
// to take; the first error of take ends it. It ends after RequestTime at the
// latest. It returns ErrNoPeer, a *SizeError, an *AnswerError, ErrCutOff,
// chain.ErrBusy or ctx's error.
func (s *Sidecar) Request(ctx context.Context, p peer.ID, protocol string, data []byte, take func(part []byte) error) error {
	switch {
	case !config.SidecarName(protocol):
		return badInput("protocol %q: want %s", cut(protocol), config.SidecarNameRule)
	case len(data) > MaxRequest:
		return &SizeError{fmt.Sprintf("a request of %d bytes: at most %d", len(data), MaxRequest)}
	}
	services, err := s.begin()
	if err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outgoing--
	}()
	ctx, cancel := context.WithTimeout(ctx, RequestTime)
	defer cancel()
	st, err := services.Open(ctx, p, s.protocolID(protocol))
	if err != nil {
		return fmt.Errorf("%s of %s: %w: %w", protocol, p, ErrNoPeer, err)
	}
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	err = exchange(st, data, take)
	if err == nil {
		_ = st.Close()
		return nil
	}
	_ = st.Reset()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if bad, ok := errors.AsType[*chain.InvalidError](wire.Fault(err)); ok {
		services.Report(p, bad.Offence, protocol+": "+bad.Detail)
	}
	return fmt.Errorf("%s of %s: %w", protocol, p, err)
}

// begin counts a request of ours.
func (s *Sidecar) begin() (chain.Services, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.services == nil:
		return nil, ErrStopped
	case s.outgoing >= maxOutgoing:
		return nil, fmt.Errorf("%d requests are under way: %w", maxOutgoing, chain.ErrBusy)
	}
	s.outgoing++
	return s.services, nil
}

// exchange writes a request and reads the answer, part by part.
func exchange(st chain.Stream, data []byte, take func([]byte) error) error {
	if err := wire.WriteFrame(st, wire.AppRequest{Data: data}.Encode()); err != nil {
		return fmt.Errorf("%w: %w", ErrNoPeer, err)
	}
	if err := st.CloseWrite(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoPeer, err)
	}
	for {
		b, err := wire.ReadFrame(st, wire.MaxAppAnswer)
		if errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrTooLarge) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCutOff, err)
		}
		a, err := wire.DecodeAppAnswer(b)
		if err != nil {
			return err
		}
		if a.Error != "" {
			return &AnswerError{a.Error}
		}
		if len(a.Data) > 0 {
			if err := take(a.Data); err != nil {
				return err
			}
		}
		if a.Last {
			return nil
		}
	}
}

// incoming is a request that the program has yet to answer.
type incoming struct {
	peer  peer.ID
	group string           // [chain.Peer.Group]
	parts []wire.AppAnswer // that wait to be sent
	bytes int              // of them, with overhead for each
	done  bool             // the last one is among them, or was
	wake  chan struct{}    // cap 1
}

func (in *incoming) add(a wire.AppAnswer) {
	in.parts = append(in.parts, a)
	in.bytes += overhead + len(a.Data)
	in.done = in.done || a.Last
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// answerer serves one kind of request.
func (s *Sidecar) answerer(name string) func(context.Context, chain.Stream) error {
	return func(ctx context.Context, st chain.Stream) error {
		ctx, cancel := context.WithTimeout(ctx, RequestTime)
		defer cancel()
		b, err := wire.ReadFrame(st, wire.MaxAppRequest)
		if err != nil {
			return wire.Fault(err)
		}
		req, err := wire.DecodeAppRequest(b)
		if err != nil {
			return wire.Fault(err)
		}
		deadline, _ := ctx.Deadline()
		if err := st.SetWriteDeadline(deadline); err != nil {
			return err
		}
		return s.answer(ctx, name, req.Data, st)
	}
}

// answer hands a request to the program and writes what it replies.
func (s *Sidecar) answer(ctx context.Context, name string, data []byte, st interface {
	io.Writer
	Peer() peer.ID
},
) error {
	from := s.peer(st.Peer())
	in := &incoming{peer: from.ID, group: from.Group, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	app, refusal := s.app, ""
	s.lastID++
	id := s.lastID
	switch {
	case app == nil:
		refusal = "no program is attached to this node"
	case !s.hasPlace(from), !app.queue.push(requests, Incoming{ID: id, Peer: from.ID, Protocol: name, Data: data}):
		refusal = "busy: ask again later"
		s.metrics.dropped.WithLabelValues(droppedRequest).Inc()
	default:
		s.incoming[id] = in
	}
	s.mu.Unlock()
	if refusal != "" {
		return wire.WriteFrame(st, wire.AppAnswer{Last: true, Error: refusal}.Encode())
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.incoming, id)
	}()
	for {
		for {
			part, ok := s.next(in)
			if !ok {
				break
			}
			if err := wire.WriteFrame(st, part.Encode()); err != nil {
				return err
			}
			if part.Last {
				return nil
			}
		}
		select {
		case <-in.wake:
		case <-app.queue.over:
			return wire.WriteFrame(st, wire.AppAnswer{Last: true, Error: "the program has left"}.Encode())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// peer is what is known of a peer.
func (s *Sidecar) peer(id peer.ID) chain.Peer {
	for _, p := range s.Peers() {
		if p.ID == id {
			return p
		}
	}
	return chain.Peer{ID: id} // it has just left
}

// hasPlace reports whether one more request of p may wait for the program: a
// peer may have a quarter of the places that are free at the moment, and all of
// one group half of them. So whoever has many leaves some to who has none. It
// is called under s.mu.
func (s *Sidecar) hasPlace(p chain.Peer) bool {
	free := maxIncoming - len(s.incoming)
	if !p.Kept {
		free -= forKept
	}
	ofPeer, ofGroup := 0, 0
	for _, in := range s.incoming {
		if in.peer == p.ID {
			ofPeer++
		}
		if p.Group != "" && in.group == p.Group {
			ofGroup++
		}
	}
	return free > 0 && 4*ofPeer < free && (p.Kept || 2*ofGroup < free)
}

func (s *Sidecar) next(in *incoming) (wire.AppAnswer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(in.parts) == 0 {
		return wire.AppAnswer{}, false
	}
	part := in.parts[0]
	in.parts = in.parts[1:]
	in.bytes -= overhead + len(part.Data)
	return part, true
}

// Reply is a part of the answer to an Incoming. One that nobody waits for any
// more is dropped. Where the peer reads so slowly that more than 16 MiB wait,
// its request is ended: the program is not held up by it.
func (x *Session) Reply(id uint64, data []byte, last bool, failure string) error {
	if len(data) > MaxChunk {
		return &SizeError{fmt.Sprintf("a part of %d bytes: at most %d", len(data), MaxChunk)}
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.queue.err != nil {
		return x.queue.err
	}
	in := x.s.incoming[id]
	switch {
	case in == nil || in.done:
	case in.bytes+overhead+len(data) > maxBacklog:
		in.parts, in.bytes = nil, 0
		in.add(wire.AppAnswer{Last: true, Error: "the answer came faster than it was read: ask for less at once"})
	default:
		in.add(wire.AppAnswer{Data: data, Last: last || failure != "", Error: failure})
	}
	return nil
}
