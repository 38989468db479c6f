package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/semaphore"
)

const (
	rpcSubscribe   = "parley_subscribe"
	rpcUnsubscribe = "parley_unsubscribe"
	rpcWaiting     = 16 // messages of one connection that wait for their turn, of maxRPCBody bytes together
	rpcSubs        = 8  // subscriptions of one connection
	acceptPause    = 100 * time.Millisecond
)

// rpcPipe carries whole messages. One goroutine reads, several write.
type rpcPipe interface {
	// read returns the next message, of at most maxRPCBody bytes.
	read(ctx context.Context) ([]byte, error)
	// write sends a message, within streamWrite.
	write(ctx context.Context, b []byte) error
	// part tells the client why the connection ends, while there is one.
	part(why error)
	// cut ends the connection at once.
	cut()
}

// rpcSession is one connection of JSON-RPC. Its messages are carried out one
// after the other, so that a client has no more at work than it waits for.
type rpcSession struct {
	s    *Server
	pipe rpcPipe
	addr netip.Addr
	ip   string // counted; "" = not
	end  context.CancelCauseFunc
	wg   sync.WaitGroup

	room *semaphore.Weighted // bytes of messages that wait

	mu   sync.Mutex // guards subs
	subs map[string]context.CancelFunc
}

var errRPCSlow = errors.New("too slow")

type rpcAddrKey struct{}

// rpcAddr is where the caller of a method is.
func rpcAddr(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(rpcAddrKey{}).(netip.Addr)
	return a
}

// serveRPC works until the client goes, is too slow, or the node stops. The
// caller is in ctx.
func (s *Server) serveRPC(ctx context.Context, pipe rpcPipe, addr netip.Addr, ip string) {
	ctx, end := context.WithCancelCause(context.WithValue(ctx, rpcAddrKey{}, addr))
	x := &rpcSession{s: s, pipe: pipe, addr: addr, ip: ip, end: end, room: semaphore.NewWeighted(maxRPCBody), subs: map[string]context.CancelFunc{}}
	defer x.wg.Wait()
	defer end(nil)
	messages := make(chan []byte, rpcWaiting)
	x.wg.Go(func() {
		defer close(messages)
		x.listen(ctx, messages)
	})
	stay, leave := s.stay(callerOf(ctx), pipe.cut)
	defer leave()
	why := x.work(ctx, messages, stay)
	s.log.Debug("JSON-RPC connection ended", "why", why)
	pipe.part(why)
}

// work returns why it ended, nil = the client has no more to say.
func (x *rpcSession) work(ctx context.Context, messages <-chan []byte, stay *stay) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-x.s.hub.stopCh:
			return errStopped
		case <-stay.over:
			return stay.why
		case b, more := <-messages:
			if !more {
				return context.Cause(ctx)
			}
			x.room.Release(rpcSize(b))
			if err := x.obey(ctx, b); err != nil {
				return err
			}
		}
	}
}

// listen reads until the connection ends. What was read before a plain end is
// still answered; when the client is gone, what is at work for it is broken off.
func (x *rpcSession) listen(ctx context.Context, messages chan<- []byte) {
	for {
		b, err := x.pipe.read(ctx)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			x.end(err)
			return
		}
		if x.room.Acquire(ctx, rpcSize(b)) != nil {
			return
		}
		select {
		case messages <- b:
		case <-ctx.Done():
			return
		}
	}
}

// rpcSize is the room that a message takes while it waits; of the local socket
// one can be a little over the limit.
func rpcSize(b []byte) int64 { return int64(min(len(b), maxRPCBody)) }

// obey carries out one message and sends its answer.
func (x *rpcSession) obey(ctx context.Context, b []byte) error {
	call := readRPC(b)
	if err := x.s.rpcPace(ctx, x.addr, call.calls); err != nil {
		return err
	}
	if m, is := call.subscription(); is {
		answer, begin := x.subscription(ctx, m)
		if err := x.pipe.write(ctx, answer); err != nil {
			return err
		}
		begin()
		return nil
	}
	if answer := x.s.rpcAnswer(ctx, call); len(answer) > 0 {
		return x.pipe.write(ctx, answer)
	}
	return nil
}

// subscription is the call that the library cannot carry out: to it all comes
// as by HTTP.
func (c rpcCall) subscription() (rpcMessage, bool) {
	if c.batch || c.junk || c.fault != nil {
		return rpcMessage{}, false
	}
	m := c.list[0]
	return m, len(m.ID) > 0 && (m.Method == rpcSubscribe || m.Method == rpcUnsubscribe)
}

// subscription answers a call, and begins once the answer was sent.
func (x *rpcSession) subscription(ctx context.Context, m rpcMessage) (answer []byte, begin func()) {
	nothing := func() {}
	if p := x.s.rpcPermit(ctx, m.Method); p != nil {
		return rpcErrorBody(m.ID, rpcErrorOf(p)), nothing
	}
	if m.Method == rpcUnsubscribe {
		return x.unsubscribe(m), nothing
	}
	f, err := subscriptionFilter(m.Params)
	if err != nil {
		return rpcErrorBody(m.ID, &rpcError{rpcBadParams, err.Error(), rpcErrorData{Code: badRequest.code}}), nothing
	}
	f.seeLogs(x.s.still(callerOf(ctx)).admin)
	if denied := f.denied(); len(denied) > 0 { // no hello tells of them here
		return rpcErrorBody(m.ID, rpcErrorOf(x.s.denyTypes(ctx, denied))), nothing
	}
	q := newQueue("rpc", f, x.s.metrics)
	q.owner = callerOf(ctx).local
	if len(f.unknown) > 0 {
		q.push(unknownTypes(f.unknown))
	}
	x.mu.Lock()
	many := len(x.subs) >= rpcSubs
	x.mu.Unlock()
	if many {
		err = errFull
	} else {
		_, err = x.s.hub.join(q, x.ip)
	}
	if err != nil {
		return rpcErrorBody(m.ID, rpcErrorOf(full.problem(err.Error()))), nothing
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, by its documentation
	name := "0x" + hex.EncodeToString(id[:])
	ctx, cancel := context.WithCancel(ctx)
	x.mu.Lock()
	x.subs[name] = cancel
	x.mu.Unlock()
	told := make(chan struct{})
	x.wg.Go(func() {
		defer x.s.hub.leave(q, x.ip)
		select {
		case <-told:
			x.notify(ctx, name, q)
		case <-ctx.Done():
		}
	})
	return rpcResultBody(m.ID, name), func() { close(told) }
}

// subscriptionFilter reads ["events", globs]; globs is a list, or a text with
// commas, and may be missing.
func subscriptionFilter(params json.RawMessage) (*filter, error) {
	var args []json.RawMessage
	var name, types string
	var globs []string
	if json.Unmarshal(params, &args) != nil || len(args) == 0 || len(args) > 2 || json.Unmarshal(args[0], &name) != nil || name != "events" {
		return nil, errors.New(`want ["events", ["peer.*", …]]`)
	}
	if len(args) == 2 {
		if json.Unmarshal(args[1], &globs) == nil {
			types = strings.Join(globs, ",")
		} else if json.Unmarshal(args[1], &types) != nil {
			return nil, errors.New("types: want a list of patterns such as peer.*")
		}
	}
	return newFilter(types)
}

func (x *rpcSession) unsubscribe(m rpcMessage) []byte {
	var args []string
	if json.Unmarshal(m.Params, &args) != nil || len(args) != 1 {
		return rpcErrorBody(m.ID, &rpcError{rpcBadParams, "want the id of a subscription", rpcErrorData{Code: badRequest.code}})
	}
	x.mu.Lock()
	cancel, is := x.subs[args[0]]
	delete(x.subs, args[0])
	x.mu.Unlock()
	if !is {
		return rpcErrorBody(m.ID, rpcErrorOf(notFound.problem("no such subscription on this connection")))
	}
	cancel()
	return rpcResultBody(m.ID, true)
}

// notify sends what happens until the subscription or the connection ends.
func (x *rpcSession) notify(ctx context.Context, name string, q *queue) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		frames, slow := q.take(time.Now())
		if slow {
			x.end(errRPCSlow)
			return
		}
		for _, f := range frames {
			b, err := json.Marshal(map[string]any{
				"jsonrpc": "2.0", "method": "parley_subscription", "params": map[string]any{"subscription": name, "result": json.RawMessage(f.data)},
			})
			if err == nil {
				err = ctx.Err() // between two, whatever the pipe makes of it
			}
			if err == nil {
				err = x.pipe.write(ctx, b)
			}
			if err != nil {
				if ctx.Err() == nil {
					x.end(err)
				}
				return
			}
		}
	}
}

func rpcResultBody(id json.RawMessage, result any) []byte {
	b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "result": result})
	if err != nil {
		return nil // an id is JSON: it was read as such
	}
	return b
}

// joinRPC counts a connection among the clients of the event stream; it gets
// no events by that.
func (s *Server) joinRPC(c caller, ip string) (leave func(), err error) {
	q := newQueue("rpc", &filter{}, s.metrics)
	q.owner = c.local
	if _, err := s.hub.join(q, ip); err != nil {
		return nil, err
	}
	return func() { s.hub.leave(q, ip) }, nil
}

// rpcSocket serves JSON-RPC by WebSocket.
func (s *Server) rpcSocket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		if r.URL.Path == "/" {
			s.refuse(w, r, notFound.problem("no such route: see /openapi.json"))
			return
		}
		s.noUpgrade(w, r, "POST has the same methods")
		return
	}
	addr, ip := remoteAddr(r), clientIP(r)
	leave, crowd := s.joinRPC(callerOf(r.Context()), ip)
	if crowd == nil {
		defer leave()
	}
	conn := s.accept(w, r, crowd)
	if conn == nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxRPCBody)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { // a ping that nobody answers ends the reading
		keepAlive(ctx, conn)
		_ = conn.CloseNow()
	})
	s.serveRPC(ctx, socketPipe{conn}, addr, ip)
	cancel()
	wg.Wait()
}

type socketPipe struct{ conn *websocket.Conn }

func (p socketPipe) read(ctx context.Context) ([]byte, error) {
	_, b, err := p.conn.Read(ctx)
	return b, err
}

func (p socketPipe) write(ctx context.Context, b []byte) error {
	return writeFrame(ctx, p.conn, frame{data: b})
}

func (p socketPipe) cut() { _ = p.conn.CloseNow() }

func (p socketPipe) part(why error) {
	parted, is := errors.AsType[partedError](why)
	switch {
	case is:
		_ = p.conn.Close(closeExpired, parted.Error())
	case errors.Is(why, errStopped):
		_ = p.conn.Close(websocket.StatusGoingAway, why.Error())
	case errors.Is(why, errRPCSlow):
		_ = p.conn.Close(closeTooSlow, why.Error())
	}
}

// serveIPC serves JSON-RPC on the local socket until ctx ends. Who may open it
// is admin.
func (s *Server) serveIPC(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	who := caller{token: true, admin: true, free: true, local: true}
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.log.Warn("local JSON-RPC", "err", err) // too many files are open, for a moment
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		wg.Go(func() {
			defer func() { _ = conn.Close() }()
			leave, err := s.joinRPC(who, "")
			if err != nil {
				s.metrics.refused.WithLabelValues("clients").Inc()
				return
			}
			defer leave()
			ctx := context.WithValue(context.WithoutCancel(ctx), callerKey{}, who)
			s.serveRPC(ctx, newLocalPipe(conn), netip.Addr{}, "")
		})
	}
}

// localPipe carries messages on a socket, where each is one JSON value.
type localPipe struct {
	conn  net.Conn
	limit *io.LimitedReader
	dec   *json.Decoder
	ended bool

	mu sync.Mutex // held while a message is written
}

func newLocalPipe(conn net.Conn) *localPipe {
	limit := &io.LimitedReader{R: conn}
	return &localPipe{conn: conn, limit: limit, dec: json.NewDecoder(limit)}
}

// read ends the connection after what is no JSON, which is handed on: nobody
// knows where the next message begins.
func (p *localPipe) read(ctx context.Context) ([]byte, error) {
	if p.ended {
		return nil, io.EOF
	}
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() })
	defer stop()
	p.limit.N = maxRPCBody
	var raw json.RawMessage
	err := p.dec.Decode(&raw)
	if err == nil {
		return raw, nil
	}
	p.ended = true
	if _, bad := errors.AsType[*json.SyntaxError](err); bad {
		return []byte(jsonrpcFalse), nil
	}
	if p.limit.N == 0 {
		return nil, errors.Join(err, p.write(ctx, rpcErrorBody(nil, rpcErrorOf(bodyTooLarge(maxRPCBody)))))
	}
	return nil, err
}

func (p *localPipe) write(_ context.Context, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.conn.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return err
	}
	_, err := p.conn.Write(append(b, '\n'))
	return err
}

func (p *localPipe) part(error) {}

func (p *localPipe) cut() { _ = p.conn.Close() }
