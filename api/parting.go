package api

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// closeExpired ends a WebSocket whose caller may not have it any longer: come
// again with another token.
const closeExpired = websocket.StatusCode(4001)

// partedError is why a stream's caller may not have it any longer.
type partedError string

func (e partedError) Error() string { return string(e) }

const (
	errExpired = partedError("the token has expired")
	errRevoked = partedError("the token no longer holds: its secret was replaced")
	errShut    = partedError("reading needs a token now: api.public_read was turned off")
)

// stay is one stream's leave to go on.
type stay struct {
	who   caller
	over  chan struct{} // closed when the caller may not have it any longer
	why   partedError   // set before over is closed
	cut   func()        // ends its connection at once, nil = HTTP's server does
	timer *time.Timer   // to the end of the token, nil = it has none
	once  sync.Once
}

func (y *stay) end(why partedError) {
	y.once.Do(func() {
		y.why = why
		close(y.over)
	})
}

// stays are the streams that go on.
type stays struct {
	mu  sync.Mutex // guards set
	set map[*stay]struct{}
}

// stay begins a stream of c; leave MUST be called when it is over. A reload
// after which c may not have it ends it, as does the end of c's token.
func (s *Server) stay(c caller, cut func()) (y *stay, leave func()) {
	y = &stay{who: c, over: make(chan struct{}), cut: cut}
	s.stays.mu.Lock()
	if s.stays.set == nil {
		s.stays.set = map[*stay]struct{}{}
	}
	s.stays.set[y] = struct{}{}
	s.stays.mu.Unlock()
	if !c.until.IsZero() {
		y.timer = time.AfterFunc(time.Until(c.until.Add(tokenLeeway)), func() { y.end(errExpired) })
	}
	s.judge(y) // the reload may have come since c was let in
	return y, func() {
		s.stays.mu.Lock()
		defer s.stays.mu.Unlock()
		delete(s.stays.set, y)
		if y.timer != nil {
			y.timer.Stop()
		}
	}
}

// judge ends a stream whose caller may not have it now. One who came with a token
// goes with it, as at its end, also where none is needed: he may have been shown
// more than others are.
func (s *Server) judge(y *stay) {
	if y.who.local {
		return
	}
	switch now := s.still(y.who); {
	case y.who.token && !now.token && time.Now().After(y.who.until.Add(tokenLeeway)):
		y.end(errExpired)
	case y.who.token && !now.token:
		y.end(errRevoked)
	case s.permit(now, y.who.need) != nil:
		y.end(errShut)
	}
}

// leaving tells whether a stream is to end though its client goes on.
func (s *Server) leaving(y *stay) bool {
	select {
	case <-s.hub.stopCh:
	case <-y.over:
	default:
		return false
	}
	return true
}

// judgeAll asks again of every stream.
func (s *Server) judgeAll() {
	for _, y := range s.stays.list() {
		s.judge(y)
	}
}

func (l *stays) list() []*stay {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.set))
}

// cut ends the connections of all streams that HTTP's server knows no more.
func (l *stays) cut() {
	for _, y := range l.list() {
		if y.cut != nil {
			y.cut()
		}
	}
}

// turnAway counts a client that is told why there is no place, so that the
// server's end waits for it. It reports false where the node is stopping and
// waits for nobody new.
func (h *hub) turnAway() (done func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil, false
	}
	h.running.Add(1)
	return h.running.Done, true
}

// accept makes a WebSocket of r, nil = the client has been answered. With crowd,
// why there is no place, it is closed at once.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, crowd error, subProtocols ...string) *websocket.Conn {
	if crowd != nil {
		done, ok := s.hub.turnAway()
		if !ok {
			s.refuse(w, r, notReady.problem(errStopped.Error()))
			return nil
		}
		defer done()
	}
	conn, err := websocket.Accept(w, r, s.acceptOptions(r, subProtocols...))
	if err != nil {
		return nil // Accept has answered
	}
	if crowd != nil {
		s.metrics.refused.WithLabelValues("clients").Inc()
		_ = conn.Close(websocket.StatusTryAgainLater, crowd.Error())
		return nil
	}
	return conn
}
