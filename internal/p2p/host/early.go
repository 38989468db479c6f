package host

import (
	"errors"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"
)

// earlyBytes is what a connection that came in over TCP may carry before its
// peer has greeted us: handshakes, identify, status and a first message or two.
// A muxer takes 256 KiB for each stream that a stranger opens, whether somebody
// reads it or not, and deciphers it all; thirty strangers a second, who ask on
// 32 streams each, are most of a core. QUIC has a window of that size for the
// whole connection.
const earlyBytes = 512 << 10

// errEarly ends a connection that is past earlyBytes.
var errEarly = errors.New("more than 512 KiB before its handshake")

// earlyConn is a connection whose peer has not greeted us yet.
type earlyConn struct {
	manet.Conn
	over func() // is told, once, when earlyBytes are not enough

	greeted atomic.Bool
	left    int // reader's; of earlyBytes
}

// Read implements [net.Conn].
func (c *earlyConn) Read(p []byte) (int, error) {
	if c.greeted.Load() {
		return c.Conn.Read(p)
	}
	if c.left == 0 && len(p) > 0 {
		if c.over != nil {
			c.over()
			c.over = nil
		}
		return 0, errEarly
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Stat implements [network.ConnStat].
func (c *earlyConn) Stat() network.ConnStats {
	if s, ok := c.Conn.(network.ConnStat); ok {
		return s.Stat()
	}
	return network.ConnStats{}
}

// Greeted has the connections that stand with p carry as much as they like. It
// is for every peer that is ready and at each of its later connections, where
// [Options.Greets] is set.
func (h *Host) Greeted(p peer.ID) {
	for _, c := range h.Network().ConnsToPeer(p) {
		if s, ok := c.Scope().(*seat); ok && s.early != nil {
			s.early.greeted.Store(true)
		}
	}
}
