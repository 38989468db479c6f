package api

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"regexp"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// grpcServices are all services of remote calls but those of other systems.
func (s *Server) grpcServices() {
	s.standardServices()
	s.nodeService()
	s.peerService()
	s.banService()
	s.dhtService()
	s.gossipService()
	s.chainService()
	s.sidecarService()
}

// grpcRule is what one remote call asks of its caller, and what it may take. The
// same call comes by gRPC, gRPC-Web and Connect.
type grpcRule struct {
	access  access
	maxBody int           // bytes of one message, 0 = defaultMaxBody
	places  *slots        // bound of large answers and of what is open to all, nil = none
	stream  bool          // has no end of its own, or many messages: not timed, and ended when the node stops
	atMost  time.Duration // of a stream, 0 = no limit
	busy    bool          // of a program beside the node, with many messages: read in large parts, and nothing is compressed
}

// frameSpare is what may come beside a message: its head, and what compression
// adds to what does not get smaller.
const frameSpare = 4 << 10 // bytes

const (
	compressFrom = 1 << 10       // bytes of an answer, for who takes it compressed
	compressNone = math.MaxInt32 // bytes, which no answer has
	readAtOnce   = 32 << 10      // bytes of a busy stream
)

// grpcService adds the calls of one service. Each is a route of its own, so that
// access, limits and counters are those of every route; a call without a rule
// does not exist.
func grpcService[T any](s *Server, build func(T, ...connect.HandlerOption) (string, http.Handler), impl T, rules map[string]grpcRule) {
	limits := connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
		rule := rules[spec.Procedure[strings.LastIndexByte(spec.Procedure, '/')+1:]]
		from := compressFrom
		if rule.busy {
			from = compressNone
		}
		return []connect.HandlerOption{connect.WithReadMaxBytes(rule.limit()), connect.WithCompressMinBytes(from)}
	})
	prefix, h := build(impl, limits, connect.WithInterceptors(calls{s}),
		connect.WithCodec(jsonCodec{"json"}), connect.WithCodec(jsonCodec{"json; charset=utf-8"}))
	s.services = append(s.services, strings.Trim(prefix, "/"))
	for name, rule := range rules {
		maxBody := int64(rule.limit() + frameSpare)
		if rule.stream {
			maxBody = noBodyLimit
		}
		s.handle(route{
			method: http.MethodPost, pattern: prefix + name, access: rule.access, maxBody: maxBody, places: rule.places,
			stream: rule.stream, grpc: true, serve: s.serveGRPC(h, rule),
		})
	}
}

func (r grpcRule) limit() int {
	if r.maxBody == 0 {
		return defaultMaxBody
	}
	return r.maxBody
}

// grpcCall is what an rpc knows of the request that carries it.
type grpcCall struct {
	r      *http.Request
	rc     *http.ResponseController
	status int  // of the answer as REST would have it; 0 = no handler was reached
	ends   bool // a stream has a time in which all must have come
	heard  bool // the first message of a stream has come; who receives
	held   bool // the message that is sent waits for the next one; who sends
	timed  bool // a write has its deadline; who sends

	together []byte // what is held; who sends
}

type callKey struct{}

func callOf(ctx context.Context) *grpcCall { return ctx.Value(callKey{}).(*grpcCall) }

func (s *Server) serveGRPC(h http.Handler, rule grpcRule) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &grpcCall{r: r, rc: http.NewResponseController(w)}
		ctx := context.WithValue(r.Context(), callKey{}, c)
		if rule.stream {
			var end func()
			ctx, end = s.untilStop(ctx, c.rc)
			defer end()
			c.ends = rule.atMost > 0
			_ = c.rc.SetWriteDeadline(time.Time{}) // each message has its own
		}
		_ = c.rc.SetReadDeadline(time.Now().Add(cmp.Or(rule.atMost, bodyTimeout))) // not every connection has one
		r = r.WithContext(ctx)
		if rule.busy {
			r.Body = inParts{bufio.NewReaderSize(r.Body, readAtOnce), r.Body}
		}
		h.ServeHTTP(flushWriter{w, c}, r)
		if rec := recorderOf(w); rec != nil {
			switch {
			case c.status != 0:
				rec.counted = c.status
			case rec.code() == http.StatusOK: // gRPC says it in the trailer alone
				rec.counted = http.StatusBadRequest
			}
		}
	}
}

// inParts reads what has come at once: HTTP/2 tells its client of each read, and
// connect does two a message.
type inParts struct {
	io.Reader
	io.Closer
}

// untilStop ends a stream when the node stops or the caller's token does, also
// one that waits for its client. end MUST be called.
func (s *Server) untilStop(ctx context.Context, rc *http.ResponseController) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stay, leave := s.stay(callerOf(ctx), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.hub.stopCh:
			cancel(errStopped)
		case <-stay.over:
			cancel(stay.why)
		case <-ctx.Done():
			return
		}
		_ = rc.SetReadDeadline(time.Now())
	}()
	return ctx, func() {
		leave()
		cancel(nil)
		<-done // rc must not be used when the request is over
	}
}

// flushWriter is what connect asks of a writer that streams.
type flushWriter struct {
	http.ResponseWriter
	call *grpcCall
}

// Write keeps what is held: HTTP/2 would make frames of it, each with its cost.
func (w flushWriter) Write(b []byte) (int, error) {
	c := w.call
	if !c.held && len(c.together) == 0 {
		return w.ResponseWriter.Write(b)
	}
	c.together = append(c.together, b...)
	return len(b), nil
}

func (w flushWriter) Flush() {
	c := w.call
	if c.held {
		return
	}
	if len(c.together) > 0 {
		_, _ = w.ResponseWriter.Write(c.together) // fails where the client is gone, as the next one does
		if c.together = c.together[:0]; cap(c.together) > 2*toldAtOnce {
			c.together = nil
		}
	}
	_ = c.rc.Flush()
}

// Unwrap lets [http.ResponseController] through.
func (w flushWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func recorderOf(w http.ResponseWriter) *recorder {
	for {
		switch v := w.(type) {
		case *recorder:
			return v
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return nil
		}
	}
}

// calls gives every error of a handler the form that REST has, and notes how
// the call ended.
type calls struct{ *Server }

func (s calls) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		_ = callOf(ctx).rc.SetReadDeadline(time.Time{}) // the message is here: past it the client would be taken for gone
		res, err := next(ctx, r)
		return res, s.ended(ctx, err)
	}
}

func (s calls) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return s.ended(ctx, next(ctx, timedConn{conn, callOf(ctx), ctx}))
	}
}

func (s calls) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (s calls) ended(ctx context.Context, err error) error {
	c := callOf(ctx)
	why := context.Cause(ctx)
	if parted, is := errors.AsType[partedError](why); is {
		err = unauthenticated.problem(parted.Error())
	} else if errors.Is(why, errStopped) {
		err = notReady.problem(why.Error())
	}
	if c.status = http.StatusOK; err == nil {
		return nil
	}
	if wire, ok := errors.AsType[*connect.Error](err); ok { // of connect itself: the message does not decode, is too large, or cannot be sent
		c.status = statusOf(wire.Code())
		return err
	}
	p := s.problemOf(err)
	if p.refused != "" {
		s.metrics.refused.WithLabelValues(p.refused).Inc()
	}
	c.status = p.Status
	return p.grpc()
}

// asked answers a remote call by what serves the native route.
func asked[M, I, O any, P interface {
	*M
	proto.Message
}](ctx context.Context, serve func(context.Context, *I) (*answer[O], error), in *I) (*connect.Response[M], error) {
	if err := fits(in); err != nil {
		return nil, err
	}
	a, err := serve(ctx, in)
	if err != nil {
		return nil, err
	}
	return answered[M, P](a.Body, nil)
}

// answered makes the answer of a view.
func answered[M any, P interface {
	*M
	proto.Message
}](view any, err error) (*connect.Response[M], error) {
	if err != nil {
		return nil, err
	}
	m, err := shown[M, P](view)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

// timedConn cuts off a client that does not take a message in time, or does not
// say in time what it wants.
type timedConn struct {
	connect.StreamingHandlerConn
	*grpcCall
	ctx context.Context //nolint:containedctx // of the one call that it serves
}

func (c timedConn) Receive(m any) error {
	err := c.StreamingHandlerConn.Receive(m)
	if err != nil || c.ends || c.heard {
		return err
	}
	c.heard = true
	_ = c.rc.SetReadDeadline(time.Time{}) // what comes next may take long
	if c.ctx.Err() != nil {
		_ = c.rc.SetReadDeadline(time.Now()) // the end came in between
	}
	return nil
}

func (c timedConn) Send(m any) error {
	if !c.timed { // those that are held go out together
		_ = c.rc.SetWriteDeadline(time.Now().Add(streamWrite)) // not every connection has one
		c.timed = true
	}
	err := c.StreamingHandlerConn.Send(m)
	if !c.held {
		_ = c.rc.SetWriteDeadline(time.Time{}) // in HTTP/2 one that passes would end the stream
		c.timed = false
	}
	return err
}

// procedure is the form of a path that names a remote call.
var procedure = regexp.MustCompile(`^/[a-z][a-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+/[A-Za-z][A-Za-z0-9_]*$`)

// isGRPC tells who wants an answer in the form of a remote call.
func isGRPC(r *http.Request) bool {
	t := r.Header.Get("Content-Type")
	return strings.HasPrefix(t, "application/grpc") || strings.HasPrefix(t, "application/connect+") || procedure.MatchString(r.URL.Path)
}

var grpcErrors = connect.NewErrorWriter()

// refuseGRPC answers, in the client's protocol, what no handler has seen.
func (s *Server) refuseGRPC(w http.ResponseWriter, r *http.Request, p *problem) {
	if rec := recorderOf(w); rec != nil {
		rec.counted = p.Status
	}
	_ = grpcErrors.Write(w, r, p.grpc()) // the client is gone
}
