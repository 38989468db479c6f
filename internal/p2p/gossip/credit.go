package gossip

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Bounds of what waits for one peer. A queue of pubsub holds 4,096 RPCs and
// drops silently when full; our own messages take at most a quarter of it.
const (
	maxWaiting      = 1_024
	maxWaitingBytes = 4 << 20 // of ours, and of all for a peer that reads nothing
	mostQueuedBytes = 16 << 20
	readsNothing    = 10 * time.Second // who judges slowly reads so, and flow control tells of it 128 KiB at a time or more
)

// credit counts the messages that stand in the queues of peers, and our own
// among them. pubsub tells what enters a queue and the stream what leaves it;
// the two are matched by order, which a queue keeps among RPCs that carry
// messages.
type credit struct {
	mu    sync.Mutex // guards below
	lanes map[peer.ID]*lane
}

// lane is the queue of one peer.
type lane struct {
	in, out uint64    // RPCs with messages that entered and left; out may be ahead for a moment
	waiting []stamp   // those not yet out, in order
	bytes   int       // of all of them
	own     int       // how many of them have messages of ours
	ours    int       // bytes of these messages
	moved   time.Time // when one left last, or came to an empty queue
	used    bool      // has ever had one of ours
	cut     bool      // its stream is being reset
}

type stamp struct {
	at          uint64 // value of in
	bytes, ours int
}

func newCredit() *credit { return &credit{lanes: map[peer.ID]*lane{}} }

func (c *credit) lane(p peer.ID) *lane { // mu held
	l := c.lanes[p]
	if l == nil {
		l = &lane{}
		c.lanes[p] = l
	}
	return l
}

// queued notes that an RPC with messages entered p's queue; ours are the bytes
// of our own in it, 0 = none. cut is told once of a queue: so much waits for p
// that its stream is to be reset.
func (c *credit) queued(p peer.ID, bytes, ours int, now time.Time) (cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lane(p)
	l.in++
	if l.in <= l.out {
		return false
	}
	if len(l.waiting) == 0 {
		l.moved = now
	}
	l.waiting = append(l.waiting, stamp{l.in, bytes, ours})
	l.bytes += bytes
	if ours > 0 {
		l.own++
		l.ours += ours
		l.used = true
	}
	over := l.bytes > mostQueuedBytes || l.bytes > maxWaitingBytes && now.Sub(l.moved) >= readsNothing
	if !over || l.cut || len(l.waiting) == 1 { // one alone may be as large as the network has them
		return false
	}
	l.cut = true
	return true
}

// follows reports whether behind n RPCs with messages that have left p's queue
// and are not written another one waits in it.
func (c *credit) follows(p peer.ID, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lanes[p]
	return l != nil && l.in > l.out+uint64(n)
}

// written notes that n RPCs with messages were written to p.
func (c *credit) written(p peer.ID, n int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lane(p)
	l.out += uint64(n)
	l.moved = now
	for len(l.waiting) > 0 && l.waiting[0].at <= l.out {
		first := l.waiting[0]
		l.bytes -= first.bytes
		if first.ours > 0 {
			l.own--
			l.ours -= first.ours
		}
		l.waiting = l.waiting[1:]
	}
}

// clear forgets the queue of p, which is gone.
func (c *credit) clear(p peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lanes, p)
}

// busy reports whether more than half of the peers lag: a minority that does
// not read cannot silence us, it only loses messages of its own.
func (c *credit) busy() bool { return c.most(maxWaiting, maxWaitingBytes) }

// most reports whether for more than half of the peers more than so many of our
// messages wait, or bytes of them.
func (c *credit) most(messages, bytes int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	lag, all := 0, 0
	for _, l := range c.lanes {
		if !l.used {
			continue
		}
		all++
		if l.own > messages || l.ours > bytes {
			lag++
		}
	}
	return 2*lag > all
}

// carriesMessages reports whether b, a length and an RPC in protobuf, begins
// with a message. pubsub puts nothing before messages into the same RPC.
func carriesMessages(b []byte) bool {
	_, n := binary.Uvarint(b)
	return n > 0 && len(b) > n && b[n] == publishTag
}

const publishTag = 2<<3 | 2 // begins a message in an RPC
