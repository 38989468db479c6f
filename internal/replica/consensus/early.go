package consensus

import (
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"
)

// The lines by which the library's view changer tells that it is in a view, so
// that it takes what is said about it.
const (
	joinedLine   = "Node %d sent view data msg, with next view %d, to the new leader %d"
	informedLine = "Node %d was informed of a new view %d"
)

const (
	// heldPerValidator bounds what is kept of one validator: its view data, or
	// its new view, and a proposal with the votes on it and on the next one.
	heldPerValidator = 8
	heldVote         = 4 << 10     // bytes of a vote
	earlyViews       = 16          // ahead of ours; who is further behind syncs
	viewSettles      = time.Second // in which what began before a view can still end
)

// early keeps what others say of a view before this node is in it. The library
// would drop that, and nobody says it again: the view change, or the first
// block after it, would wait for a timeout.
type early struct {
	mu     sync.Mutex // guards below
	joined uint64     // view that the view changer is in, or is changing to
	begun  uint64     // view in which blocks are ordered
	since  time.Time  // when it began here
	decide bool       // the view for the block in flight takes votes
	held   []heldMessage
}

type heldMessage struct {
	from uint64
	view uint64
	vote bool // a proposal or a vote on it, for the view that has begun
	last bool // a vote for the block in flight of a view that is to begin
	m    *smartbftprotos.Message
}

// changesTo is the view that one has to be in for m, ok only for what belongs to
// a view change.
func changesTo(m *smartbftprotos.Message) (view uint64, ok bool) {
	if v := m.GetViewChange(); v != nil && v.NextView > 0 {
		return v.NextView - 1, true
	}
	signed := m.GetViewData()
	if n := m.GetNewView(); n != nil && len(n.GetSignedViewData()) > 0 {
		signed = n.GetSignedViewData()[0]
	}
	data := &smartbftprotos.ViewData{}
	if signed == nil || proto.Unmarshal(signed.GetRawViewData(), data) != nil {
		return 0, false
	}
	return data.GetNextView(), true
}

// place is where a block is ordered.
type place struct{ view, seq uint64 }

// placeOf is the place of a proposal or of a vote on it, ok only for these.
func placeOf(m *smartbftprotos.Message) (p place, ok bool) {
	switch c := m.GetContent().(type) {
	case *smartbftprotos.Message_PrePrepare:
		return place{c.PrePrepare.GetView(), c.PrePrepare.GetSeq()}, true
	case *smartbftprotos.Message_Prepare:
		return place{c.Prepare.GetView(), c.Prepare.GetSeq()}, true
	case *smartbftprotos.Message_Commit:
		return place{c.Commit.GetView(), c.Commit.GetSeq()}, true
	}
	return place{}, false
}

// hold keeps m and returns true if it comes too early. It takes view data only
// for a view that self leads, and new views and proposals only from the leader.
func (e *early) hold(from uint64, m *smartbftprotos.Message, self uint64, ids []uint64) bool {
	at, vote := placeOf(m)
	view := at.view
	if !vote {
		var ok bool
		if view, ok = changesTo(m); !ok {
			return false
		}
	}
	leader := ids[view%uint64(len(ids))]
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case vote && (view <= e.begun || view != e.joined): // a view change that we are not in is the library's matter
		return false
	case !vote && (view <= e.joined || view > e.joined+earlyViews):
		return false
	case vote && m.GetPrePrepare() == nil && proto.Size(m) > heldVote:
		return false
	case m.GetViewData() != nil && leader != self, (m.GetNewView() != nil || m.GetPrePrepare() != nil) && leader != from:
		return false
	}
	e.keep(heldMessage{from, view, vote, false, m})
	return true
}

// holdVote is hold for a vote: v is what is signed, and view the one in which the
// library counts votes for that block, where counts. The library looks at the view
// of the proposal alone, and takes one vote of a validator: so a vote of another
// view than the one that decides would keep the right one out. What can not count
// any more is held for ever: dropped.
func (e *early) holdVote(from uint64, m *smartbftprotos.Message, v ownVote, view uint64, counts bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	changes, proposed := e.begun < e.joined, m.GetCommit().GetView()
	again := v.view > proposed // for a block that a new view brings
	switch {
	case counts && v.view == view && (!again || !changes || e.decide):
		return false
	case counts && v.view < view, v.view < proposed:
	case again:
		soon := v.view == e.joined && changes || v.view > e.joined && v.view <= e.joined+earlyViews
		if soon && proto.Size(m) <= heldVote {
			e.keep(heldMessage{from, v.view, false, true, m})
		}
	case changes && proposed < e.joined: // of the view that we leave
	case proposed <= e.begun || proposed != e.joined || proto.Size(m) > heldVote: // a view that we are not in is the library's matter
		return false
	default:
		e.keep(heldMessage{from, proposed, true, false, m})
	}
	return true
}

// changing reports whether we left a view and no other one has begun.
func (e *early) changing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun < e.joined
}

// keep holds a message; mu held.
func (e *early) keep(h heldMessage) {
	e.makeRoom(h.from, h.m, h.last)
	e.held = append(e.held, h)
}

// makeRoom drops what m takes the place of, and the oldest of a validator that
// has too many; mu held.
func (e *early) makeRoom(from uint64, m *smartbftprotos.Message, last bool) {
	n := 0
	for _, h := range e.held {
		if h.from == from {
			n++
		}
	}
	e.held = slices.DeleteFunc(e.held, func(h heldMessage) bool {
		if h.from != from {
			return false
		}
		same := last && h.last || m.GetViewData() != nil && h.m.GetViewData() != nil || m.GetNewView() != nil && h.m.GetNewView() != nil ||
			m.GetPrePrepare() != nil && h.m.GetPrePrepare() != nil || m.GetViewChange() != nil && h.m.GetViewChange() != nil
		if n >= heldPerValidator && !same {
			n--
			return true
		}
		return same
	})
}

// at notes that the view changer is in joined and blocks are ordered in begun,
// and returns what was held until then, in the order in which it came.
func (e *early) at(joined, begun uint64) (due []heldMessage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.joined = max(e.joined, joined)
	if begun > e.begun {
		e.begun, e.since = begun, time.Now()
	}
	e.held = slices.DeleteFunc(e.held, func(h heldMessage) bool {
		if h.last {
			return h.view < e.joined || h.view <= e.begun
		}
		reached := e.joined
		if h.vote {
			reached = e.begun
		}
		if h.view == reached {
			due = append(due, h)
		}
		return h.view <= reached
	})
	return due
}

// deciding notes whether the view for the block in flight takes votes, and returns
// those that came before it did.
func (e *early) deciding(on bool) (due []heldMessage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.decide = on
	if on {
		e.held = slices.DeleteFunc(e.held, func(h heldMessage) bool {
			if now := h.last && h.view == e.joined; now {
				due = append(due, h)
				return true
			}
			return false
		})
	}
	return due
}

// restart notes that the library begins with a view, at a reconfiguration
// perhaps an earlier one than before.
func (e *early) restart(view uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.joined, e.begun, e.since = view, view, time.Now()
}

// changes reports whether the view changes, or began a moment ago.
func (e *early) changes(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.joined > e.begun || now.Sub(e.since) < viewSettles
}

// views are the one that the view changer is in, and the one that has begun.
func (e *early) views() (joined, begun uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.joined, e.begun
}

func (e *early) joinedView() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.joined
}

func (e *early) begunView() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun
}

// reached hands over what came early. It is called in goroutines of the library
// that have to take the messages themselves.
func (s *session) reached(joined, begun uint64) { s.handOver(s.early.at(joined, begun)) }

func (s *session) handOver(due []heldMessage) {
	if len(due) == 0 {
		return
	}
	s.log.Debug("early messages handed over", "view", due[0].view, "count", len(due))
	s.work.Go(func() {
		for _, h := range due {
			s.give(h.from, h.m)
		}
	})
}

// give hands a message to the library.
func (s *session) give(from uint64, m *smartbftprotos.Message) {
	if s.forgedView(from, m) {
		s.log.Debug("forged view data dropped", "validator", from)
		return
	}
	switch {
	case s.late(from, m), s.isOver(m):
	case m.GetNewView() != nil:
		s.confirm(from, m)
	default:
		s.hand(from, m)
	}
}

// hand hands a message to the library, whatever it is.
func (s *session) hand(from uint64, m *smartbftprotos.Message) {
	s.gate.enter()
	defer s.gate.leave()
	s.bft.HandleMessage(from, m)
}

// late reports whether m is a new view that comes late: it may have been held.
func (s *session) late(from uint64, m *smartbftprotos.Message) bool {
	height := s.ledger.Tip().Head.Height
	late := outdated(m, height, s.view.Load())
	if late {
		s.log.Debug("outdated new view dropped", "validator", from, "height", height)
	}
	return late
}

// dropNewViews forgets the new views up to one that a sync begins.
func (e *early) dropNewViews(view uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = slices.DeleteFunc(e.held, func(h heldMessage) bool { return h.view <= view && h.m.GetNewView() != nil })
}
