package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tickType   = "ledger.checked" // a known one, which no node of these runs tells
	stuffType  = "stats.stuffed"  // who asks for no types is not told of it
	crowdLimit = time.Minute      // for all to have what was sent
	frameRoom  = 8 << 10          // bytes of a client's buffer; larger frames are only counted
)

// crowd is clients of one server, on bare sockets: each reads all and counts
// the events of tickType.
type crowd struct {
	clients []*viewer
	total   atomic.Int64
	want    atomic.Int64
	reached chan struct{} // cap 1
	failed  chan error    // cap 1
	timing  atomic.Bool   // note how long each event took
	running sync.WaitGroup
}

// viewer is one client.
type viewer struct {
	conn  net.Conn
	read  *bufio.Reader
	got   atomic.Int64
	took  []float64 // ms; its goroutine's, until crowd.wait has returned
	other atomic.Int64
}

// gather connects n clients that read. The caller MUST leave.
func gather(ctx context.Context, addr string, n int) (*crowd, error) {
	c := &crowd{reached: make(chan struct{}, 1), failed: make(chan error, 1)}
	for range n {
		v, err := newViewer(ctx, addr, "", 0)
		if err != nil {
			return nil, errors.Join(err, c.leave())
		}
		c.clients = append(c.clients, v)
		c.running.Go(func() {
			if err := v.watch(c); err != nil {
				select {
				case c.failed <- err:
				default:
				}
			}
		})
	}
	return c, nil
}

// newViewer opens a WebSocket; room is its receive buffer, 0 = the system's.
func newViewer(ctx context.Context, addr, query string, room int) (*viewer, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if room == 0 {
			return nil
		}
		fault := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, room) })
		return errors.Join(err, fault)
	}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	v := &viewer{conn: conn, read: bufio.NewReaderSize(conn, frameRoom)}
	_, err = fmt.Fprintf(conn, "GET /api/v1/ws%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", query, addr)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	res, err := http.ReadResponse(v.read, nil)
	if err == nil {
		_ = res.Body.Close()
		if res.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("a WebSocket is refused: %s", res.Status)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return v, nil
}

// watch reads until the connection is closed from this side.
func (v *viewer) watch(c *crowd) error {
	for {
		event, at, err := v.next()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("after %d events: %w", v.got.Load(), err)
		case !event:
			continue
		}
		if c.timing.Load() {
			v.took = append(v.took, float64(time.Now().UnixNano()-at)/1e6)
		}
		v.got.Add(1)
		if c.total.Add(1) == c.want.Load() {
			c.reached <- struct{}{}
		}
	}
}

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// next reads one frame, and answers one that is a ping. event tells whether it
// is one of tickType, at when that was sent.
func (v *viewer) next() (event bool, at int64, err error) {
	op, n, err := frameHead(v.read)
	if err != nil {
		return false, 0, err
	}
	if n > uint64(v.read.Size()) {
		_, err := v.read.Discard(int(n))
		v.other.Add(1)
		return false, 0, err
	}
	b, err := v.read.Peek(int(n))
	if err != nil {
		return false, 0, err
	}
	switch op {
	case opText:
		if at, event = tickOf(b); !event {
			v.other.Add(1)
		}
	case opPing:
		pong := append([]byte{0x80 | opPong, 0x80 | byte(n), 0, 0, 0, 0}, b...) // masked with zeros
		if _, err := v.conn.Write(pong); err != nil {
			return false, 0, err
		}
	case opClose:
		return false, 0, fmt.Errorf("closed by the server: %q", b)
	}
	_, err = v.read.Discard(int(n))
	return event, at, err
}

// frameHead reads what stands before the data of a frame of a server.
func frameHead(r io.Reader) (op byte, n uint64, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, 0, err
	}
	op, n = b[0]&0x0f, uint64(b[1])
	size := map[uint64]int{126: 2, 127: 8}[n]
	if size == 0 {
		return op, n, nil
	}
	if _, err := io.ReadFull(r, b[8-size:]); err != nil {
		return 0, 0, err
	}
	if size == 2 {
		b = [8]byte{6: b[6], 7: b[7]}
	}
	if n = binary.BigEndian.Uint64(b[:]); n > 1<<24 {
		return 0, 0, fmt.Errorf("a frame of %d bytes", n)
	}
	return op, n, nil
}

// tickOf tells when an event of tickType was sent.
func tickOf(b []byte) (at int64, ok bool) {
	if !bytes.Contains(b[:min(len(b), 200)], []byte(`"type":"`+tickType+`"`)) {
		return 0, false
	}
	_, rest, ok := bytes.Cut(b, []byte(`"at":`))
	digits, _, comma := bytes.Cut(rest, []byte(","))
	at, err := strconv.ParseInt(string(digits), 10, 64)
	return at, ok && comma && err == nil
}

// expect is called before n events are sent to each.
func (c *crowd) expect(n int, timing bool) {
	c.timing.Store(timing)
	c.want.Store(c.total.Load() + int64(n*len(c.clients)))
}

// wait returns when each client has the events that are expected.
func (c *crowd) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, crowdLimit)
	defer cancel()
	select {
	case <-c.reached:
	case err := <-c.failed:
		return fmt.Errorf("a client: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("%d of %d deliveries: %w", c.total.Load(), c.want.Load(), ctx.Err())
	}
	each := c.want.Load() / int64(len(c.clients))
	for i, v := range c.clients {
		if got := v.got.Load(); got != each {
			return fmt.Errorf("client %d has %d events of %d", i, got, each)
		}
	}
	return nil
}

// times takes how long deliveries took, in ms. It is called after wait.
func (c *crowd) times() (all []float64) {
	for _, v := range c.clients {
		all = append(all, v.took...)
		v.took = nil
	}
	return all
}

func (c *crowd) leave() error {
	var errs []error
	for _, v := range c.clients {
		errs = append(errs, v.conn.Close())
	}
	c.running.Wait()
	return errors.Join(errs...)
}
