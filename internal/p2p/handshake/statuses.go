package handshake

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/wire"
)

const mostHeard = 100 // statuses that are kept: of more in a second the oldest go

// HeardStatus is what another node, connected with this one or not, told
// everybody of itself. It signed it; nothing of it is proved.
type HeardStatus struct {
	Peer   peer.ID
	At     time.Time // by its clock
	Status wire.NodeStatus
}

// heard holds the newest statuses of others.
type heard struct {
	mu   sync.Mutex // guards below
	ring []HeardStatus
	all  uint64 // that came so far; the newest is in slot (all-1) % mostHeard
}

func (h *heard) add(s HeardStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ring) < mostHeard {
		h.ring = append(h.ring, s)
	} else {
		h.ring[h.all%mostHeard] = s
	}
	h.all++
}

// Statuses returns the statuses of other nodes that came after the first so
// many, oldest first, at most the newest 100, and how many came so far.
func (s *Handshake) Statuses(after uint64) (list []HeardStatus, all uint64) {
	h := &s.told
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := max(after, h.all-uint64(len(h.ring))); i < h.all; i++ {
		list = append(list, h.ring[i%mostHeard])
	}
	return list, h.all
}
