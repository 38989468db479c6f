package handshake

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/wire"
)

const (
	mostHeard = 100             // statuses that are kept
	heardOld  = 2 * time.Second // who asks does so each second: what is older goes first
)

// HeardStatus is what another node, connected with this one or not, told
// everybody of itself. It signed it; nothing of it is proved.
type HeardStatus struct {
	Peer   peer.ID
	At     time.Time // by its clock
	Status wire.NodeStatus
}

// heard holds the newest statuses of others. Ids cost nothing, so that who
// relays statuses of ids that he made up must not leave others without theirs.
type heard struct {
	mu   sync.Mutex // guards below
	list []told     // oldest first
	all  uint64     // that came so far
}

type told struct {
	HeardStatus
	teller peer.ID // the node itself where we know it, else who relayed it: has one share
	came   time.Time
	number uint64 // of all
}

// add keeps a status, and of more than mostHeard lately the last of whoever
// tells the most are kept.
func (h *heard) add(s HeardStatus, teller peer.ID, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all++
	h.list = append(h.list, told{s, teller, now, h.all})
	if len(h.list) <= mostHeard {
		return
	}
	out := 0
	if now.Sub(h.list[0].came) < heardOld {
		count, most := map[peer.ID]int{}, 0
		for _, t := range h.list {
			count[t.teller]++
			most = max(most, count[t.teller])
		}
		out = slices.IndexFunc(h.list, func(t told) bool { return count[t.teller] == most })
	}
	h.list = slices.Delete(h.list, out, out+1)
}

// after lists those after the first n, and how many came so far.
func (h *heard) after(n uint64) (list []HeardStatus, all uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	type turn struct {
		told
		turn int // of those of its teller
	}
	var turns []turn
	count := map[peer.ID]int{}
	for _, t := range h.list {
		if t.number > n {
			turns = append(turns, turn{t, count[t.teller]})
			count[t.teller]++
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.turn, b.turn) })
	for _, t := range turns {
		list = append(list, t.HeardStatus)
	}
	return list, h.all
}

// Statuses returns the statuses of other nodes that came after the first so
// many, at most 100, and how many came so far. Of more, and at the begin of the
// list, each node that we know has the same share, and each peer with what it
// relays of others.
func (s *Handshake) Statuses(after uint64) (list []HeardStatus, all uint64) {
	return s.told.after(after)
}

// tellerOf is who has the share of a status.
func (s *Handshake) tellerOf(origin, from peer.ID) peer.ID {
	s.mu.Lock()
	e := s.peers[origin]
	ready := e != nil && e.peer.Ready
	s.mu.Unlock()
	if ready || s.cfg.Known != nil && s.cfg.Known(origin) {
		return origin
	}
	return from
}
