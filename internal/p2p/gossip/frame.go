package gossip

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

const (
	readAhead = sentTogether // bytes
	mostAsOne = 64           // RPCs
)

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

	first  [1]byte          // read without a buffer
	buffer *[readAhead]byte // of readBuffers; nil while nothing comes
	unread []byte           // in buffer
	brings int              // messages of the RPC at hand; 1 where that is not known
	err    error            // behind unread
}

var readBuffers = sync.Pool{New: func() any { return new([readAhead]byte) }}

// Read waits before an RPC until its peer is to be read on. RPCs that have come
// together are one: each costs pubsub's loop a turn.
func (i *inbound) Read(b []byte) (int, error) {
	if i.frame.between() {
		i.rest()
		if err := i.begin(); err != nil {
			i.failed = true
			return 0, err
		}
	}
	n, err := i.take(b)
	i.frame.pass(b[:n])
	i.failed = i.failed || err != nil
	if n > 0 && i.frame.between() {
		i.pace.read(i.peer, i.brings)
		if i.frame.size == 0 { // pubsub passes over it
			i.pace.came(i.peer, 0, time.Now())
		}
	}
	if i.buffer != nil && len(i.unread) == 0 {
		readBuffers.Put(i.buffer)
		i.buffer = nil
	}
	return n, err
}

// begin waits for the begin of an RPC and reads ahead what has come with it.
func (i *inbound) begin() error {
	if len(i.unread) == 0 {
		if i.err != nil {
			return i.err
		}
		n, err := i.Stream.Read(i.first[:])
		if n == 0 {
			return err
		}
		i.buffer, i.err = readBuffers.Get().(*[readAhead]byte), err
		i.buffer[0] = i.first[0]
		if n = 0; err == nil && i.first[0] > 0 { // more is to come
			n, i.err = i.Stream.Read(i.buffer[1:])
		}
		i.unread = i.buffer[:1+n]
	}
	i.unread, i.brings = asOne(i.unread, func() int { return i.pace.room(i.peer) })
	return nil
}

func (i *inbound) take(b []byte) (int, error) {
	if len(i.unread) > 0 {
		n := copy(b, i.unread)
		i.unread = i.unread[n:]
		return n, nil
	}
	if i.err != nil {
		return 0, i.err
	}
	return i.Stream.Read(b)
}

// asOne makes one RPC of those at the begin of b that are whole and have
// messages alone, as many as most tells: joined, the bytes of two RPCs are the
// RPC with what both have. It returns what is left of b, and how many messages
// are in its first RPC, 1 where that is not known.
func asOne(b []byte, most func() int) (rest []byte, messages int) {
	var bodies [mostAsOne][]byte
	list, size, end, room := bodies[:0], 0, 0, 0
	for len(list) < mostAsOne {
		length, head := binary.Uvarint(b[end:])
		if head <= 0 || length > uint64(len(b)-end-head) {
			break
		}
		body := b[end+head:][:length]
		n := messagesOf(body)
		if len(list) == 1 {
			room = most()
		}
		if n == 0 || len(list) > 0 && messages+n > room {
			break
		}
		list, messages, size, end = append(list, body), messages+n, size+len(body), end+head+len(body)
	}
	if len(list) < 2 {
		return b, max(1, messages)
	}
	at := end
	for _, body := range slices.Backward(list) { // to the right: their lengths leave room for that of all
		at -= len(body)
		copy(b[at:], body)
	}
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(size))
	copy(b[at-n:], head[:n])
	return b[at-n:], messages
}

// messagesOf counts the messages of an RPC that has nothing else, or returns 0.
func messagesOf(rpc []byte) (n int) {
	for ; len(rpc) > 0; n++ {
		length, head := binary.Uvarint(rpc[1:])
		if rpc[0] != publishTag || head <= 0 || length > uint64(len(rpc)-1-head) {
			return 0
		}
		rpc = rpc[1+head+int(length):]
	}
	return n
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
