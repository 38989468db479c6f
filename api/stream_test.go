package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/coder/websocket"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
)

func callOps(h http.Handler, host, path string) reply {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.Bytes()}
}

type envelope struct {
	V    int
	Seq  uint64
	TS   time.Time
	Type string
	Data json.RawMessage
}

type socket struct {
	*websocket.Conn
	t *testing.T
}

func (h *house) dial(t *testing.T, query string) *socket {
	t.Helper()
	conn, res, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/api/v1/ws"+query,
		&websocket.DialOptions{Subprotocols: []string{subProtocol}})
	if err != nil {
		t.Fatalf("%v %v", res, err)
	}
	if conn.Subprotocol() != subProtocol {
		t.Errorf("sub-protocol %q", conn.Subprotocol())
	}
	conn.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &socket{conn, t}
}

func (s *socket) next() envelope {
	s.t.Helper()
	_, b, err := s.Read(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		s.t.Fatal(err)
	}
	return e
}

// until reads to the first event of a type.
func (s *socket) until(name string) envelope {
	s.t.Helper()
	for {
		if e := s.next(); e.Type == name {
			return e
		}
	}
}

func (s *socket) say(text string) {
	s.t.Helper()
	if err := s.Write(s.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) closed() websocket.StatusCode {
	for {
		if _, _, err := s.Read(s.t.Context()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

type helloData struct {
	Boot     string
	Seq      uint64
	Resumed  bool
	Snapshot *struct {
		Status      parley.Status
		Peers       []parley.Peer
		StaticPeers []parley.StaticPeer `json:"static_peers"`
		Chain       *parley.Chain
	}
}

func readHello(t *testing.T, e envelope) helloData {
	t.Helper()
	var h helloData
	if err := json.Unmarshal(e.Data, &h); err != nil || e.Type != "hello" {
		t.Fatalf("%s: %v", e.Type, err)
	}
	return h
}

func (p pair) stream(t *testing.T) {
	h := p.h
	admin := h.token("admin")
	submit := func(subject string) {
		if got := h.do("POST", "/api/v1/records", admin, fmt.Sprintf(`{"subject":%q,"body":1}`, subject)); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	s := h.dial(t, "")
	first := readHello(t, s.next())
	if first.Resumed || first.Snapshot == nil || first.Snapshot.Chain == nil || len(first.Snapshot.Peers) != 1 || first.Snapshot.StaticPeers == nil || first.Boot == "" {
		t.Errorf("hello: %+v", first)
	}
	submit("stream 1")
	one := s.until("record.committed")
	if one.Seq <= first.Seq || one.V != 1 || time.Since(one.TS) > time.Minute || one.TS.Nanosecond()%1e6 != 0 {
		t.Errorf("envelope %+v after hello %d", one, first.Seq)
	}
	s.say(`{"ping":17}`)
	if e := s.until("pong"); string(e.Data) != `{"ping":17}` {
		t.Errorf("pong %s", e.Data)
	}
	s.say(`{"unsubscribe":["*"]}`)
	s.say(`{"subscribe":["head.*"]}`)
	s.say(`{"ping":18}`)
	s.until("pong")
	submit("stream 2")
	if e := s.next(); e.Type != "head.changed" {
		t.Errorf("after subscribing to head.* alone: %s", e.Type)
	}

	resumed := h.dial(t, fmt.Sprintf("?types=record.*&since=%d", one.Seq))
	second := readHello(t, resumed.next())
	if !second.Resumed || second.Snapshot != nil || second.Boot != first.Boot {
		t.Errorf("hello after a break: %+v", second)
	}
	e := resumed.next()
	if e.Type != "record.committed" || e.Seq <= one.Seq || !strings.Contains(string(e.Data), `"stream 2"`) {
		t.Errorf("first of what was missed: %+v", e)
	}
	submit("stream 3")
	if next := resumed.next(); next.Seq <= e.Seq || !strings.Contains(string(next.Data), `"stream 3"`) {
		t.Errorf("after what was missed: %+v", next)
	}
	if old := readHello(t, h.dial(t, "?since=1").next()); old.Resumed || old.Snapshot == nil {
		t.Errorf("since before the buffer: %+v", old)
	}

	bad := h.dial(t, "")
	bad.say("hi")
	if code := bad.closed(); code != websocket.StatusInvalidFramePayloadData {
		t.Errorf("nonsense: closed with %d", code)
	}
	long := h.dial(t, "")
	_ = long.Write(t.Context(), websocket.MessageText, make([]byte, clientFrame+1))
	if code := long.closed(); code != websocket.StatusMessageTooBig {
		t.Errorf("a long frame: closed with %d", code)
	}
	_, res, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/api/v1/ws",
		&websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.example"}}})
	if err == nil || res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another origin: %v %v", res, err)
	}
}

func (p pair) sse(t *testing.T) {
	h := p.h
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(lastID string) *bufio.Scanner {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+"/api/v1/events?types=record.*&token="+h.token("read"), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Last-Event-ID", lastID)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%d %s", res.StatusCode, res.Header.Get("Content-Type"))
		}
		sc := bufio.NewScanner(res.Body)
		sc.Buffer(nil, 1<<20)
		return sc
	}
	next := func(sc *bufio.Scanner) map[string]string {
		m := map[string]string{}
		for sc.Scan() && sc.Text() != "" {
			k, v, _ := strings.Cut(sc.Text(), ": ")
			m[k] = v
		}
		return m
	}
	sc := open("")
	if m := next(sc); m["event"] != "hello" || m["id"] != "" {
		t.Errorf("first: %v", m)
	}
	h.do("POST", "/api/v1/records", h.token("admin"), `{"subject":"sse","body":1}`)
	m := next(sc)
	if m["event"] != "record.committed" || m["id"] == "" || !strings.Contains(m["data"], `"seq":`+m["id"]) {
		t.Errorf("second: %v", m)
	}
	var seq uint64
	if _, err := fmt.Sscan(m["id"], &seq); err != nil {
		t.Fatal(err)
	}
	again := open(fmt.Sprint(seq - 1))
	if m := next(again); !strings.Contains(m["data"], `"resumed":true`) {
		t.Errorf("hello after a break: %v", m)
	}
	if m := next(again); m["id"] != fmt.Sprint(seq) {
		t.Errorf("first of what was missed: %v", m)
	}
}

// stop ends the node while clients hang on it.
func (p pair) stop(t *testing.T) {
	h, follower := p.h, p.follower
	s := h.dial(t, "?types=record.*")
	s.next()
	code := make(chan websocket.StatusCode, 1)
	go func() { code <- s.closed() }()
	follower.stop()
	began := time.Now()
	h.stop()
	if got := <-code; got != websocket.StatusGoingAway {
		t.Errorf("closed with %d", got)
	}
	if took := time.Since(began); took > drainTimeout {
		t.Errorf("took %s to stop", took)
	}
}

// TestFullServer turns a client away with the code that says: try again.
func TestFullServer(t *testing.T) {
	h := start(t, func(c *config.Config) { c.API.MaxClients = 1 })
	s := h.dial(t, "")
	s.next()
	if code := h.dial(t, "").closed(); code != websocket.StatusTryAgainLater {
		t.Errorf("closed with %d", code)
	}
	got := h.do("GET", "/api/v1/events", "", "")
	if m := got.json(t); got.status != 503 || m["code"] != "PLY-014" || m["limit"] != "clients" || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// A client that is newer than the node gets what the node has, however it asks,
// and is told of the rest. What nothing fits is misspelt.
func TestUnknownTypes(t *testing.T) {
	h := start(t, nil)
	want := func(e envelope) {
		t.Helper()
		if e.Type != "unknown_types" || string(e.Data) != `{"types":["disk.melted"]}` {
			t.Errorf("%s %s", e.Type, e.Data)
		}
	}
	reload := func() {
		t.Helper()
		if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	const types = "disk.melted,config.*"
	s := h.dial(t, "?types="+types)
	s.until("hello")
	want(s.next())
	reload()
	s.until("config.reloaded")

	s = h.dial(t, "?types=config.*")
	s.until("hello")
	for _, command := range []string{`{"subscribe":["disk.melted"]}`, `{"unsubscribe":["disk.melted"]}`} {
		if err := s.Write(t.Context(), websocket.MessageText, []byte(command)); err != nil {
			t.Fatal(err)
		}
		want(s.next())
	}
	reload()
	s.until("config.reloaded")

	watch, err := parleyv1connect.NewNodeServiceClient(http.DefaultClient, h.base).WatchEvents(t.Context(), connect.NewRequest(&pb.WatchEventsRequest{Types: strings.Split(types, ",")}))
	if err != nil || !watch.Receive() || !watch.Receive() || !slices.Equal(watch.Msg().GetUnknownTypes().GetTypes(), []string{"disk.melted"}) {
		t.Errorf("%v %v %v", err, watch.Err(), watch.Msg())
	}

	client, err := rpc.Dial(strings.Replace(h.base, "http", "ws", 1) + "/rpc")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	events := make(chan envelope, 10)
	if _, err := client.Subscribe(t.Context(), "parley", events, "events", types); err != nil {
		t.Fatal(err)
	}
	want(<-events)

	if got := h.do("GET", "/api/v1/events?types=disk.melted,blok.*", "", ""); got.status != 400 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestTooSlow floods one client three times.
func TestTooSlow(t *testing.T) {
	h := start(t, nil)
	s := h.dial(t, "?types=ledger.checked")
	s.next()
	flood := make([]frame, queueSize+10)
	for i := range flood {
		flood[i] = frame{seq: uint64(i + 1), name: "ledger.checked", data: []byte(`{"type":"ledger.checked"}`)}
	}
	h.hub.mu.Lock()
	var q *queue
	for q = range h.hub.clients {
	}
	h.hub.mu.Unlock()
	for range lagsAllowed - 1 {
		q.push(flood...)
		if e := s.until("lagged"); string(e.Data) != `{"dropped":10,"from":1025,"to":1034}` {
			t.Errorf("lagged %s", e.Data)
		}
	}
	q.push(flood...)
	if code := s.closed(); code != closeTooSlow {
		t.Errorf("closed with %d", code)
	}
}
