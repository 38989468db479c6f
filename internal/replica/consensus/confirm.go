package consensus

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"
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
// are decided stands on the votes.
type confirms struct {
	mu   sync.Mutex // guards below
	own  confirmation
	held *smartbftprotos.Message // the new view that own is for, until it is handed over
	made *smartbftprotos.Message // the last that we sent as its leader
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

// take holds a new view that the ballot has, and reports whether it comes for the
// first time in this session. The library gets it once: it would take another one for
// a new view after the first, and the controller, that it tells of both, may take none.
func (c *confirms) take(got confirmation, m *smartbftprotos.Message) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == got {
		return false
	}
	c.own, c.held = got, m
	return true
}

// isMade reports whether m was sent to another already, and notes it.
func (c *confirms) isMade(m *smartbftprotos.Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := c.made == m
	c.made = m
	return is
}

// reset forgets all: the library begins anew, perhaps in an earlier view and with
// another set.
func (c *confirms) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own, c.held, c.made, c.of = confirmation{}, nil, nil, nil
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
	if s.refusesBlockOf(view, m.GetNewView()) {
		s.log.Debug("new view with a block in flight that we may not vote for dropped", "view", view)
		return
	}
	c := confirmationOf(view, m.GetNewView())
	if !s.standByNewView(c) {
		s.log.Debug("another new view of a view dropped", "view", view)
		return
	}
	if s.confirms.take(c, m) {
		for _, id := range ids {
			if id != s.id {
				s.SendConsensus(id, c.message())
			}
		}
	}
	s.confirmed()
}

// standByNewView writes to the log that we confirm a new view, or send it as its
// leader, and reports whether we may: there is one of a view.
func (s *session) standByNewView(c confirmation) bool {
	select {
	case <-s.ending:
		return false
	default:
	}
	seq := s.ledger.Tip().Head.Height + 1
	ok, again := s.ballot.confirm(c, seq)
	if !ok || again {
		return ok
	}
	m := c.message()
	m.GetPrepare().Seq = seq // it stays at home: see recall
	raw, err := proto.Marshal(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_Commit{Commit: m}})
	if err == nil {
		err = s.wal.Append(raw, false)
	}
	if err == nil {
		return true
	}
	select {
	case <-s.ending: // the log may be closed
	default:
		s.die("keep a confirmation: " + err.Error())
	}
	return false
}

// withoutConfirmations is the log as the library knows it.
func withoutConfirmations(entries [][]byte) (known [][]byte) {
	for _, raw := range entries {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(raw, m); err != nil || m.GetCommit().GetPrepare() == nil { // resume tells of the error
			known = append(known, raw)
		}
	}
	return known
}

// makes is asked before a new view of ours is sent. It ends the view changer where we
// sent another one of that view, or confirmed one of a later view.
func (s *session) makes(m *smartbftprotos.Message) {
	if s.confirms.isMade(m) {
		return
	}
	view, _ := changesTo(m)
	if s.standByNewView(confirmationOf(view, m.GetNewView())) {
		return
	}
	s.log.Debug("no second new view of a view", "view", view)
	s.anew(whyVote)
	runtime.Goexit()
}

// isOver reports whether m is view data for a view that has begun, or that we have
// left, or whose new view we have sent: the library would make another one of them.
func (s *session) isOver(m *smartbftprotos.Message) bool {
	if m.GetViewData() == nil {
		return false
	}
	view, ok := changesTo(m)
	return ok && (view <= s.view.Load() || s.ballot.passed(view, s.ledger.Tip().Head.Height+1))
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
