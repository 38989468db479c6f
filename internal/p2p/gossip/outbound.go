package gossip

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	sentTogether = 16 << 10             // bytes of RPCs in one write
	heldAtMost   = 2 * time.Millisecond // should none follow after all
)

// outbound is a stream that pubsub writes RPCs to, one Write an RPC, and
// resets in the end whatever happened. While others wait behind one they go out
// together: each write costs both ends a frame and a wakeup.
type outbound struct {
	network.Stream
	credit *credit
	peer   peer.ID
	over   func(*outbound) // it is not held any more
	late   *time.Timer

	mu       sync.Mutex // held while something is written; guards below
	held     []byte     // RPCs that wait for the next one; of heldBuffers
	messages int        // RPCs of them that carry messages
	err      error      // of what was written late
}

var heldBuffers = sync.Pool{New: func() any { return new([sentTogether]byte) }}

func newOutbound(st network.Stream, c *credit, p peer.ID, over func(*outbound)) *outbound {
	o := &outbound{Stream: st, credit: c, peer: p, over: over}
	o.late = time.AfterFunc(heldAtMost, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if err := o.flush(nil); err != nil && o.err == nil {
			o.err = err
		}
	})
	return o
}

func (o *outbound) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	if len(o.held)+len(b) > sentTogether {
		if err := o.flush(nil); err != nil {
			return 0, err
		}
	}
	if carriesMessages(b) {
		o.messages++
	}
	if len(b) <= sentTogether && o.credit.follows(o.peer, o.messages) {
		if o.held == nil {
			o.held = heldBuffers.Get().(*[sentTogether]byte)[:0]
			o.late.Reset(heldAtMost)
		}
		o.held = append(o.held, b...)
		return len(b), nil
	}
	if err := o.flush(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// flush writes what is held, and b behind it. mu held.
func (o *outbound) flush(b []byte) error {
	if o.held != nil {
		o.late.Stop()
		defer func(held []byte) { heldBuffers.Put((*[sentTogether]byte)(held[:sentTogether])) }(o.held)
		b = append(o.held, b...)
		o.held = nil
	}
	if len(b) == 0 {
		return nil
	}
	messages := o.messages
	o.messages = 0
	if _, err := o.Stream.Write(b); err != nil {
		return err
	}
	if messages > 0 {
		o.credit.written(o.peer, messages, time.Now())
	}
	return nil
}

// Close writes what is held first.
func (o *outbound) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.flush(nil) // a stream that fails is reset
	return o.Stream.Close()
}

func (o *outbound) Reset() error {
	o.over(o)
	return o.Stream.Reset()
}
