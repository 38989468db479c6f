package consensus

import (
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
	if v == nil || v.NextView > s.early.joinedView() {
		return false
	}
	if s.help.due(id, time.Now()) {
		s.peers.send(id, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: v.NextView}}})
	}
	return true
}
