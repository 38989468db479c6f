package event

import (
	"sync"
	"time"
)

// Envelope is an event with its place in the order of events.
type Envelope struct {
	V    int       `json:"v"` // 1
	Seq  uint64    `json:"seq"`
	TS   time.Time `json:"ts"`
	Type string    `json:"type"`
	Data Event     `json:"data"`
}

// Bus carries events from who publishes to who subscribes. It keeps the newest
// ones in a ring, and each subscriber reads at its own pace: a publisher never
// waits, and a subscriber that falls behind the ring is told how many it
// missed. Of [PeerSampled], which may be large, it keeps the newest alone: an
// older one is neither read nor missed. All methods are safe for concurrent use.
type Bus struct {
	mu    sync.Mutex // guards below; nothing blocks under it
	ring  []Envelope // slot seq % len
	next  uint64     // seq of the next event
	first uint64     // seq of the first event ever
	peers uint64     // seq of the newest PeerSampled; 0 = none
	subs  map[*Subscription]struct{}
}

// NewBus returns a bus that keeps the last history events. Numbers start at
// unix seconds × 2²⁰, with their fraction, so that they rise over restarts, of
// which there may be two in a second, and fit 2⁵³.
func NewBus(history int) *Bus {
	now := time.Now()
	start := uint64(now.Unix())<<20 + uint64(now.Nanosecond())<<20/uint64(time.Second)
	return &Bus{ring: make([]Envelope, max(history, 64)), next: start, first: start, subs: map[*Subscription]struct{}{}}
}

// Publish gives each event the next number and wakes the subscribers. Publish
// after the fact is on disk: whoever acts on an event re-reads the keeper.
func (b *Bus) Publish(events ...Event) {
	now := time.Now().UTC()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range events {
		if _, is := e.(PeerSampled); is {
			b.newSample()
		}
		b.ring[b.next%uint64(len(b.ring))] = Envelope{V: 1, Seq: b.next, TS: now, Type: e.Type(), Data: e}
		b.next++
	}
	for s := range b.subs {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// newSample forgets the sample before that which gets the next number.
func (b *Bus) newSample() { // mu held
	if b.peers != 0 && b.peers >= b.oldest() {
		b.ring[b.peers%uint64(len(b.ring))].Data = nil
	}
	b.peers = b.next
}

// Seq is the number of the newest event, or one below the first.
func (b *Bus) Seq() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next - 1
}

// Count counts the events in [from, to) whose type is wanted, and all of them
// that the ring has lost.
func (b *Bus) Count(from, to uint64, wanted func(eventType string) bool) uint64 {
	b.mu.Lock()
	oldest := b.oldest()
	from, to = max(from, b.first), min(to, b.next)
	n := max(min(oldest, to), from) - from
	var types []string
	for seq := max(from, oldest); seq < to; seq++ {
		if e := b.ring[seq%uint64(len(b.ring))]; e.Data != nil {
			types = append(types, e.Type)
		}
	}
	b.mu.Unlock()
	for _, t := range types { // a pattern may take its time
		if wanted(t) {
			n++
		}
	}
	return n
}

// Subscribe reads from now on. The caller MUST Close the subscription.
func (b *Bus) Subscribe() *Subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.subscribe(b.next)
}

// SubscribeSince reads the events after seq. It reports false, and reads from
// now on, where seq is not within what the ring still holds.
func (b *Bus) SubscribeSince(seq uint64) (*Subscription, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if seq+1 < b.oldest() || seq >= b.next {
		return b.subscribe(b.next), false
	}
	return b.subscribe(seq + 1), true
}

// SubscribeAll reads every event since the start, the first of which has the
// number first. What the ring has lost of them the first Take counts.
func (b *Bus) SubscribeAll() (s *Subscription, first uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.subscribe(b.first), b.first
}

// SubscribeAfter reads every event after the number seq. What the ring has lost
// of them the first Take counts.
func (b *Bus) SubscribeAfter(seq uint64) *Subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.subscribe(min(max(seq+1, b.first), b.next))
}

func (b *Bus) subscribe(cursor uint64) *Subscription { // mu held
	s := &Subscription{bus: b, wake: make(chan struct{}, 1), cursor: cursor}
	if cursor < b.next {
		s.wake <- struct{}{}
	}
	b.subs[s] = struct{}{}
	return s
}

func (b *Bus) oldest() uint64 { // mu held
	if n := uint64(len(b.ring)); b.next-b.first > n {
		return b.next - n
	}
	return b.first
}

// Subscription is one reader of a bus. Its methods are for one goroutine.
type Subscription struct {
	bus    *Bus
	wake   chan struct{}
	cursor uint64 // guarded by bus.mu: seq of the next event to read
}

// Wake yields whenever there may be something to Take.
func (s *Subscription) Wake() <-chan struct{} { return s.wake }

// Take returns up to max events in order, and how many were lost before the
// first of them. When it returns max events, Wake yields again.
func (s *Subscription) Take(max int) (events []Envelope, lost int) {
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if oldest := b.oldest(); s.cursor < oldest {
		lost = int(oldest - s.cursor)
		s.cursor = oldest
	}
	if n := min(int(b.next-s.cursor), max); n > 0 {
		events = make([]Envelope, 0, n)
	}
	for ; s.cursor < b.next && len(events) < max; s.cursor++ {
		if e := b.ring[s.cursor%uint64(len(b.ring))]; e.Data != nil {
			events = append(events, e)
		}
	}
	if s.cursor < b.next {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return events, lost
}

// Behind is the count of events that wait to be taken.
func (s *Subscription) Behind() int {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return int(s.bus.next - s.cursor)
}

// Close ends the subscription. Wake yields no more.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	delete(s.bus.subs, s)
}
