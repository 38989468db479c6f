package api

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	dumpsAtOnce = 2
	listsAtOnce = 4                // each makes some ten times the 4 MiB of records of a page
	listWait    = 5 * time.Second  // most lists take a moment: worth a wait
	slowest     = 256 << 10        // bytes/s that a reader of a large answer must take
	slowGrace   = 10 * time.Second // over that
	paceChunk   = 64 << 10         // bytes; who takes none is found out after slowGrace
)

// slots bounds how many large answers are made at once. Callers with a token
// have as many places of their own, so that nobody keeps the operator out. Of
// the others an address has one place; loopback may be a proxy and has no
// bound of its own.
type slots struct {
	each int           // places, with a token and without
	wait time.Duration // for a place
	busy string        // says that there is none

	mu     sync.Mutex // guards below
	taken  map[bool]int
	byAddr map[netip.Addr]struct{}
	freed  chan struct{} // closed, and made anew, when a place is left
}

func newSlots(each int, wait time.Duration, busy string) *slots {
	return &slots{each: each, wait: wait, busy: busy, taken: map[bool]int{}, byAddr: map[netip.Addr]struct{}{}, freed: make(chan struct{})}
}

// take waits for a place. It answers how to leave it, or nil.
func (s *slots) take(ctx context.Context, c caller, addr netip.Addr) (leave func()) {
	limit := time.NewTimer(s.wait)
	defer limit.Stop()
	for {
		freed := s.enter(c, group(addr))
		if freed == nil {
			return sync.OnceFunc(func() { s.leave(c, group(addr)) })
		}
		select {
		case <-freed:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// enter answers nil, or what is closed when it is worth another try.
func (s *slots) enter(c caller, addr netip.Addr) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, in := s.byAddr[addr]; s.taken[c.token] >= s.each || in && c.limited() {
		return s.freed
	}
	s.taken[c.token]++
	if c.limited() {
		s.byAddr[addr] = struct{}{}
	}
	return nil
}

func (s *slots) leave(c caller, addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[c.token]--
	if c.limited() {
		delete(s.byAddr, addr)
	}
	close(s.freed)
	s.freed = make(chan struct{})
}

// limited tells whether what c does counts by its address.
func (c caller) limited() bool { return !c.token && !c.free }

// inPlace serves a route that keeps a place for as long as it lasts; how fast
// its reader must be is its own affair.
func (s *Server) inPlace(places *slots, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if leave := s.takePlace(places, w, r); leave != nil {
			defer leave()
			serve(w, r)
		}
	}
}

// takePlace waits for a place; nil = there is none, and the client is told.
func (s *Server) takePlace(places *slots, w http.ResponseWriter, r *http.Request) (leave func()) {
	leave = places.take(r.Context(), callerOf(r.Context()), remoteAddr(r))
	if leave == nil {
		p := rateLimited.problem(places.busy)
		p.refused = "busy"
		s.refuse(w, r, p)
	}
	return leave
}

// within serves a route that makes large answers. The place is kept until the
// answer is written, and a reader that is too slow is cut off.
func (s *Server) within(places *slots, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		leave := s.takePlace(places, w, r)
		if leave == nil {
			return
		}
		paced := &pacedWriter{ResponseWriter: w}
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Time{}) // of the writes alone: the answer may take long to make
		defer func() {
			leave()
			_ = rc.SetWriteDeadline(time.Now().Add(slowGrace)) // what is still buffered
			if paced.err != nil {
				panic(http.ErrAbortHandler) // the reader is gone, or must go
			}
		}()
		serve(paced, r)
	}
}

// pacedWriter cuts off a reader that takes less than slowest. What the node
// itself needs for the answer does not count.
type pacedWriter struct {
	http.ResponseWriter
	written int
	waited  time.Duration
	err     error // of the first Write that failed
}

func (w *pacedWriter) Write(b []byte) (n int, err error) {
	rc := http.NewResponseController(w.ResponseWriter)
	for n < len(b) && w.err == nil {
		part := b[n:min(n+paceChunk, len(b))]
		began := time.Now()
		due := slowGrace + time.Duration(w.written+len(part))*time.Second/slowest
		_ = rc.SetWriteDeadline(began.Add(due - w.waited)) // not every connection has one
		var took int
		took, w.err = w.ResponseWriter.Write(part)
		_ = rc.SetWriteDeadline(time.Time{}) // in HTTP/2 one that passes while the node works would end the stream
		n, w.written, w.waited = n+took, w.written+took, w.waited+time.Since(began)
	}
	return n, w.err
}

// Unwrap lets [http.ResponseController] through.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
