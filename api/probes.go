package api

import (
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/parley-p2p/parley"
)

func (s *Server) probeRoutes() {
	s.get("/livez", open, s.livez)
	s.get("/readyz", open, s.readyz)
}

// opsHandler serves metrics and probes, to programs of this machine or of a
// closed network.
func (s *Server) opsHandler(loopback bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", s.livez)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{EnableOpenMetrics: true})) // the form that has exemplars
	mux.HandleFunc("GET /debug/pprof/", s.profiles(loopback, pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", s.profiles(loopback, pprof.Cmdline))
	mux.HandleFunc("GET /debug/pprof/profile", s.profiles(loopback, pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", s.profiles(loopback, pprof.Symbol))
	mux.HandleFunc("GET /debug/pprof/trace", s.profiles(loopback, pprof.Trace))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if loopback && !hostAllowed(r.Host, s.live.Load().hosts) {
			http.Error(w, hostRefused(r.Host), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// profiles are for loopback, or an admin token, while ops.pprof says so.
func (s *Server) profiles(loopback bool, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.live.Load().pprof {
			http.NotFound(w, r)
			return
		}
		if !loopback {
			c, p := s.authenticate(r, false)
			if p == nil {
				p = s.permit(c, admin)
			}
			if p != nil {
				s.refuse(w, r, p)
				return
			}
		}
		serve(w, r)
	}
}

func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	if err := s.node.Live(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// readyz takes ?verbose, which lists the checks, and ?exclude=NAME, which
// skips one.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	status, text := readiness(s.node.Health().Checks, query["exclude"], query.Has("verbose"))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

func readiness(checks []parley.Check, exclude []string, verbose bool) (int, string) {
	status, last := http.StatusOK, "ready\n"
	var b strings.Builder
	for _, c := range checks {
		switch {
		case slices.Contains(exclude, c.Name):
			b.WriteString("[ ] " + c.Name + " excluded\n")
		case c.OK:
			b.WriteString("[+] " + c.Name + " ok\n")
		default:
			status, last = http.StatusServiceUnavailable, "not ready\n"
			b.WriteString("[-] " + c.Name + ": " + c.Note + "\n")
		}
	}
	if verbose || status != http.StatusOK {
		return status, b.String() + last
	}
	return status, last
}
