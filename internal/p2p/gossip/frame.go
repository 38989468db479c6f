package gossip

import (
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

const readAhead = 4 << 10 // bytes

// inbound is a stream that pubsub reads RPCs from. pubsub resets it when it
// meets bytes that it cannot read, and tells nobody.
type inbound struct {
	network.Stream
	peer      peer.ID
	pace      *pace
	forgotten bool // what came over it is; scope.mu
	frame     frame
	failed    bool // a Read has
	once      sync.Once
	over      chan struct{} // closed when it is not read any more

	buffer *[readAhead]byte // of readBuffers; nil while nothing comes
	unread []byte           // in buffer
	err    error            // behind it
}

var readBuffers = sync.Pool{New: func() any { return new([readAhead]byte) }}

// Read waits before an RPC until its peer is to be read on.
func (i *inbound) Read(b []byte) (int, error) {
	if i.frame.between() {
		i.rest()
	}
	n, err := i.take(b)
	i.frame.pass(b[:n])
	i.failed = i.failed || err != nil
	if n > 0 && i.frame.between() {
		i.pace.read(i.peer)
		if i.frame.size == 0 { // pubsub passes over it
			i.pace.came(i.peer, 0, time.Now())
		}
	}
	if i.buffer != nil && len(i.unread) == 0 && i.frame.between() {
		readBuffers.Put(i.buffer)
		i.buffer = nil
	}
	return n, err
}

// take reads ahead once something has come: pubsub takes an RPC in three parts,
// and RPCs come together.
func (i *inbound) take(b []byte) (int, error) {
	if len(i.unread) == 0 {
		if i.err != nil {
			return 0, i.err
		}
		if i.frame.between() || len(b) >= readAhead {
			return i.Stream.Read(b)
		}
		if i.buffer == nil {
			i.buffer = readBuffers.Get().(*[readAhead]byte)
		}
		n, err := i.Stream.Read(i.buffer[:])
		i.unread, i.err = i.buffer[:n], err
		if n == 0 {
			return 0, err
		}
	}
	n := copy(b, i.unread)
	i.unread = i.unread[n:]
	return n, nil
}

func (i *inbound) rest() {
	for {
		d, woken := i.pace.rest(i.peer, time.Now())
		if d == 0 {
			return
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
			i.pace.rested(i.peer)
		case <-woken:
		case <-i.over:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// Reset ends a rest too.
func (i *inbound) Reset() error {
	i.once.Do(func() { close(i.over) })
	return i.Stream.Reset()
}

// fault says what made pubsub stop reading; without an offence it was nothing
// that the peer sent. most is the largest RPC that pubsub takes.
func (i *inbound) fault(most int) (o chain.Offence, detail string) {
	switch {
	case i.failed:
		return "", ""
	case i.frame.size > uint64(most):
		return chain.Oversize, fmt.Sprintf("gossip rpc of %d bytes, at most %d", i.frame.size, most)
	}
	return chain.Malformed, "gossip rpc that does not decode"
}

// frame follows the lengths, as varints, of the RPCs in a stream.
type frame struct {
	size  uint64 // of the RPC at hand
	left  uint64 // of it, yet to come
	shift uint   // bits of the length that have come
}

// between reports whether the next byte begins an RPC.
func (f *frame) between() bool { return f.left == 0 && f.shift == 0 }

func (f *frame) pass(b []byte) {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(b)))
			f.left -= n
			b = b[n:]
			continue
		}
		if f.shift == 0 {
			f.size = 0
		}
		f.size |= uint64(b[0]&0x7f) << f.shift
		if f.shift += 7; b[0] < 0x80 || f.shift > 63 {
			f.left, f.shift = f.size, 0
		}
		b = b[1:]
	}
}
