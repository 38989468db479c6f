package consensus

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

const (
	// syncSettles is how long after its last line but one a sync may tell that it
	// informs the view changer.
	syncSettles = 50 * time.Millisecond
	syncHold    = time.Second // for which a new view waits for syncs
)

// confirms keeps a new view back until a quorum says that it got the same one. The
// library takes the word of the leader alone, and votes for the block in flight
// without a round of prepares: a leader that sends two new views has two blocks
// voted for in one view, and where neither gets a quorum, no later view change finds
// one that a quorum does not speak against. It is about going on: that no two blocks
// are decided stands on the votes. So nothing of it is on disk.
type confirms struct {
	mu   sync.Mutex // guards below
	own  confirmation
	held *smartbftprotos.Message // the new view that own is for
	of   map[uint64]confirmation // the last of each other validator
}

// confirmation says that a validator got a new view, and no other one before.
type confirmation struct {
	view uint64
	sum  [sha256.Size]byte // of the view data in it
}

// confirmationOf is what a new view is confirmed by.
func confirmationOf(view uint64, nv *smartbftprotos.NewView) confirmation {
	h := sha256.New()
	put := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	for _, v := range nv.GetSignedViewData() {
		h.Write(binary.BigEndian.AppendUint64(nil, v.GetSigner()))
		put(v.GetRawViewData())
		put(v.GetSignature())
	}
	c := confirmation{view: view}
	h.Sum(c.sum[:0])
	return c
}

// message is the confirmation as it is sent: a prepare of sequence 0, which is no
// block's and never reaches the library.
func (c confirmation) message() *smartbftprotos.Message {
	return &smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{View: c.view, Digest: hex.EncodeToString(c.sum[:])}}}
}

// isConfirmation reports whether m is a confirmation, and whether it is well-formed.
func isConfirmation(m *smartbftprotos.Message) (c confirmation, is, ok bool) {
	p := m.GetPrepare()
	if p == nil || p.Seq != 0 {
		return c, false, false
	}
	c.view = p.View
	n, err := hex.Decode(c.sum[:], []byte(p.Digest[:min(len(p.Digest), 2*len(c.sum))]))
	return c, true, err == nil && n == len(c.sum) && len(p.Digest) == 2*n
}

// take notes a new view, and reports whether we confirm it, which is done once a
// view. Another one of the same view, or an earlier one, is dropped.
func (c *confirms) take(view uint64, m *smartbftprotos.Message) (confirm bool) {
	got := confirmationOf(view, m.GetNewView())
	c.mu.Lock()
	defer c.mu.Unlock()
	if confirm = view > c.own.view; confirm {
		c.own = got
	}
	if c.own == got {
		c.held = m
	}
	return confirm
}

// reset forgets all: the library begins anew, perhaps in an earlier view and with
// another set. What was confirmed in views to come would stand in the way.
func (c *confirms) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own, c.held, c.of = confirmation{}, nil, nil
}

// drop forgets the new view that is held, where its view has begun.
func (c *confirms) drop(view uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own.view <= view {
		c.held = nil
	}
}

// note keeps what another validator confirms. The last counts: it may have begun
// anew in an earlier view.
func (c *confirms) note(from uint64, said confirmation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[uint64]confirmation{}
	}
	c.of[from] = said
}

// ready hands out the new view that is held, once, where a quorum of ids got it: we,
// its leader, and who says so.
func (c *confirms) ready(ids []uint64, quorum int) (leader uint64, m *smartbftprotos.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return 0, nil
	}
	leader = ids[c.own.view%uint64(len(ids))]
	n := 2
	for id, said := range c.of {
		if said == c.own && id != leader && slices.Contains(ids, id) {
			n++
		}
	}
	if n < quorum {
		return 0, nil
	}
	m, c.held = c.held, nil
	return leader, m
}

// confirm takes a new view, tells the others, and hands it over where they got the
// same.
func (s *session) confirm(from uint64, m *smartbftprotos.Message) {
	ids := s.Nodes()
	view, ok := changesTo(m)
	if !ok || view != s.early.joinedView() || from != ids[view%uint64(len(ids))] {
		return // of another view than ours it would keep back all that come before
	}
	if s.confirms.take(view, m) {
		c := confirmationOf(view, m.GetNewView()).message()
		for _, id := range ids {
			if id != s.id {
				s.SendConsensus(id, c)
			}
		}
	}
	s.confirmed()
}

// confirmed hands over the new view that is held, if a quorum got it. While a sync
// lasts it waits: the sync holds the lock that a block in flight is decided under,
// and waits for the view changer, which would wait for that block. It waits for a
// second at most, for whoever leads can make one sync follow the other.
func (s *session) confirmed() {
	if s.syncing.Load() {
		s.holdEnd.within(syncHold, s.handConfirmed)
		return
	}
	s.handConfirmed()
}

func (s *session) handConfirmed() {
	select {
	case <-s.ending:
		return
	default:
	}
	set := s.ledger.Tip().Set
	if leader, m := s.confirms.ready(set.IDs(), set.Quorum()); m != nil && !s.late(leader, m) {
		s.hand(leader, m)
	}
}

// The last lines that the library writes in a sync; one that informs the view changer
// is over with the line that the view changer writes.
const (
	stateCollected = "Node %d collected a valid state: view - %d and seq - %d"
	stateTimeout   = "Node %d reached the state collector timeout"
	informsLine    = "Node %d is informing the view changer of view %d after sync of view %d and seq %d"
	informedOfOld  = "Node %d was informed of view %d, but the current view is %d"
)

// syncLine notes where a sync begins and ends.
func (s *session) syncLine(template string) {
	switch template {
	case syncTaken:
		s.syncEnd.clear()
		s.syncing.Store(true)
	case stateCollected, stateTimeout:
		s.syncEnd.set(syncSettles, s.synced) // no line tells that it informs nobody
	case informsLine:
		s.syncEnd.clear()
		s.syncing.Store(true)
	case informedLine, informedOfOld:
		s.syncEnd.set(0, s.synced)
	}
}

func (s *session) synced() {
	s.syncing.Store(false)
	s.confirmed()
}
