package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// closeExpired ends a WebSocket whose token no longer holds: come again with
// another one.
const closeExpired = websocket.StatusCode(4001)

var errExpired = errors.New("the token has expired")

// expired tells when the token of a stream's caller no longer holds; a caller
// without one waits for ever.
func (c caller) expired() <-chan time.Time {
	if c.until.IsZero() {
		return nil
	}
	return time.After(time.Until(c.until.Add(tokenLeeway)))
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
