package gossip

import (
	"fmt"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// inbound is a stream that pubsub reads RPCs from. pubsub resets it when it
// meets bytes that it cannot read, and tells nobody.
type inbound struct {
	network.Stream
	peer      peer.ID
	forgotten bool // what came over it is; scope.mu
	frame     frame
	failed    bool // a Read has
}

func (i *inbound) Read(b []byte) (int, error) {
	n, err := i.Stream.Read(b)
	i.frame.pass(b[:n])
	i.failed = i.failed || err != nil
	return n, err
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
