package host

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	sortTime = 5 * time.Second // for the first 3 bytes

	// All clients of the event stream come at once when a node starts again.
	maxSorting = 1024 // connections that have not sent them yet
	maxSorted  = 1024 // connections that wait to be accepted, per kind
)

// sorter looks at the first bytes of each connection to the API's port: an
// HTTP method, the preface of h2c and a TLS record go to the API, all else to
// libp2p.
type sorter struct {
	listener net.Listener
	http     *queue
	p2p      []*p2pListener
	addrs    []ma.Multiaddr // of p2p, in order
	dropped  func()
	log      *slog.Logger
	stop     chan struct{}  // closed by close
	ended    sync.WaitGroup // run and all sort

	mu      sync.Mutex // guards below
	closed  bool
	sorting *crowd
}

func newSorter(l net.Listener, dropped func(), log *slog.Logger) (*sorter, error) {
	addrs, err := apiAddrs(l.Addr())
	if err != nil {
		return nil, err
	}
	s := &sorter{listener: l, http: newQueue(l.Addr()), addrs: addrs, dropped: dropped, log: log, stop: make(chan struct{}), sorting: newCrowd(maxSorting)}
	for _, a := range addrs {
		s.p2p = append(s.p2p, &p2pListener{queue: newQueue(l.Addr()), addr: a})
	}
	return s, nil
}

// apiAddrs are the libp2p addresses of a TCP listener. Go's IPv6 wildcard
// takes IPv4 as well.
func apiAddrs(a net.Addr) ([]ma.Multiaddr, error) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("listener %s is %s, not tcp", a, a.Network())
	}
	own, err := manet.FromNetAddr(t)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", a, err)
	}
	if t.IP.To4() == nil && t.IP.IsUnspecified() {
		v4, err := manet.FromNetAddr(&net.TCPAddr{IP: net.IPv4zero, Port: t.Port})
		return []ma.Multiaddr{v4, own}, err
	}
	return []ma.Multiaddr{own}, nil
}

// run accepts until the listener is closed.
func (s *sorter) run() {
	var pause time.Duration
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of files, or a peer that is gone already
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Debug("accept on the API's port", "err", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-s.stop:
				return
			}
			continue
		}
		pause = 0
		s.start(c)
	}
}

// start sorts c without blocking. Above maxSorting a silent connection makes
// room.
func (s *sorter) start(c net.Conn) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		c.Close()
		return
	}
	place, out := s.sorting.add(c)
	s.ended.Go(func() { s.sort(c, place) })
	s.mu.Unlock()
	if out != nil {
		out.Close() // its goroutine counts it
	}
}

func (s *sorter) sort(c net.Conn, place *list.Element) {
	var head tcpreuse.Prefix
	err := c.SetReadDeadline(time.Now().Add(sortTime))
	if err == nil {
		_, err = io.ReadFull(c, head[:])
	}
	s.mu.Lock()
	s.sorting.remove(place)
	s.mu.Unlock()
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil || !s.queue(c, head).put(&sortedConn{Conn: c, head: head[:]}) {
		c.Close()
		s.dropped()
	}
}

// queue chooses who is given c.
func (s *sorter) queue(c net.Conn, head tcpreuse.Prefix) *queue {
	if looksLikeAPI(head[:]) {
		return s.http
	}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && a.IP.To4() == nil {
		return s.p2p[len(s.p2p)-1].queue
	}
	return s.p2p[0].queue
}

// looksLikeAPI reports whether a connection that begins so, by 3 bytes or more,
// is the API's. Below a shared key libp2p begins with noise.
func looksLikeAPI(head []byte) bool {
	p := tcpreuse.Prefix(head[:3])
	return tcpreuse.IsHTTP(p) || tcpreuse.IsTLS(p)
}

// close ends run and every connection that is not accepted yet.
func (s *sorter) close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.stop)
	silent := s.sorting.conns()
	s.mu.Unlock()
	err := s.listener.Close()
	for _, c := range silent {
		c.Close()
	}
	s.http.Close()
	for _, l := range s.p2p {
		l.Close()
	}
	s.ended.Wait()
	return err
}

// transport is libp2p's TCP transport, and its Listen gives out the sorted
// connections for the API's address: only they meet gater and limits. s may
// be nil.
func (s *sorter) transport(u transport.Upgrader, limits network.ResourceManager, shared *tcpreuse.ConnMgr) (*sharedTCP, error) {
	t, err := tcp.NewTCPTransport(u, limits, shared, tcp.DisableReuseport())
	return &sharedTCP{TcpTransport: t, upgrader: u, sorter: s}, err
}

type sharedTCP struct {
	*tcp.TcpTransport
	upgrader transport.Upgrader
	sorter   *sorter
}

// Listen implements [transport.Transport].
func (t *sharedTCP) Listen(a ma.Multiaddr) (transport.Listener, error) {
	if t.sorter != nil {
		for _, l := range t.sorter.p2p {
			if l.addr.Equal(a) {
				return t.upgrader.UpgradeGatedMaListener(t, t.upgrader.GateMaListener(l)), nil
			}
		}
	}
	return t.TcpTransport.Listen(a)
}

// queue is a listener of connections that others put into it. A full one
// refuses: whoever serves it has stopped to.
type queue struct {
	addr net.Addr
	ch   chan net.Conn

	mu     sync.Mutex // guards closed, and ch against put after Close
	closed bool
}

func newQueue(a net.Addr) *queue { return &queue{addr: a, ch: make(chan net.Conn, maxSorted)} }

func (q *queue) put(c net.Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	select {
	case q.ch <- c:
		return true
	default:
		return false
	}
}

// Accept implements [net.Listener].
func (q *queue) Accept() (net.Conn, error) {
	c, ok := <-q.ch
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close implements [net.Listener].
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	close(q.ch)
	for c := range q.ch {
		c.Close()
	}
	return nil
}

// Addr implements [net.Listener].
func (q *queue) Addr() net.Addr { return q.addr }

// p2pListener is a queue as libp2p wants it.
type p2pListener struct {
	*queue
	addr ma.Multiaddr
}

// Accept implements [manet.Listener].
func (l *p2pListener) Accept() (manet.Conn, error) {
	for {
		c, err := l.queue.Accept()
		if err != nil {
			return nil, err
		}
		m, err := manet.WrapNetConn(c)
		if err == nil {
			return m, nil
		}
		c.Close()
	}
}

// Multiaddr implements [manet.Listener].
func (l *p2pListener) Multiaddr() ma.Multiaddr { return l.addr }

// sortedConn gives back the bytes that the sorter has read.
type sortedConn struct {
	net.Conn
	head []byte // reader's; not read yet
}

// Read implements [net.Conn].
func (c *sortedConn) Read(p []byte) (int, error) {
	if len(c.head) > 0 && len(p) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// ReadFrom lets the kernel send files.
func (c *sortedConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends our direction.
func (c *sortedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn is for raw writes; a raw read misses what the sorter has read.
func (c *sortedConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
