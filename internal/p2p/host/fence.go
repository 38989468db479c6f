package host

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/davidlazar/go-crypto/salsa20"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	nonceSize = 24                         // bytes, of XSalsa20
	greeting  = "\x13/multistream/1.0.0\n" // what both sides say first, below the key
	probeSize = nonceSize + len(greeting)
	probeTime = 5 * time.Second // for them to come
)

// keyError is a connection without a key that we have. It is a [pnet.Error].
type keyError string

func (e keyError) Error() string { return string(e) }

// IsPNetError tells whether it is certain that the key is at fault.
func (e keyError) IsPNetError() bool { return e != errSilent }

var _ pnet.Error = keyError("")

const (
	errNoKey    keyError = "it speaks without a shared key"
	errWrongKey keyError = "it has another shared key"
	errLate     keyError = "it proved no shared key in time"
	errKeyGone  keyError = "its shared key was removed"
	// errSilent is no proof of another key: a full node hangs up like that, too.
	errSilent keyError = "it hung up without a word, as a node does that has another shared key, or none"
)

// probe finds the key under which head begins a connection, and the stream
// that decrypts what follows head.
func probe(head *[probeSize]byte, keys []SharedKey) (SharedKey, cipher.Stream, bool) {
	for _, k := range keys {
		var plain [len(greeting)]byte
		s := salsa20.New((*[32]byte)(&k), head[:nonceSize])
		s.XORKeyStream(plain[:], head[nonceSize:])
		if string(plain[:]) == greeting {
			return k, s, true
		}
	}
	return SharedKey{}, nil, false
}

// fence wraps libp2p's upgrader: what it upgrades runs below a shared key.
type fence struct {
	transport.Upgrader
	net *PrivateNetwork
}

// under is u where n is nil.
func (n *PrivateNetwork) under(u transport.Upgrader) transport.Upgrader {
	if n == nil {
		return u
	}
	return &fence{u, n}
}

// Upgrade implements [transport.Upgrader]. Only dialled connections come here.
func (f *fence) Upgrade(ctx context.Context, t transport.Transport, c manet.Conn, dir network.Direction, p peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	conn := f.net.wrap(c, dir)
	up, err := f.Upgrader.Upgrade(ctx, t, conn, dir, p, scope)
	if why := conn.fault(); err != nil && why != nil && !errors.Is(err, why) {
		err = fmt.Errorf("%w: %w", why, err)
	}
	return up, err
}

// UpgradeListener implements [transport.Upgrader].
func (f *fence) UpgradeListener(t transport.Transport, l manet.Listener) transport.Listener {
	return f.UpgradeGatedMaListener(t, f.GateMaListener(l))
}

// UpgradeGatedMaListener implements [transport.Upgrader].
func (f *fence) UpgradeGatedMaListener(t transport.Transport, l transport.GatedMaListener) transport.Listener {
	return f.Upgrader.UpgradeGatedMaListener(t, fencedListener{l, f.net})
}

type fencedListener struct {
	transport.GatedMaListener
	net *PrivateNetwork
}

// Accept implements [transport.GatedMaListener].
func (l fencedListener) Accept() (manet.Conn, network.ConnManagementScope, error) {
	c, scope, err := l.GatedMaListener.Accept()
	if err != nil {
		return c, scope, err
	}
	return l.net.wrap(c, network.DirInbound), scope, nil
}

// fencedConn is a connection below a shared key. Nobody writes to one that came
// in before its first bytes proved a key; the first read or write waits for it.
type fencedConn struct {
	manet.Conn
	net     *PrivateNetwork
	inbound bool
	opened  time.Time

	probing atomic.Bool   // somebody reads the other side's nonce and greeting
	probed  chan struct{} // closed when that is done
	failed  error         // after probed
	pending []byte        // reader's: decrypted and not read yet
	in      cipher.Stream

	writing sync.Mutex // guards out
	out     cipher.Stream

	key SharedKey // of a dialled one from the begin, else after probed

}

func (n *PrivateNetwork) wrap(c manet.Conn, dir network.Direction) *fencedConn {
	f := &fencedConn{Conn: c, net: n, inbound: dir == network.DirInbound, opened: time.Now(), probed: make(chan struct{})}
	if !f.inbound {
		f.key = n.dialKey()
	}
	return f
}

// fault is why the fence closed c, nil if it did not.
func (c *fencedConn) fault() error {
	select {
	case <-c.probed:
		return c.failed
	default:
		return nil
	}
}

// prove reads what the other side begins with, once; who comes meanwhile waits.
func (c *fencedConn) prove() error {
	if !c.probing.CompareAndSwap(false, true) {
		<-c.probed
		return c.failed
	}
	defer close(c.probed)
	c.failed = c.readProbe()
	if c.failed == nil && !c.net.enter(c) {
		c.failed = errKeyGone
	}
	if c.failed == nil {
		return nil
	}
	_ = c.Conn.Close() // silently: nothing was written to who came in
	if why, ok := errors.AsType[keyError](c.failed); ok && c.inbound {
		c.net.refuse(c.RemoteMultiaddr(), string(why))
	}
	return c.failed
}

func (c *fencedConn) readProbe() error {
	var head [probeSize]byte
	err := c.readHead(&head)
	if err != nil {
		return err
	}
	keys := []SharedKey{c.key}
	if c.inbound {
		keys = c.net.Keys()
	}
	key, in, ok := probe(&head, keys)
	if !ok {
		return errWrongKey
	}
	if c.inbound {
		c.key = key
	}
	c.in, c.pending = in, []byte(greeting)
	return nil
}

// readHead reads what proves a key. Who has none is known by less than that,
// and may never send the rest.
func (c *fencedConn) readHead(head *[probeSize]byte) error {
	intime := func() bool { return true }
	if c.inbound {
		intime = time.AfterFunc(probeTime, func() { _ = c.Conn.Close() }).Stop
	}
	n, err := io.ReadFull(c.Conn, head[:len(greeting)])
	plain := err == nil && string(head[:n]) == greeting
	if err == nil && !plain {
		_, err = io.ReadFull(c.Conn, head[n:])
	}
	switch {
	case !intime():
		return errLate
	case plain:
		return errNoKey
	case err != nil && n == 0 && !c.inbound && !isTimeout(err):
		return fmt.Errorf("%w: %w", errSilent, err)
	case err != nil:
		return fmt.Errorf("wait for the proof of a shared key: %w", err)
	}
	return nil
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// Read implements [net.Conn].
func (c *fencedConn) Read(p []byte) (int, error) {
	if err := c.prove(); err != nil {
		return 0, err
	}
	if len(c.pending) > 0 && len(p) > 0 {
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.in.XORKeyStream(p[:n], p[:n])
	return n, err
}

// sealed are buffers for what is encrypted, which is not done in place.
var sealed = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Write implements [net.Conn]. It leaves p as it is.
func (c *fencedConn) Write(p []byte) (written int, err error) {
	if c.inbound {
		if err := c.prove(); err != nil {
			return 0, err
		}
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	b := sealed.Get().(*[32 << 10]byte)
	defer sealed.Put(b)
	head := 0
	if c.out == nil {
		head = copy(b[:], newNonce()) // in one packet with what follows
		c.out = salsa20.New((*[32]byte)(&c.key), b[:head])
	}
	for head > 0 || len(p) > 0 {
		n := min(len(p), len(b)-head)
		c.out.XORKeyStream(b[head:head+n], p[:n])
		w, err := c.Conn.Write(b[:head+n])
		written += max(0, w-head)
		if err != nil {
			return written, err
		}
		p, head = p[n:], 0
	}
	return written, nil
}

// newNonce avoids the few that a port shared with an API takes for its own.
func newNonce() []byte {
	b := make([]byte, nonceSize)
	for ok := false; !ok; ok = !looksLikeAPI(b) {
		rand.Read(b) // never fails
	}
	return b
}

// Close implements [net.Conn].
func (c *fencedConn) Close() error {
	c.net.leave(c)
	return c.Conn.Close()
}

// Stat implements [network.ConnStat].
func (c *fencedConn) Stat() network.ConnStats {
	if s, ok := c.Conn.(network.ConnStat); ok {
		return s.Stat()
	}
	return network.ConnStats{}
}

// SetKeepAlive and those below are what libp2p asks of a TCP connection.
func (c *fencedConn) SetKeepAlive(on bool) error {
	if t, ok := c.Conn.(interface{ SetKeepAlive(bool) error }); ok {
		return t.SetKeepAlive(on)
	}
	return errors.ErrUnsupported
}

func (c *fencedConn) SetKeepAlivePeriod(d time.Duration) error {
	if t, ok := c.Conn.(interface{ SetKeepAlivePeriod(time.Duration) error }); ok {
		return t.SetKeepAlivePeriod(d)
	}
	return errors.ErrUnsupported
}

func (c *fencedConn) SetLinger(sec int) error {
	if t, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return t.SetLinger(sec)
	}
	return errors.ErrUnsupported
}
