package consensus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// handle serves a stream from another validator.
func (s *session) handle(ctx context.Context, st chain.Stream) error {
	p := s.peers
	from := st.Peer()
	id, old, ok := p.accept(from, st)
	if !ok {
		return chain.ErrUnready
	}
	if old != nil {
		_ = old.Reset()
	}
	defer p.release(from, st)
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	if err := st.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("consensus stream of %s: %w", from, err)
	}
	next, done, end := s.listen(id)
	defer end()
	r := bufio.NewReaderSize(st, 64<<10)
	for {
		m, err := s.receive(r, id)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !p.hears(id, from) {
			return chain.ErrUnready
		}
		if m == nil {
			continue
		}
		select {
		case <-s.started:
		case <-p.ended:
			return chain.ErrUnready
		}
		p.waits(id, 1)
		select {
		case next <- m:
			p.waits(id, -1)
		case <-done:
			p.waits(id, -1)
			return chain.ErrUnready
		case <-p.ended:
			return chain.ErrUnready
		}
	}
}

// listen takes what a validator says in a goroutine of its own, for the library
// may never come back from a message. end waits for it, unless the library was
// left behind, and done is closed when nothing more is taken.
func (s *session) listen(id uint64) (next chan<- *smartbftprotos.Message, done <-chan struct{}, end func()) {
	heard, over := make(chan *smartbftprotos.Message), make(chan struct{})
	go func() {
		defer close(over)
		for m := range heard {
			s.hear(id, m)
		}
	}()
	return heard, over, func() {
		close(heard)
		select {
		case <-over:
		case <-s.left:
		}
	}
}

// hear takes one message of a validator.
func (s *session) hear(id uint64, m *smartbftprotos.Message) {
	s.turn.hold(m, s.peers.ended)
	if r := m.GetStateTransferResponse(); r != nil && r.ViewNum > s.view.Load() && s.settling.Load() {
		return // see awaitInFlight
	}
	if c, is, ok := isConfirmation(m); is {
		if ok {
			s.confirms.note(id, c)
			s.confirmed()
		}
		return
	}
	if c := m.GetCommit(); c != nil {
		v, ok := ownVoteOf(s.genesis, c)
		if !ok {
			s.log.Debug("malformed vote dropped", "validator", id)
			return
		}
		s.watchVote(id, v, c)
		view, counts := s.ballot.counted(v.seq, v.header)
		if s.past(m) || s.early.holdVote(id, m, v, view, counts) {
			return
		}
	} else if s.past(m) || s.bringUp(id, m) || s.early.hold(id, m, s.id, s.Nodes()) {
		return
	}
	s.give(id, m)
	if beat := m.GetHeartBeat(); beat != nil && id == s.Leader() && s.lags(beat.Seq, time.Now()) {
		s.nudge()
	}
}

// receive reads one message, nil for one that says nothing.
func (s *session) receive(r io.Reader, id uint64) (*smartbftprotos.Message, error) {
	tip := s.ledger.Tip()
	frame, err := wire.ReadFrame(r, maxFrame(tip.Set.Quorum(), tip.Config.Params))
	if err != nil {
		return nil, wire.Fault(err)
	}
	if len(frame) == 0 {
		return nil, nil
	}
	m, err := decodeMessage(frame)
	if err != nil {
		return nil, chain.Invalid(chain.Malformed, "consensus message of validator %d: %v", id, err)
	}
	return m, nil
}
