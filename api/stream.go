package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"

	"github.com/parley-p2p/parley"
)

const (
	streamWrite  = 10 * time.Second // a write that takes longer: too slow
	pingEvery    = 10 * time.Second
	pongWithin   = 20 * time.Second
	clientFrame  = 4 << 10 // bytes
	closeReason  = 123     // bytes of the text that a close frame has room for
	subProtocol  = "parley.v1"
	streamType   = "text/event-stream"
	closeTooSlow = websocket.StatusCode(4008)
)

func (s *Server) streamRoutes() {
	choice := []*huma.Param{
		param("types", huma.TypeString, "patterns of types with commas between them; all but log.*, stats.* and peer.sampled"),
		param("since", huma.TypeInteger, "the seq after which to go on"), param("token", huma.TypeString, "in place of the header"),
	}
	s.raw(route{method: http.MethodGet, pattern: prefix + "ws", access: read, stream: true, serve: s.webSocket},
		huma.Operation{OperationID: "get-ws", Summary: "Event stream by WebSocket, sub-protocol " + subProtocol + "; docs/events.md describes it", Description: aboutTypes},
		form{query: choice, status: http.StatusSwitchingProtocols})
	s.raw(route{method: http.MethodGet, pattern: prefix + "events", access: read, stream: true, serve: s.events},
		huma.Operation{OperationID: "get-events", Summary: "Event stream by server-sent events; docs/events.md describes it", Description: aboutTypes},
		form{
			query: append(choice, &huma.Param{Name: "Last-Event-ID", In: "header", Description: "as since", Schema: &huma.Schema{Type: huma.TypeInteger}}),
			gives: streamType,
		})
}

const aboutTypes = "The query types chooses: names of types or patterns, by comma. A list of which none fits a type of this node is refused, with " +
	"the nearest one; of another, a message unknown_types behind the first one names those that fit none."

// hello is the first message of a stream.
type hello struct {
	Boot     string    `json:"boot"`
	Seq      uint64    `json:"seq"` // the snapshot, or what was sent before, is not older than this
	Resumed  bool      `json:"resumed"`
	Denied   []string  `json:"denied_types,omitempty"` // patterns that let in nothing, for want of scope admin
	Snapshot *snapshot `json:"snapshot,omitempty"`
}

// snapshot is what a client needs to go on from by events.
type snapshot struct {
	Status      parley.Status       `json:"status"`
	Peers       []parley.Peer       `json:"peers"`
	StaticPeers []parley.StaticPeer `json:"static_peers"`
	Chain       *parley.Chain       `json:"chain"` // null while joining
	Alarms      []parley.Alarm      `json:"alarms"`
}

func (s *Server) snapshot() *snapshot {
	v := &snapshot{Status: s.node.Status(), Peers: s.node.Peers(), StaticPeers: s.node.StaticPeers()}
	v.Alarms = v.Status.Alarms
	if c, err := s.node.Chain(); err == nil {
		v.Chain = &c
	}
	return v
}

// client is one reader of the event stream.
type client struct {
	queue *queue
	ip    string  // counted; "" = not
	first []frame // hello, and what was missed
	stay  *stay
}

// enter reads what a stream asks for and joins the hub. A client that has
// entered MUST leave the hub.
func (s *Server) enter(r *http.Request, stream, types, since string) (*client, *problem) {
	f, err := newFilter(types)
	if err != nil {
		return nil, badRequest.problem(err.Error())
	}
	f.seeLogs(callerOf(r.Context()).admin)
	denied := f.denied()
	if len(denied) == len(f.rules) { // it would wait for ever
		return nil, s.denyTypes(r.Context(), denied)
	}
	var after uint64
	if since != "" {
		if after, err = strconv.ParseUint(since, 10, 53); err != nil {
			return nil, badRequest.problem("since: want the seq of an event")
		}
	}
	c := &client{queue: newQueue(stream, f, s.metrics), ip: clientIP(r)}
	c.queue.owner = callerOf(r.Context()).local
	seq, err := s.hub.join(c.queue, c.ip)
	if err != nil {
		p := full.problem(err.Error())
		p.Limit, p.refused = "clients", "clients"
		return nil, p
	}
	h := hello{Boot: s.boot, Seq: seq, Denied: denied}
	var missed []frame
	if since != "" {
		missed, h.Resumed = s.hub.backlog(after, seq, f)
	}
	if !h.Resumed {
		h.Snapshot = s.snapshot()
	}
	c.first = []frame{message("hello", h)}
	if len(f.unknown) > 0 {
		c.first = append(c.first, unknownTypes(f.unknown))
	}
	c.first = append(c.first, missed...)
	return c, nil
}

// denyTypes refuses patterns of the log to who is no admin.
func (s *Server) denyTypes(ctx context.Context, denied []string) *problem {
	p := s.permit(s.still(callerOf(ctx)), admin)
	p.Detail = "types=" + strings.Join(denied, ",") + ": " + p.Detail
	return p
}

func (s *Server) webSocket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		s.noUpgrade(w, r, prefix+"events has the same events for plain HTTP")
		return
	}
	c, p := s.enter(r, "ws", r.URL.Query().Get("types"), r.URL.Query().Get("since"))
	if c != nil {
		defer s.hub.leave(c.queue, c.ip)
	}
	if p != nil && p.Code != full.code {
		s.refuse(w, r, p)
		return
	}
	if p != nil {
		s.accept(w, r, errors.New(p.Detail), subProtocol) // it is closed at once
		return
	}
	conn, lane, err := s.acceptLane(w, r)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	var leave func()
	c.stay, leave = s.stay(callerOf(r.Context()), func() { _ = lane.Close() })
	defer leave()
	c.queue.join(lane)
	s.serveWebSocket(context.WithoutCancel(r.Context()), conn, lane, c)
}

// noUpgrade refuses a request for a WebSocket that is none, and says what there
// is instead.
func (s *Server) noUpgrade(w http.ResponseWriter, r *http.Request, instead string) {
	p := methodOrType.problem("this route speaks WebSocket; " + instead)
	p.Status = http.StatusUpgradeRequired
	w.Header().Set("Upgrade", "websocket")
	s.refuse(w, r, p)
}

// clientIP is what a client counts by, "" = it does not.
func clientIP(r *http.Request) string {
	if callerOf(r.Context()).limited() {
		return group(remoteAddr(r)).String()
	}
	return ""
}

// serveWebSocket works until the client goes, is too slow, or the node stops.
func (s *Server) serveWebSocket(ctx context.Context, conn *websocket.Conn, lane *lane, c *client) {
	ctx, cancel := context.WithCancel(ctx)
	conn.SetReadLimit(clientFrame)
	lane.leaving = func() bool { return ctx.Err() != nil || s.leaving(c.stay) }
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		readCommands(ctx, conn, c.queue)
	})
	wg.Go(func() {
		defer cancel()
		keepAlive(ctx, conn)
	})
	code, why := s.writeEvents(ctx, lane, c)
	if code != 0 {
		_ = conn.Close(code, why)
	}
	cancel()
	wg.Wait()
}

// writeEvents returns how to close the connection; 0 = it is gone. While the
// client keeps up the hub writes to it, and there is nothing to do here.
func (s *Server) writeEvents(ctx context.Context, lane *lane, c *client) (websocket.StatusCode, string) {
	if err := lane.send(c.first); err != nil {
		return 0, ""
	}
	c.first = nil // a snapshot may be large
	for {
		slow, err := lane.drain(c.queue)
		switch {
		case err != nil:
			return 0, ""
		case slow:
			return closeTooSlow, "too slow"
		}
		select {
		case <-ctx.Done():
			return 0, ""
		case <-s.hub.stopCh:
			return websocket.StatusGoingAway, errStopped.Error()
		case <-c.stay.over:
			return closeExpired, c.stay.why.Error()
		case <-c.queue.wake:
		}
	}
}

func writeFrame(ctx context.Context, conn *websocket.Conn, f frame) error {
	ctx, cancel := context.WithTimeout(ctx, streamWrite) // past it the library cuts the connection
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, f.data)
}

// keepAlive pings until the connection is gone.
func keepAlive(ctx context.Context, conn *websocket.Conn) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wait, cancel := context.WithTimeout(ctx, pongWithin)
		err := conn.Ping(wait)
		cancel()
		if err != nil {
			return
		}
	}
}

// readCommands obeys the client until it goes or says what is no command.
func readCommands(ctx context.Context, conn *websocket.Conn, q *queue) {
	for {
		kind, b, err := conn.Read(ctx)
		if err != nil {
			return
		}
		err = errors.New("want text")
		if kind == websocket.MessageText {
			err = q.obey(b)
		}
		if err != nil {
			text := err.Error()
			_ = conn.Close(websocket.StatusInvalidFramePayloadData, strings.ToValidUTF8(text[:min(len(text), closeReason)], ""))
			return
		}
	}
}

var errCommand = errors.New(`want {"subscribe":[…]}, {"unsubscribe":[…]} or {"ping":…}`)

func (q *queue) obey(b []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil || len(keys) != 1 {
		return errCommand
	}
	for name, value := range keys {
		var globs []string
		switch name {
		case "ping":
			q.push(message("pong", map[string]json.RawMessage{"ping": value}))
			return nil
		case "subscribe", "unsubscribe":
			if json.Unmarshal(value, &globs) != nil || len(globs) == 0 {
				return errCommand
			}
			return q.subscribe(name == "subscribe", globs)
		}
	}
	return errCommand
}

// events serves the stream as server-sent events.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	since := r.URL.Query().Get("since")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		since = id
	}
	c, p := s.enter(r, "sse", r.URL.Query().Get("types"), since)
	if p != nil {
		s.refuse(w, r, p)
		return
	}
	defer s.hub.leave(c.queue, c.ip)
	stay, leave := s.stay(callerOf(r.Context()), nil)
	defer leave()
	out := newSSE(w)
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	frames := c.first
	for {
		for _, f := range frames {
			if s.leaving(stay) {
				break
			}
			out.write(f.sse())
		}
		if !out.flush() {
			return
		}
		frames = nil
		slow := false
		select {
		case <-r.Context().Done():
			return
		case <-s.hub.stopCh:
			return
		case <-stay.over:
			out.write(": " + stay.why.Error() + "\n\n")
			return
		case <-tick.C:
			out.write(": ping\n\n")
		case <-c.queue.wake:
			frames, slow = c.queue.take(time.Now())
		}
		if slow {
			out.write(": too slow\n\n")
			return
		}
	}
}

// sse writes a frame as one server-sent event; JSON has no line breaks.
func (f frame) sse() string {
	id := ""
	if f.seq != 0 {
		id = "id: " + strconv.FormatUint(f.seq, 10) + "\n"
	}
	return id + "event: " + f.name + "\ndata: " + string(f.data) + "\n\n"
}

// sseWriter writes server-sent events, each within streamWrite.
type sseWriter struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	err error
}

func newSSE(w http.ResponseWriter) *sseWriter {
	h := w.Header()
	h.Set("Content-Type", streamType)
	h.Set("Cache-Control", "no-store")
	return &sseWriter{w: w, rc: http.NewResponseController(w)}
}

func (e *sseWriter) write(text string) bool {
	if e.err == nil {
		_ = e.rc.SetWriteDeadline(time.Now().Add(streamWrite)) // where there is none, a write cannot be late
		_, e.err = e.w.Write([]byte(text))
	}
	return e.err == nil
}

// flush sends what was written, and tells whether the client is still there.
func (e *sseWriter) flush() bool {
	if e.err == nil {
		e.err = e.rc.Flush()
	}
	_ = e.rc.SetWriteDeadline(time.Time{}) // in HTTP/2 one that passes would end the stream
	return e.err == nil
}
