package consensus

import (
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// A validator is helped so often in so long: more than its own votes, and few
// enough that two who help each other come to an end. They are told by nothing
// else: an answer looks like a vote, and those for several views go round at once.
const (
	helpMost = 20
	helpSpan = 10 * time.Second
)

// help brings those up that are views behind us. The library takes a vote for a
// view change to the very next view only, and after a restart in the middle of a
// view change it no longer helps others to get there: validators that are spread
// over three views never meet again.
type help struct {
	mu   sync.Mutex // guards last
	last map[uint64]helped
}

// helped counts what a validator got since a moment.
type helped struct {
	since time.Time
	count int
}

// due reports whether to help a validator now, which counts.
func (h *help) due(id uint64, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		h.last = map[uint64]helped{}
	}
	l := h.last[id]
	if now.Sub(l.since) >= helpSpan {
		l = helped{since: now}
	}
	l.count++
	h.last[id] = l
	return l.count <= helpMost
}

// bringUp answers a vote for a change to a view that we have reached with the
// same, and reports whether m is one: we have left what is before it, and a view
// begins by signed view data and never by such votes. The library must not see
// it. It would tell all, and two that help tell each other without end.
func (s *session) bringUp(id uint64, m *smartbftprotos.Message) bool {
	v := m.GetViewChange()
	if v == nil {
		return false
	}
	s.asked.note(id, v.NextView)
	if view, yes := s.passes(); yes {
		s.pass(view)
	}
	if v.NextView > s.early.joinedView() {
		return false
	}
	if s.help.due(id, time.Now()) {
		s.peers.send(id, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: v.NextView}}})
	}
	return true
}

// asked are the latest views that others asked for.
type asked struct {
	mu   sync.Mutex // guards below
	next map[uint64]uint64
	on   uint64 // view that we asked to leave at once
}

// note keeps what a validator asks for: it has left all views before that but one.
func (a *asked) note(id, next uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = map[uint64]uint64{}
	}
	a.next[id] = max(a.next[id], next)
}

// beyond is how many of ids asked for a view after view.
func (a *asked) beyond(view uint64, ids []uint64) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, next := range a.next {
		if next > view && slices.Contains(ids, id) {
			n++
		}
	}
	return n
}

// once reports whether it is called for the first time for a view.
func (a *asked) once(view uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := a.on != view
	a.on = view
	return first
}

// reset forgets all: the library begins anew, perhaps in an earlier view.
func (a *asked) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next, a.on = nil, 0
}

// passes reports, once, whether to ask for the next view without waiting for the one
// that we are changing to: we have left it by view data for a later one, or more
// than the faulty ask for a later one. Else all who lost their power in a late view
// would wait for each view up to that until a timeout, longer each time, and begin
// anew before they got there.
func (s *session) passes() (view uint64, yes bool) {
	joined, begun := s.early.views()
	if joined <= begun || s.settling.Load() {
		return 0, false
	}
	set := s.ledger.Tip().Set
	left, _ := s.ballot.stands()
	return joined, (left > joined || s.asked.beyond(joined, set.IDs()) > set.Faults()) && s.asked.once(joined)
}

// leftView reports whether m is view data for a view that we have left by view data
// for a later one. We may not vote in it, so who needs these to begin it needs a vote
// that we do not give, and would wait for it.
func (s *session) leftView(m *smartbftprotos.Message) bool {
	view, ok := changesTo(m)
	left, _ := s.ballot.stands()
	return ok && view < left
}

// pass asks for the view after one.
func (s *session) pass(view uint64) {
	s.log.Debug("view passed over", "view", view)
	s.gate.enter()
	defer s.gate.leave()
	s.bft.Complain(view, false)
}

// joined is called by the view changer when it has sent its view data.
func (s *session) joined() {
	if view, yes := s.passes(); yes {
		s.work.Go(func() { s.pass(view) })
	}
}
