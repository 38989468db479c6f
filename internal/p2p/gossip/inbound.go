package gossip

import (
	"fmt"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/parley-p2p/parley/chain"
)

// inbound is a stream that pubsub reads RPCs from. Bytes that are none make
// pubsub reset it, and tell nobody: so a reset after a read that went well is
// the peer's doing, unless a newer stream of it took the place of this one.
type inbound struct {
	network.Stream
	scope *scope

	mu     sync.Mutex // guards below
	over   bool       // nothing is charged any more
	length uint64     // of the frame, as far as it was read
	shift  int        // bits of length that were read
	left   uint64     // bytes of the frame to come
}

// read is st as pubsub sees it.
func (s *scope) read(st network.Stream) *inbound {
	in := &inbound{Stream: st, scope: s}
	s.mu.Lock()
	old := s.reads[st.Conn().RemotePeer()]
	s.reads[st.Conn().RemotePeer()] = in
	s.mu.Unlock()
	if old != nil { // pubsub resets it now
		old.end()
	}
	return in
}

func (s *scope) unread(in *inbound) {
	in.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := in.Conn().RemotePeer(); s.reads[p] == in {
		delete(s.reads, p)
	}
}

// end has nothing charged any more, and reports whether it was so already.
func (in *inbound) end() (was bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	was, in.over = in.over, true
	return was
}

func (in *inbound) Read(p []byte) (int, error) {
	n, err := in.Stream.Read(p)
	if err != nil {
		in.end()
	}
	in.follow(p[:n])
	return n, err
}

// follow finds the length of the frame that b is of.
func (in *inbound) follow(b []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(b) > 0 {
		if in.left > 0 {
			k := min(in.left, uint64(len(b)))
			in.left -= k
			b = b[k:]
			continue
		}
		if in.shift == 0 {
			in.length = 0
		}
		in.length |= uint64(b[0]&0x7f) << min(in.shift, 63)
		in.shift += 7
		if b[0] < 0x80 {
			in.left, in.shift = in.length, 0
		}
		b = b[1:]
	}
}

// Reset implements [network.Stream].
func (in *inbound) Reset() error {
	in.mu.Lock()
	length := in.length
	in.mu.Unlock()
	if p := in.Conn().RemotePeer(); !in.end() {
		if length > uint64(in.scope.longest) {
			in.scope.charge(p, chain.Oversize, fmt.Sprintf("gossip rpc of %d bytes, at most %d", length, in.scope.longest))
		} else {
			in.scope.charge(p, chain.Malformed, "gossip rpc that does not decode")
		}
	}
	return in.Stream.Reset()
}
