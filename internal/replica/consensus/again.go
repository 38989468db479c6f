package consensus

import (
	"context"
	"sync"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/event"
)

// said is what the library sent last, of what it sends once. A validator that
// could not be reached just then would wait for it until a timeout, so it gets
// what still matters when the stream to it stands again. The library takes each
// of it twice: votes are counted by their sender.
type said struct {
	mu         sync.Mutex // guards below
	viewChange *smartbftprotos.Message
	viewData   *smartbftprotos.Message
	viewDataTo uint64
	newView    *smartbftprotos.Message
	proposal   *smartbftprotos.Message
	prepare    *smartbftprotos.Message
	commit     *smartbftprotos.Message
}

// note keeps m, which is sent to a validator and is not changed any more.
func (s *said) note(to uint64, m *smartbftprotos.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c := m.GetContent().(type) {
	case *smartbftprotos.Message_ViewChange:
		if c.ViewChange.NextView >= s.viewChange.GetViewChange().GetNextView() { // else it helps others
			s.viewChange = m
		}
	case *smartbftprotos.Message_ViewData:
		s.viewData, s.viewDataTo = m, to
	case *smartbftprotos.Message_NewView:
		s.newView = m
	case *smartbftprotos.Message_PrePrepare:
		s.proposal = m
	case *smartbftprotos.Message_Prepare:
		if !c.Prepare.Assist { // else it answers a vote of before
			s.prepare = m
		}
	case *smartbftprotos.Message_Commit:
		if !c.Commit.Assist {
			s.commit = m
		}
	}
}

// due is what to tell a validator again, where we are changing to the view
// joined, blocks are ordered in begun, and the next one is seq.
func (s *said) due(to, joined, begun, seq uint64) (due []*smartbftprotos.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tell := func(m *smartbftprotos.Message, yes bool) {
		if m != nil && yes {
			due = append(due, m)
		}
	}
	tell(s.viewChange, s.viewChange.GetViewChange().GetNextView() > begun)
	view, _ := changesTo(s.viewData)
	tell(s.viewData, s.viewDataTo == to && view == joined && view > begun)
	view, _ = changesTo(s.newView)
	tell(s.newView, view == joined)
	for _, m := range []*smartbftprotos.Message{s.proposal, s.prepare, s.commit} {
		p, ok := placeOf(m)
		// A vote in a view that we are leaving may be for the block in flight.
		tell(m, ok && p.seq == seq && (p.view == begun && joined == begun || m.GetCommit() != nil && joined > begun))
	}
	return due
}

// again is what to tell a validator that can be reached again.
func (s *session) again(to uint64) []*smartbftprotos.Message {
	joined, begun := s.early.views()
	return s.said.due(to, joined, begun, s.ledger.Tip().Head.Height+1)
}

// redialReady reaches for validators as soon as they are ready, whatever the pause
// between two attempts is.
func (p *peers) redialReady(ctx context.Context) {
	sub := p.engine.bus.Subscribe()
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.Wake():
		}
		for {
			events, _ := sub.Take(eventsAtOnce)
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				if r, ok := e.Data.(event.PeerReady); ok {
					p.mu.Lock()
					if id := p.validatorOf(r.Peer); id != 0 {
						p.out[id].hurry()
					}
					p.mu.Unlock()
				}
			}
		}
	}
}

// hurry ends the pause before the next attempt.
func (o *outbox) hurry() {
	select {
	case o.redial <- struct{}{}:
	default:
	}
}
