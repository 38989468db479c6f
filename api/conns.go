package api

import (
	linked "container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

const (
	maxConns      = 4096
	maxConnsPerIP = 256
	maxOpsConns   = 256
)

// connCount bounds the open connections of some listeners. When they are full,
// a new connection takes the place of the one that is idle longest; without
// an idle one it is closed.
type connCount struct {
	most    int
	metrics *metrics

	mu    sync.Mutex // guards below, and the fields of countedConn
	total int
	byIP  map[string]int
	idle  *linked.List // of *countedConn, idle longest first
}

func newConnCount(most int, m *metrics) *connCount {
	return &connCount{most: most, metrics: m, byIP: map[string]int{}, idle: linked.New()}
}

// wrap closes what comes over the bounds. Loopback has none per address.
func (c *connCount) wrap(l net.Listener) net.Listener { return &countedListener{l, c} }

type countedListener struct {
	net.Listener
	count *connCount
}

func (l *countedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key := ""
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			key = group(a.AddrPort().Addr().Unmap()).String()
		}
		if counted := l.count.add(conn, key); counted != nil {
			return counted, nil
		}
		l.count.metrics.refused.WithLabelValues("connections").Inc()
		_ = conn.Close()
	}
}

// add counts conn, or answers nil where there is no place.
func (c *connCount) add(conn net.Conn, key string) *countedConn {
	added, longest := c.enter(conn, key)
	if longest != nil {
		_ = longest.Conn.Close() // its client may be gone
	}
	return added
}

func (c *connCount) enter(conn net.Conn, key string) (added, longest *countedConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if key != "" && c.byIP[key] >= maxConnsPerIP {
		return nil, nil
	}
	if c.total >= c.most {
		first := c.idle.Front()
		if first == nil {
			return nil, nil
		}
		longest = first.Value.(*countedConn)
		c.leave(longest)
	}
	c.total++
	if key != "" {
		c.byIP[key]++
	}
	return &countedConn{Conn: conn, count: c, key: key}, longest
}

func (c *connCount) leave(conn *countedConn) { // mu held
	if conn.left {
		return
	}
	conn.left = true
	c.setIdle(conn, false)
	c.total--
	if conn.key == "" {
		return
	}
	if c.byIP[conn.key]--; c.byIP[conn.key] == 0 {
		delete(c.byIP, conn.key)
	}
}

func (c *connCount) setIdle(conn *countedConn, idle bool) { // mu held
	if conn.place != nil {
		c.idle.Remove(conn.place)
		conn.place = nil
	}
	if idle && !conn.left {
		conn.place = c.idle.PushBack(conn)
	}
}

type countedConn struct {
	net.Conn
	count *connCount
	key   string // group of its address, "" = not counted by that

	// below: count.mu
	left  bool
	place *linked.Element // among the idle, nil = it is at work
}

func (c *countedConn) Close() error {
	c.count.mu.Lock()
	c.count.leave(c)
	c.count.mu.Unlock()
	return c.Conn.Close()
}

// noteState is the ConnState of a server: it learns who is idle.
func noteState(conn net.Conn, state http.ConnState) {
	c := countedOf(conn)
	if c == nil {
		return // of a listener that is not counted
	}
	c.count.mu.Lock()
	defer c.count.mu.Unlock()
	c.count.setIdle(c, state == http.StateIdle)
}

// countedOf is the counted connection below conn, nil = none.
func countedOf(conn net.Conn) *countedConn {
	for {
		switch c := conn.(type) {
		case *countedConn:
			return c
		case *tls.Conn:
			conn = c.NetConn()
		case *begunConn:
			conn = c.Conn
		default:
			return nil
		}
	}
}
