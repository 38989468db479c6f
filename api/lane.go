package api

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

const (
	joinAtOnce = 64 << 10 // bytes of frames in one write of the hub
	joinSlow   = 16 << 10 // in one that waits: what takes longer than streamWrite is blocked
	fewFrames  = 64       // room that a queue keeps when it is empty
	fewClients = 64       // that are worth a goroutine
)

// lane is the connection of a WebSocket that events go to. The library writes
// its pings and closes by it, and we the events, each frame whole: a frame of a
// server is the same for all, so it is joined to others once, and the hub can
// write to a client that keeps up without waking a goroutine for it.
type lane struct {
	net.Conn
	raw syscall.RawConn // nil = no write that does not wait (TLS)

	leaving func() bool // whether the client is to go, nil = never; set before the first send

	mu     sync.Mutex // held while something is written; guards below
	last   time.Time  // end of all writes, once it is to go
	busy   bool       // the client's goroutine has frames: the hub writes none
	rest   []byte     // of what the hub wrote and the socket did not take, before all else
	closed bool       // a close was written, or the connection is dead: nothing follows

	// below: of one write that does not wait
	attempt func(fd uintptr) bool
	out     []byte
	written int
	err     error
}

// newLane is busy until the first drain.
func newLane(conn net.Conn) *lane {
	l := &lane{Conn: conn, raw: rawOf(conn), busy: true}
	l.attempt = func(fd uintptr) bool {
		l.written, l.err = writeNow(fd, l.out)
		return true
	}
	return l
}

// rawOf is the socket below conn, nil where what is written does not enter it
// as it is.
func rawOf(conn net.Conn) syscall.RawConn {
	for {
		switch c := conn.(type) {
		case *countedConn:
			conn = c.Conn
		case *begunConn:
			conn = c.Conn
		case syscall.Conn:
			raw, err := c.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		default:
			return nil
		}
	}
}

// hijacked is a ResponseWriter whose hijacked connection is a lane.
type hijacked struct {
	http.ResponseWriter
	lane *lane
}

// Hijack implements [http.Hijacker].
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.lane = newLane(conn)
	rw.Writer = bufio.NewWriterSize(h.lane, 256) // for pings and closes: each is one write
	return h.lane, rw, nil
}

// Write is the library's: of one frame that is no event.
func (l *lane) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	if err := l.settle(); err != nil {
		return 0, err
	}
	const opcode, opClose = 0x0f, 8
	l.closed = len(b) > 0 && b[0]&opcode == opClose
	return l.Conn.Write(b)
}

// settle writes the rest; mu held.
func (l *lane) settle() error {
	if len(l.rest) == 0 {
		return nil
	}
	b := l.rest
	l.rest = nil
	return l.wait(b)
}

// wait writes b as the client reads; mu held.
func (l *lane) wait(b []byte) error {
	defer func() { _ = l.SetWriteDeadline(time.Time{}) }() // one that passes would end the next write
	for part := range slices.Chunk(b, joinSlow) {
		if err := l.SetWriteDeadline(l.until()); err != nil {
			return err
		}
		if _, err := l.Conn.Write(part); err != nil {
			l.closed = true // a part of a frame may be out
			return err
		}
	}
	return nil
}

// until is the end of the next write. A client that is to go has streamWrite for
// all that it still gets: the rest of a frame, and why it has to go.
func (l *lane) until() time.Time { // mu held
	t := time.Now().Add(streamWrite)
	if !l.isLeaving() {
		return t
	}
	if l.last.IsZero() {
		l.last = t
	}
	return l.last
}

func (l *lane) isLeaving() bool { return l.leaving != nil && l.leaving() }

// send writes frames as the client reads, until it is to go. Between them pings
// have their turn.
func (l *lane) send(frames []frame) error {
	var b []byte
	for len(frames) > 0 && !l.isLeaving() {
		n := within(frames, joinSlow)
		b = b[:0]
		for _, f := range frames[:n] {
			b = appendText(b, f.data)
		}
		frames = frames[n:]
		if err := l.sendJoined(b); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) sendJoined(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	if err := l.settle(); err != nil {
		return err
	}
	return l.wait(b)
}

// drain writes what the queue holds, and hands the lane back to the hub. It keeps
// the lane of a client that is to go.
func (l *lane) drain(q *queue) (tooSlow bool, err error) {
	l.mu.Lock()
	l.busy = true
	l.mu.Unlock()
	for !l.isLeaving() {
		frames, slow := q.take(time.Now())
		if slow {
			return true, nil
		}
		if err := l.send(frames); err != nil {
			return false, err
		}
		if len(frames) == 0 && l.handBack(q) {
			return false, l.sendJoined(nil) // the rest, and whether it is dead
		}
	}
	return false, nil
}

// handBack reports false where something has come meanwhile.
func (l *lane) handBack(q *queue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = !q.empty()
	return !l.busy
}

// flush writes what waits in q without waiting for the client. What does not
// go out so is left to the client's goroutine.
func (l *lane) flush(q *queue, j *joiner) {
	if !l.mu.TryLock() { // a ping, or the client's goroutine
		q.ring()
		return
	}
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		q.ring()
		return
	}
	for more := !l.busy && !l.closed; more; {
		var b []byte
		if b, more = j.take(q); len(b) == 0 {
			return
		}
		n, err := l.tryWrite(b)
		if n < len(b) {
			l.rest, more = slices.Clone(b[n:]), false
			l.closed = err != nil
			q.ring()
		}
	}
}

// tryWrite writes what the socket takes at once; mu held.
func (l *lane) tryWrite(b []byte) (int, error) {
	l.out, l.written, l.err = b, 0, nil // the attempt is not made where the socket is closed
	err := l.raw.Write(l.attempt)
	l.out = nil
	if err == nil {
		err = l.err
	}
	return l.written, err
}

// appendText adds data as a text frame of a server.
func appendText(b, data []byte) []byte {
	const finalText = 0x81
	n := len(data)
	switch {
	case n < 126:
		b = append(b, finalText, byte(n))
	case n < 1<<16:
		b = append(b, finalText, 126, byte(n>>8), byte(n))
	default:
		b = append(b, finalText, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, data...)
}

// within is how many of the first frames have together no more than most
// bytes, or one.
func within(frames []frame, most int) int {
	n, bytes := 0, 0
	for n < len(frames) && (n == 0 || bytes+len(frames[n].data) <= most) {
		bytes += len(frames[n].data)
		n++
	}
	return n
}

// joiner joins frames for one client after the other, most of which wait for
// the same.
type joiner struct {
	frames []frame
	bytes  []byte
}

var joiners = sync.Pool{New: func() any { return new(joiner) }}

// take takes frames out of a queue, and tells whether there are more. What it
// returns is the joiner's. A client that has to be told of more than frames is
// left to its goroutine.
func (j *joiner) take(q *queue) (joined []byte, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dropped > 0 || len(q.samples) > 0 {
		q.ring()
		return nil, false
	}
	if len(q.frames) == 0 {
		return nil, false
	}
	n := within(q.frames, joinAtOnce)
	if !sameFrames(j.frames, q.frames[:n]) {
		j.frames = append(j.frames[:0], q.frames[:n]...)
		j.bytes = j.bytes[:0]
		for _, f := range j.frames {
			j.bytes = appendText(j.bytes, f.data)
		}
	}
	left := copy(q.frames, q.frames[n:])
	clear(q.frames[left:])
	if q.frames = q.frames[:left]; left == 0 && cap(q.frames) > fewFrames {
		q.frames = nil
	}
	return j.bytes, left > 0
}

func sameFrames(a, b []frame) bool {
	return slices.EqualFunc(a, b, func(x, y frame) bool { return len(x.data) == len(y.data) && &x.data[0] == &y.data[0] })
}

// flushAll writes to clients that keep up, on all cores where they are many.
func flushAll(queues []*queue, cores int) {
	var wg sync.WaitGroup
	for part := range slices.Chunk(queues, max(fewClients, (len(queues)+cores-1)/cores)) {
		wg.Go(func() {
			j := joiners.Get().(*joiner)
			for _, q := range part {
				q.lane.flush(q, j)
			}
			clear(j.frames)
			j.frames, j.bytes = j.frames[:0], j.bytes[:0]
			joiners.Put(j)
		})
	}
	wg.Wait()
}

// acceptLane is a WebSocket with its lane. The error has been answered.
func (s *Server) acceptLane(w http.ResponseWriter, r *http.Request) (*websocket.Conn, *lane, error) {
	h := &hijacked{ResponseWriter: w}
	conn, err := websocket.Accept(h, r, s.acceptOptions(r, subProtocol))
	return conn, h.lane, err
}
