package gossip

import (
	"encoding/binary"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Bounds of what waits for one peer. A queue of pubsub holds 4,096 RPCs and
// drops silently when full; our own messages take at most a quarter of it.
const (
	maxWaiting      = 1_024
	maxWaitingBytes = 4 << 20
)

// credit counts our own messages that stand in the queues of peers. pubsub
// tells what enters a queue and the stream what leaves it; the two are matched
// by order, which a queue keeps among RPCs that carry messages.
type credit struct {
	mu    sync.Mutex // guards below
	lanes map[peer.ID]*lane
}

// lane is the queue of one peer.
type lane struct {
	in, out uint64  // RPCs with messages that entered and left; out may be ahead for a moment
	own     []stamp // ours among those not yet out, in order
	bytes   int     // of own
	used    bool    // has ever had one of ours
}

type stamp struct {
	at    uint64 // value of in
	bytes int
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

// queued notes that an RPC with messages entered p's queue; own are the bytes
// of ours in it, 0 = none.
func (c *credit) queued(p peer.ID, own int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lane(p)
	l.in++
	if own > 0 && l.in > l.out {
		l.own = append(l.own, stamp{l.in, own})
		l.bytes += own
		l.used = true
	}
}

// written notes that an RPC with messages was written to p.
func (c *credit) written(p peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lane(p)
	l.out++
	for len(l.own) > 0 && l.own[0].at <= l.out {
		l.bytes -= l.own[0].bytes
		l.own = l.own[1:]
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
func (c *credit) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	lag, all := 0, 0
	for _, l := range c.lanes {
		if !l.used {
			continue
		}
		all++
		if len(l.own) > maxWaiting || l.bytes > maxWaitingBytes {
			lag++
		}
	}
	return 2*lag > all
}

// carriesMessages reports whether b, a length and an RPC in protobuf, begins
// with a message. pubsub puts nothing before messages into the same RPC.
func carriesMessages(b []byte) bool {
	_, n := binary.Uvarint(b)
	return n > 0 && len(b) > n && b[n] == 2<<3|2 // field publish
}
