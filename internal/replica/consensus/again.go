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
	changeAt   moment // in which the view change was asked for
	viewData   *smartbftprotos.Message
	viewDataTo uint64
	newView    *smartbftprotos.Message
	confirm    *smartbftprotos.Message // of a new view
	proposal   *smartbftprotos.Message
	prepare    *smartbftprotos.Message
	commit     *smartbftprotos.Message
	inFlight   bool // commit is for the block in flight of a new view
}

// moment is where we are: changing to the view joined, while blocks are ordered
// in begun, of which seq is the next one.
type moment struct{ joined, begun, seq uint64 }

func (s *session) moment() moment {
	joined, begun := s.early.views()
	return moment{joined, begun, s.ledger.Tip().Head.Height + 1}
}

// note keeps m, which is sent to a validator and is not changed any more.
func (s *said) note(to uint64, m *smartbftprotos.Message, at moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c := m.GetContent().(type) {
	case *smartbftprotos.Message_ViewChange:
		if c.ViewChange.NextView >= s.viewChange.GetViewChange().GetNextView() { // else it helps others
			s.viewChange, s.changeAt = m, at
		}
	case *smartbftprotos.Message_ViewData:
		s.viewData, s.viewDataTo = m, to
	case *smartbftprotos.Message_NewView:
		s.newView = m
	case *smartbftprotos.Message_PrePrepare:
		s.proposal = m
	case *smartbftprotos.Message_Prepare:
		if _, is, _ := isConfirmation(m); is {
			s.confirm = m
		} else if !c.Prepare.Assist { // else it answers a vote of before
			s.prepare = m
		}
	case *smartbftprotos.Message_Commit:
		if !c.Commit.Assist {
			s.commit, s.inFlight = m, at.joined > at.begun
		}
	}
}

// due is what to tell a validator again. A view change is over where a view began
// since it was asked for, and in vain where nobody joined it and a block came: who
// heard of it only then could leave a view that works.
func (s *said) due(to uint64, now moment) (due []*smartbftprotos.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tell := func(m *smartbftprotos.Message, yes bool) {
		if m != nil && yes {
			due = append(due, m)
		}
	}
	changes := now.joined > now.begun
	tell(s.viewChange, s.changeAt.begun == now.begun && (changes || s.changeAt.seq == now.seq))
	view, _ := changesTo(s.viewData)
	tell(s.viewData, s.viewDataTo == to && view == now.joined && changes)
	view, _ = changesTo(s.newView)
	tell(s.newView, view == now.joined)
	tell(s.confirm, s.confirm.GetPrepare().GetView() == now.joined)
	for _, m := range []*smartbftprotos.Message{s.proposal, s.prepare} {
		p, ok := placeOf(m)
		tell(m, ok && !changes && p == place{now.begun, now.seq})
	}
	p, _ := placeOf(s.commit)
	// In a view that we are leaving it may be for the block in flight, which can be
	// of a view that began without us; a vote of a view before the one that has
	// begun is dead. But where a view began with that block, who lacks our vote for
	// it waits there, and the library does not vote again.
	waits := s.inFlight && !changes && p.seq+1 == now.seq
	tell(s.commit, p.seq == now.seq && p.view >= now.begun || waits)
	return due
}

// again is what to tell a validator that can be reached again.
func (s *session) again(to uint64) []*smartbftprotos.Message { return s.said.due(to, s.moment()) }

// past reports whether m is about a block that we have, in a view that we have
// left. The library makes nothing of it but a complaint, where it comes of the
// leader, who says it to those that have not begun the view.
func (s *session) past(m *smartbftprotos.Message) bool {
	p, ok := placeOf(m)
	now := s.moment()
	return ok && p.view < now.joined && p.seq < now.seq
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
