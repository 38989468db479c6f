package gossip

import (
	"reflect"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxSeen   = 2048    // messages whose way is remembered
	maxHops   = 32      // of one of them, then they are counted
	tailQueue = 1024    // messages that wait for one tail
	tailBytes = 4 << 20 // of their data, or one message
	maxReason = 200     // bytes
)

// What becomes of a message.
const (
	VerdictPending = "pending"
	VerdictAccept  = "accept"
	VerdictIgnore  = "ignore"
	VerdictReject  = "reject"
	VerdictDropped = "dropped" // by a full queue, before it was judged
)

// What a hop is.
const (
	HopFirst     = "first"     // the peer brought the message first
	HopDuplicate = "duplicate" // and this one again
	HopSent      = "sent"      // it was sent to the peer
)

// Hop is one coming or going of a message.
type Hop struct {
	Peer peer.ID
	What string
	At   time.Time
}

// Seen is a message that came by, or that is ours.
type Seen struct {
	ID      string // as pubsub has it: bytes
	Topic   string // our name
	Size    int    // bytes, with the envelope of a claim
	Own     bool
	From    peer.ID // who brought it first; ourselves for our own
	At      time.Time
	Verdict string
	Reason  string // of a verdict that is not accept
	Judged  time.Time
	Hops    []Hop // in their order
	More    int   // hops that are not kept
}

// sighting is a message that is remembered.
type sighting struct {
	Seen
	message address
}

// address tells a message of pubsub that lives from all others that do. One
// whose memory is another's now was seen before that one.
type address uintptr

func addressOf(m *pb.Message) address { return address(reflect.ValueOf(m).Pointer()) } // does not keep its data

// seen remembers the ways of the newest messages, and gives them to those who
// follow, once judged. It is called in pubsub's loop and never waits.
type seen struct {
	mu    sync.Mutex // guards below
	byID  map[string]*sighting
	byMsg map[address]*sighting
	ring  []*sighting // maxSeen of them, then the oldest gives way, with its memory
	next  int         // in ring
	tails map[*Tail]struct{}
}

func newSeen() *seen {
	return &seen{byID: map[string]*sighting{}, byMsg: map[address]*sighting{}, tails: map[*Tail]struct{}{}}
}

// arrived notes the first coming of a message, which may be our own.
func (s *seen) arrived(m *pubsub.Message, topic string, own bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byID[m.ID]; old != nil { // ours that nobody took before
		s.forget(old)
	}
	n := s.place()
	n.message = addressOf(m.Message)
	n.Seen = Seen{ID: m.ID, Topic: topic, Size: len(m.GetData()), Own: own, From: m.ReceivedFrom, At: now, Verdict: VerdictPending, Hops: n.Hops[:0]}
	if !own {
		n.hop(Hop{m.ReceivedFrom, HopFirst, now})
	}
	s.byID[m.ID], s.byMsg[n.message] = n, n
}

// place is for the next message. mu held.
func (s *seen) place() *sighting {
	if len(s.ring) < maxSeen {
		s.ring = append(s.ring, &sighting{})
		return s.ring[len(s.ring)-1]
	}
	n := s.ring[s.next]
	s.next = (s.next + 1) % maxSeen
	s.forget(n)
	return n
}

func (s *seen) forget(old *sighting) { // mu held
	if s.byID[old.ID] == old {
		delete(s.byID, old.ID)
	}
	if s.byMsg[old.message] == old {
		delete(s.byMsg, old.message)
	}
}

func (s *seen) came(m *pubsub.Message, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byID[m.ID]; n != nil {
		n.hop(Hop{m.ReceivedFrom, HopDuplicate, now})
	}
}

func (s *seen) sent(list []*pb.Message, to peer.ID, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range list {
		if n := s.byMsg[addressOf(m)]; n != nil {
			n.hop(Hop{to, HopSent, now})
		}
	}
}

func (n *sighting) hop(h Hop) {
	if len(n.Hops) >= maxHops {
		n.More++
		return
	}
	n.Hops = append(n.Hops, h)
}

// judged notes the verdict, the first of which counts, and tells who follows.
func (s *seen) judged(m *pubsub.Message, verdict, reason string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[m.ID]
	if n == nil || n.Verdict != VerdictPending {
		return
	}
	n.Verdict, n.Judged = verdict, now
	if verdict != VerdictAccept {
		n.Reason = reason[:min(len(reason), maxReason)]
	}
	for t := range s.tails {
		t.add(n.Seen, m.GetData())
	}
}

// Trace tells the way of one of the newest messages, of which 2,048 are
// remembered, by its id in bytes.
func (g *Gossip) Trace(id string) (Seen, bool) {
	s := g.tracer.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byID[id]
	if n == nil {
		return Seen{}, false
	}
	way := n.Seen
	way.Hops = slices.Clone(n.Hops)
	return way, true
}

// Tail follows messages as they are judged, our own included. Its methods are
// for one goroutine.
type Tail struct {
	seen   *seen
	topics []string // none = all
	data   bool
	wake   chan struct{} // holds one

	list  []Judged // guarded by seen's mu, as all below
	bytes int
	lost  int
}

// Judged is a message that was. Data, which MUST NOT be changed, is there for an
// accepted one where it was asked for. One without an ID is none: it tells how
// many were left out while no other came.
type Judged struct {
	Seen // without its hops
	Data []byte
	Lost int // messages left out before it, since nobody took them in time
}

// Follow begins with what is judged next, of topics by our names, none of which
// need be served; no names: of all. The caller MUST Close it.
func (g *Gossip) Follow(topics []string, data bool) *Tail {
	s := g.tracer.seen
	t := &Tail{seen: s, topics: topics, data: data, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tails[t] = struct{}{}
	return t
}

func (t *Tail) add(n Seen, data []byte) { // mu held
	if len(t.topics) > 0 && !slices.Contains(t.topics, n.Topic) {
		return
	}
	j := Judged{Seen: n, Lost: t.lost}
	j.Hops = nil
	if t.data && n.Verdict == VerdictAccept {
		j.Data = data
	}
	if len(t.list) >= tailQueue || t.bytes > 0 && t.bytes+len(j.Data) > tailBytes {
		t.lost++
		return
	}
	t.lost = 0
	t.list, t.bytes = append(t.list, j), t.bytes+len(j.Data)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Wake yields when there is something to Take.
func (t *Tail) Wake() <-chan struct{} { return t.wake }

// Take returns what was judged since, and last how much of it was left out.
func (t *Tail) Take() []Judged {
	t.seen.mu.Lock()
	defer t.seen.mu.Unlock()
	list := t.list
	if t.lost > 0 {
		list = append(list, Judged{Lost: t.lost})
	}
	t.list, t.bytes, t.lost = nil, 0, 0
	return list
}

// Close ends it.
func (t *Tail) Close() {
	t.seen.mu.Lock()
	defer t.seen.mu.Unlock()
	delete(t.seen.tails, t)
}
