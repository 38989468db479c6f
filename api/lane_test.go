package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/parley-p2p/parley/event"
)

// sockets are both ends of a connection on loopback.
func sockets(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Close()
		_ = client.Close()
	})
	return server, client
}

// readFrame is one whole frame of a server.
func readFrame(r io.Reader) (first byte, data string, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, "", err
	}
	first, n := b[0], uint64(b[1])
	if size := map[uint64]int{126: 2, 127: 8}[n]; size != 0 {
		b = [8]byte{}
		if _, err := io.ReadFull(r, b[8-size:]); err != nil {
			return 0, "", err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if n > 1<<20 {
		return 0, "", fmt.Errorf("frame of %d bytes", n)
	}
	text := make([]byte, n)
	_, err = io.ReadFull(r, text)
	return first, string(text), err
}

// TestLane has the hub, the client's goroutine and pings write at once to a
// client that stands still at first and then reads: all comes whole and in
// order.
func TestLane(t *testing.T) {
	server, conn := sockets(t)
	q, lane := testQueue(t, "*"), newLane(server)
	q.size = 1 << 20
	q.join(lane)
	const events, pings = 6000, 50
	pad := map[int]string{0: "", 1: strings.Repeat("x", 200), 2: strings.Repeat("y", 70_000)}
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() { // as writeEvents does
		for {
			if slow, err := lane.drain(q); err != nil || slow {
				t.Errorf("drain: %v, slow %v", err, slow)
				return
			}
			select {
			case <-q.wake:
			case <-over:
				return
			}
		}
	})
	blocked := make(chan struct{})
	wg.Go(func() { // as the hub does
		j, chosen := new(joiner), map[string][]frame{}
		for i := range events {
			size := 1
			if i%7 == 0 {
				size = 0
			} else if i%100 == 99 {
				size = 2
			}
			clear(chosen)
			if !q.give([]frame{{seq: uint64(i + 1), name: "a", data: fmt.Appendf(nil, "%d %s", i, pad[size])}}, chosen) {
				t.Error("the hub does not write to a socket")
			}
			lane.flush(q, j)
			if i == events/2 {
				close(blocked) // far over what sockets hold
			}
		}
	})
	wg.Go(func() {
		<-blocked
		for i := range pings {
			if _, err := lane.Write(append([]byte{0x89, 2}, fmt.Sprintf("%02d", i)...)); err != nil {
				t.Error(err)
			}
		}
	})
	<-blocked
	r := bufio.NewReader(conn)
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	for got, pinged := 0, 0; got < events || pinged < pings; {
		first, data, err := readFrame(r)
		if err != nil {
			t.Fatalf("after %d events and %d pings: %v", got, pinged, err)
		}
		want := &got
		if first == 0x89 {
			want = &pinged
		}
		var n int
		if _, err := fmt.Sscanf(data, "%d", &n); err != nil || n != *want {
			t.Fatalf("frame %#x %.20q, want number %d", first, data, *want)
		}
		*want++
	}
	close(over)
	wg.Wait()
}

// TestLaneOfOneThatKeepsUp wakes nobody.
func TestLaneOfOneThatKeepsUp(t *testing.T) {
	server, conn := sockets(t)
	q, lane := testQueue(t, "*"), newLane(server)
	q.join(lane)
	if slow, err := lane.drain(q); slow || err != nil {
		t.Fatal(slow, err)
	}
	r := bufio.NewReader(conn)
	for i := range 100 {
		flushAll(given(q, numbered("a", uint64(i+1))), 1)
		if _, data, err := readFrame(r); err != nil || data != fmt.Sprintf(`{"seq":%d}`, i+1) {
			t.Fatalf("%s %v", data, err)
		}
	}
	select {
	case <-q.wake:
		t.Error("the client's goroutine was woken")
	default:
	}
	if _, err := lane.Write([]byte{0x88, 0}); err != nil {
		t.Fatal(err)
	}
	flushAll(given(q, numbered("a", 200)), 1)
	if slow, err := lane.drain(q); slow || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after a close: %v %v", slow, err)
	}
	_ = server.Close()
	if first, _, err := readFrame(r); first != 0x88 || err != nil {
		t.Errorf("%#x %v, want the close", first, err)
	}
	if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
		t.Errorf("%q after a close, %v", b, err)
	}
}

func given(q *queue, frames ...frame) []*queue {
	if q.give(frames, map[string][]frame{}) {
		return []*queue{q}
	}
	return nil
}

// TestDeadLane tells the client's goroutine, which ends.
func TestDeadLane(t *testing.T) {
	server, _ := sockets(t)
	q, lane := testQueue(t, "*"), newLane(server)
	q.join(lane)
	if slow, err := lane.drain(q); slow || err != nil {
		t.Fatal(slow, err)
	}
	_ = server.Close()
	flushAll(given(q, numbered("a", 1)), 1)
	<-q.wake
	if _, err := lane.drain(q); err == nil {
		t.Error("a dead connection is drained")
	}
}

// TestLaneWithoutSocket leaves all to the client's goroutine: what is written
// to TLS is not what goes over the wire.
func TestLaneWithoutSocket(t *testing.T) {
	server, conn := sockets(t)
	if rawOf(server) == nil || rawOf(&countedConn{Conn: &begunConn{Conn: server}}) == nil {
		t.Error("a socket is not found")
	}
	q, lane := testQueue(t, "*"), newLane(tls.Server(server, nil))
	if lane.raw != nil {
		t.Fatal("bytes can get past TLS")
	}
	lane.Conn = server
	q.join(lane)
	if given(q, numbered("a", 1)) != nil {
		t.Error("the hub is to write to it")
	}
	<-q.wake
	if slow, err := lane.drain(q); slow || err != nil {
		t.Fatal(slow, err)
	}
	if _, data, err := readFrame(conn); err != nil || data != `{"seq":1}` {
		t.Errorf("%s %v", data, err)
	}
}

// TestJoiner joins at most 64 KiB, and a frame that is longer alone.
func TestJoiner(t *testing.T) {
	q := testQueue(t, "*")
	long := strings.Repeat("z", joinAtOnce+1)
	for _, data := range []string{strings.Repeat("a", 40_000), strings.Repeat("b", 20_000), long, "c"} {
		q.push(frame{seq: 1, name: "a", data: []byte(data)})
	}
	j := new(joiner)
	for i, want := range []int{40_000 + 4 + 20_000 + 4, len(long) + 10, 1 + 2, 0} {
		if b, more := j.take(q); len(b) != want || more != (i < 2) {
			t.Errorf("%d: %d bytes and more = %v, want %d", i, len(b), more, want)
		}
	}
	other := testQueue(t, "*")
	q.push(numbered("a", 7))
	other.push(numbered("a", 8))
	one, _ := j.take(q)
	if text := string(one[2:]); text != `{"seq":7}` {
		t.Errorf("%s", text)
	}
	two, _ := j.take(other)
	if text := string(two[2:]); text != `{"seq":8}` {
		t.Errorf("%s: that of another client", text)
	}
}

// TestChosen gives each client what its own filter lets in.
func TestChosen(t *testing.T) {
	h := newHub(event.NewBus(64), 10, testMetrics(t))
	all, heads, none := testQueue(t, "*"), testQueue(t, "head.*"), testQueue(t, "block.*")
	again := testQueue(t, "head.*")
	for _, q := range []*queue{all, heads, none, again} {
		if _, err := h.join(q, ""); err != nil {
			t.Fatal(err)
		}
	}
	if heads.filter.key != again.filter.key || heads.filter.key == none.filter.key || all.filter.key == "" {
		t.Error("keys of filters")
	}
	if err := again.subscribe(false, []string{"head.*"}); err != nil || heads.filter.key == again.filter.key {
		t.Error("a filter that was changed has the key that it had")
	}
	h.give([]event.Envelope{{Seq: 1, Type: "head.changed", Data: event.HeadChanged{}}, {Seq: 2, Type: "peer.ready", Data: event.HeadChanged{}}}, 0)
	for q, want := range map[*queue]int{all: 2, heads: 1, none: 0, again: 0} {
		if frames, _ := q.take(time.Now()); len(frames) != want {
			t.Errorf("%v: %d frames, want %d", q.filter.rules, len(frames), want)
		}
	}
}

// noise is an event that takes room.
type noise struct {
	N   int    `json:"n"`
	Pad string `json:"pad"`
}

func (noise) Type() string { return "ledger.checked" }

// stopped is a client that reads nothing but what the test reads.
func stopped(t *testing.T, h *house, query string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	_ = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	fmt.Fprint(conn, "GET /api/v1/ws?types=ledger.checked"+query+" HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	slow := bufio.NewReader(conn)
	if res, err := http.ReadResponse(slow, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	return slow
}

const floods = 13 * 200 // events of 4 kB, 10 MB: over all that a socket and a queue hold

// flood publishes as one that reads can follow.
func flood(t *testing.T, h *house, fast *socket) {
	t.Helper()
	const step = 200
	pad := strings.Repeat("x", 4000)
	for range floods / step {
		for i := range step {
			h.node.Events().Publish(noise{i, pad})
		}
		for range step {
			if e := fast.next(); e.Type != (noise{}).Type() {
				t.Fatalf("one that reads is told %s %s", e.Type, e.Data)
			}
		}
	}
}

// TestStoppedClient publishes to one that reads and one that does not: the one
// misses nothing, and the other is told how much it missed.
func TestStoppedClient(t *testing.T) {
	h := start(t, nil)
	fast := h.dial(t, "?types=ledger.checked")
	fast.next()
	slow := stopped(t, h, "")
	next := func() (e envelope) {
		for {
			first, data, err := readFrame(slow)
			if err != nil {
				t.Fatal(err)
			}
			if first != 0x81 { // a ping
				continue
			}
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	next() // hello
	flood(t, h, fast)
	var dropped, got int
	var last uint64
	for dropped == 0 {
		e := next()
		if e.Type == "lagged" {
			if _, err := fmt.Sscanf(string(e.Data), `{"dropped":%d`, &dropped); err != nil {
				t.Fatal(err)
			}
			break
		}
		if got++; e.Seq <= last {
			t.Fatalf("event %d after %d", e.Seq, last)
		}
		last = e.Seq
	}
	if got+dropped != floods || got < queueSize {
		t.Errorf("%d came and %d were dropped of %d", got, dropped, floods)
	}
}

// TestSlowClientIsParted: one that reads too slowly is not kept until it has read
// all, neither when it may not have the stream any longer nor when the node stops.
func TestSlowClientIsParted(t *testing.T) {
	c := labConfig(t)
	c.API.PublicRead = false
	h, _ := reloader(t, c)
	gone := h.token("admin")
	first, err := os.ReadFile(filepath.Join(c.DataDir, c.API.JWTSecretFile))
	if err != nil {
		t.Fatal(err)
	}
	second := strings.Repeat("5e", 32) + "\n"
	secretOf(t, h, c, second+string(first))
	fast := h.dial(t, "?types=ledger.checked&token="+h.token("admin"))
	fast.next()
	slow := stopped(t, h, "&token="+gone)
	stopped(t, h, "&token="+h.token("read")) // it never reads
	flood(t, h, fast)
	secretOf(t, h, c, second)
	for {
		kind, data, err := readFrame(slow)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(data, `"lagged"`) {
			t.Fatal("it is given all that waited for it")
		}
		if kind == 0x88 {
			if code := websocket.StatusCode(binary.BigEndian.Uint16([]byte(data))); code != closeExpired || data[2:] != errRevoked.Error() {
				t.Errorf("closed with %d %s", code, data[2:])
			}
			break
		}
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	h.shutdown(ctx, nil)
	if took := time.Since(begin); took > streamWrite*3/4 {
		t.Errorf("one that does not read holds the end up for %s", took)
	}
}

// TestDrainEnds: a drain that goes on for as long as its client reads a little ends
// when the client is to go.
func TestDrainEnds(t *testing.T) {
	server, conn := sockets(t)
	q, lane := testQueue(t, "*"), newLane(server)
	q.size = 1 << 20
	const frames, size = 1000, 64 << 10 // 64 MB
	data := make([]byte, size)
	for i := range frames {
		q.push(frame{seq: uint64(i + 1), name: "a", data: data})
	}
	var leaving atomic.Bool
	lane.leaving = leaving.Load
	drained := make(chan error, 1)
	go func() {
		_, err := lane.drain(q)
		drained <- err
		_ = server.Close()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
		t.Fatal(err)
	}
	leaving.Store(true)
	if n, err := io.Copy(io.Discard, conn); err != nil || n > frames*size/2 {
		t.Errorf("%d bytes more, %v", n, err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestWriteOfClosedSocket: nothing counts as written where nothing was tried.
func TestWriteOfClosedSocket(t *testing.T) {
	server, _ := sockets(t)
	lane := newLane(server)
	if n, err := lane.tryWrite([]byte("first")); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	_ = server.Close()
	if n, err := lane.tryWrite([]byte("again")); n != 0 || err == nil {
		t.Errorf("%d bytes went out of a closed socket: %v", n, err)
	}
}
