package consensus

import (
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

const (
	helpEvery = 250 * time.Millisecond
	helpMost  = 20 // times for one view; also two that help each other come to an end
)

// help brings those up that are views behind us. The library takes a vote for a
// view change to the very next view only, and after a restart in the middle of a
// view change it no longer helps others to get there: validators that are spread
// over three views never meet again.
type help struct {
	mu   sync.Mutex // guards last
	last map[uint64]helped
}

type helped struct {
	view  uint64
	count int
	at    time.Time
}

// due reports whether to help a validator to a view now.
func (h *help) due(id, view uint64, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		h.last = map[uint64]helped{}
	}
	l := h.last[id]
	if l.view != view {
		l = helped{view: view}
	}
	if l.count >= helpMost || now.Sub(l.at) < helpEvery {
		return false
	}
	h.last[id] = helped{view, l.count + 1, now}
	return true
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
	if s.help.due(id, v.NextView, time.Now()) {
		s.peers.send(id, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: v.NextView}}})
	}
	return true
}
