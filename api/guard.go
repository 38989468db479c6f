package api

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley"
)

// Handler serves the API on a listener. On a unix socket the caller is admin
// without a token; on a loopback listener the Host is checked.
func (s *Server) Handler(l parley.Listener) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w}
		rt := s.routeOf(r)
		r, span := s.traced(r, rt)
		defer func() {
			endSpan(span, rec.code())
			took := time.Since(began)
			s.metrics.done(rt, r.Method, rec.code(), took, span)
			s.log.Debug("request served", "method", methodLabel(r.Method), "route", routeLabel(rt), "status", rec.code(), "took", took)
		}()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		shared := s.origins.Load().share(h, r)
		if shared && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			preflight(h)
			rec.WriteHeader(http.StatusNoContent)
			return
		}
		c, p := s.admit(l, r, rt)
		if p != nil {
			s.refuse(rec, r, p)
			return
		}
		if rt == nil {
			s.refuse(rec, r, s.noRoute(h, r))
			return
		}
		if p := rt.checkQuery(r); p != nil {
			s.refuse(rec, r, p)
			return
		}
		c.need = rt.access
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
		if rt.maxBody != noBodyLimit {
			r.Body = http.MaxBytesReader(rec, r.Body, rt.maxBody)
		}
		s.mux.ServeHTTP(rec, r)
	})
}

// admit lets a request in, or says why not.
func (s *Server) admit(l parley.Listener, r *http.Request, rt *route) (caller, *problem) {
	if l.Loopback && !hostAllowed(r.Host, s.live.Load().hosts) {
		p := forbidden.problem(hostRefused(r.Host))
		p.refused = "host"
		return caller{}, p
	}
	if p := s.origins.Load().check(r); p != nil {
		return caller{}, p
	}
	if l.Admin {
		return caller{token: true, admin: true, free: true, local: true}, nil
	}
	var c caller
	var bad *problem
	if rt != nil && rt.access != open {
		c, bad = s.authenticate(r, rt.stream && !rt.grpc)
	}
	addr := remoteAddr(r)
	c.free = addr.IsLoopback()
	if !c.free && !s.live.Load().limits.allow(addr, c.token, time.Now()) {
		p := rateLimited.problem("too many requests from this address: see api.rate")
		p.refused = "rate"
		return c, p
	}
	if bad != nil {
		return c, bad
	}
	if rt == nil {
		return c, nil
	}
	return c, s.permit(c, rt.access)
}

// routeOf finds the route of r, nil = none. Only a path in its plain form has
// one: the mux would redirect others.
func (s *Server) routeOf(r *http.Request) *route {
	p := r.URL.EscapedPath()
	if p == "" || p[0] != '/' || path.Clean(p) != p || r.Method == http.MethodConnect {
		return nil
	}
	_, pattern := s.mux.Handler(r)
	return s.routes[pattern]
}

func routeLabel(rt *route) string {
	if rt == nil {
		return noRoute
	}
	return rt.pattern
}

// noRoute tells a wrong method from a wrong path.
func (s *Server) noRoute(h http.Header, r *http.Request) *problem {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = method
		if s.routeOf(probe) != nil {
			allow = append(allow, method)
		}
	}
	if len(allow) == 0 && isGRPC(r) {
		return noProcedure(r.URL.Path)
	}
	if len(allow) == 0 && r.URL.Path == "/metrics" {
		return notFound.problem("metrics are served at ops.listen, by default http://127.0.0.1:9090/metrics")
	}
	if len(allow) == 0 {
		return notFound.problem("no such route: see /docs, or /openapi.json")
	}
	h.Set("Allow", strings.Join(allow, ", "))
	return methodOrType.problem("this route takes " + strings.Join(allow, " and "))
}

func hostRefused(host string) string {
	return fmt.Sprintf("Host %.100q: at a loopback address it must be an IP address, localhost or in api.allowed_hosts", host)
}

// hostAllowed stands against browsers that were led to a loopback address by a
// name of somebody else.
func hostAllowed(host string, allowed []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil || strings.EqualFold(host, "localhost") {
		return true
	}
	for _, a := range allowed {
		if strings.EqualFold(a, host) {
			return true
		}
	}
	return false
}

// remoteAddr is the address of r's sender; the zero Addr for a unix socket.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// group is what limits per address count by: an IPv4 address, or a /64.
func group(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, err := a.WithZone("").Prefix(64)
		if err == nil {
			return p.Addr()
		}
	}
	return a
}

const (
	maxLimited    = 8192 // addresses in one generation of the limiter
	tokenFactor   = 10   // a token's rate against that of nobody
	burstFactor   = 2
	limiterPeriod = 10 * time.Minute
)

// limiter bounds the requests of each address. It keeps two generations, so
// that it is bounded however many addresses ask.
type limiter struct {
	rate rate.Limit

	mu       sync.Mutex // guards below
	now, old map[limitKey]*rate.Limiter
	since    time.Time
}

type limitKey struct {
	addr  netip.Addr
	token bool
}

// newLimiter allows perSecond requests of each address; 0 = no limit.
func newLimiter(perSecond int) *limiter {
	return &limiter{rate: rate.Limit(perSecond), now: map[limitKey]*rate.Limiter{}}
}

func (l *limiter) allow(a netip.Addr, token bool, now time.Time) bool {
	return l.rate == 0 || l.bucket(a, token, now).AllowN(now, 1)
}

// wait blocks until the address may make n more requests.
func (l *limiter) wait(ctx context.Context, a netip.Addr, token bool, n int) error {
	if l.rate == 0 {
		return nil
	}
	b := l.bucket(a, token, time.Now())
	for n > 0 {
		part := min(n, b.Burst())
		if err := b.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

func (l *limiter) bucket(a netip.Addr, token bool, now time.Time) *rate.Limiter {
	key := limitKey{group(a), token}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.now) >= maxLimited || now.Sub(l.since) > limiterPeriod {
		l.now, l.old, l.since = map[limitKey]*rate.Limiter{}, l.now, now
	}
	b := l.now[key]
	if b == nil {
		if b = l.old[key]; b == nil {
			r := l.rate
			if token {
				r *= tokenFactor
			}
			b = rate.NewLimiter(r, int(burstFactor*r))
		}
		l.now[key] = b
	}
	return b
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status  int
	counted int // the status that counts, 0 = status: that of gRPC is always 200
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets [http.ResponseController] and the WebSocket library through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) code() int {
	return cmp.Or(w.counted, w.status, http.StatusOK)
}
