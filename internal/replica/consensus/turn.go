package consensus

import (
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/consortium"
)

// turnMost bounds each wait around a change of the config.
const turnMost = time.Second

// turn is the step from one config to the next. The library begins new views
// with it and drops what came for the block after the config block, which
// nobody sends again: so that is held back until the step is done.
type turn struct {
	mu     sync.Mutex    // guards below
	height uint64        // of the config block, 0 = none is proposed
	done   chan struct{} // closed when the step is done; nil where height is 0
	met    uint64        // height after which the leader has waited for the new set
}

// begin notes a config block, that is proposed or in the ledger.
func (t *turn) begin(height uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.height == height {
		return
	}
	t.finish()
	t.height, t.done = height, make(chan struct{})
}

// end notes that the library has taken the new config, or that another block
// took the place of the one that was to bring it.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finish()
}

func (t *turn) finish() { // mu held
	if t.height != 0 {
		close(t.done)
		t.height, t.done = 0, nil
	}
}

// hold waits with a message for the block after a config block.
func (t *turn) hold(m *smartbftprotos.Message, ended <-chan struct{}) {
	at, _ := placeOf(m)
	t.mu.Lock()
	height, done := t.height, t.done
	t.mu.Unlock()
	if height == 0 || at.seq <= height {
		return
	}
	most := time.NewTimer(turnMost)
	defer most.Stop()
	select {
	case <-done:
	case <-ended:
	case <-most.C:
	}
}

// once reports whether it is called for the first time at this height.
func (t *turn) once(height uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.met != height
	t.met = height
	return first
}

// meetSet waits before the first block after a config block until the engines
// of the new set are there: one that starts only now would miss the proposal,
// which nobody sends again.
func (s *session) meetSet() {
	height := s.ledger.Tip().Head.Height
	if !s.MembershipChange() || !s.turn.once(height) {
		return
	}
	most := time.NewTimer(turnMost)
	defer most.Stop()
	for !s.peers.allPresent() {
		select {
		case <-s.peers.came:
		case <-s.peers.ended:
			return
		case <-most.C:
			return
		}
	}
}

// allPresent reports whether every other validator that we are connected to
// runs its engine, as its stream to us shows, and can be reached.
func (p *peers) allPresent() bool {
	var ready map[peer.ID]uint64
	if p.engine.cfg.Heads != nil {
		ready = p.engine.cfg.Heads()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.out {
		if _, ok := ready[o.to]; !ok && ready != nil {
			continue
		}
		if p.inbound[o.to] == nil || !o.isUp() {
			return false
		}
	}
	return true
}

// change reports whether a proposal that was judged holds a config record.
func (p *piece) change() bool {
	return len(p.records) == 1 && p.records[0].Kind == consortium.KindConfig
}
