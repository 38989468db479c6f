package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"github.com/parley-p2p/parley/config"
)

// Headers that a page may send and read. The second halves are those of remote
// calls: without them no browser lets a client of Connect or gRPC-Web call.
const (
	allowedHeaders = "Authorization, Content-Type, Last-Event-ID, " +
		"Connect-Protocol-Version, Connect-Timeout-Ms, Grpc-Timeout, X-Grpc-Web, X-User-Agent"
	exposedHeaders = "Retry-After, Location, X-Total-Count, " +
		"Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin"
)

// origins are the pages of other hosts that may call, of api.cors.
type origins struct {
	all    bool
	list   []string
	forged *http.CrossOriginProtection
}

func newOrigins(cfg config.API) *origins {
	o := &origins{all: cfg.AllOrigins(), list: cfg.CORS, forged: http.NewCrossOriginProtection()}
	for _, origin := range cfg.CORS {
		if origin != "*" {
			_ = o.forged.AddTrustedOrigin(origin) // config has checked that it is one
		}
	}
	return o
}

func (o *origins) names(origin string) bool {
	return slices.ContainsFunc(o.list, func(x string) bool { return strings.EqualFold(x, origin) })
}

// share tells a browser that a page of another host may read the answer.
func (o *origins) share(h http.Header, r *http.Request) (allowed bool) {
	if len(o.list) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !o.all && !o.names(origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", exposedHeaders)
	return true
}

// preflight answers what a browser asks before it calls for a page.
func preflight(h http.Header) {
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", allowedHeaders)
	h.Set("Access-Control-Max-Age", "600")
}

// check refuses what a page of another host has a browser do: it might send a
// password that the user gave for this node.
func (o *origins) check(r *http.Request) *problem {
	if o.forged.Check(r) == nil || o.all && !byBrowser(r) {
		return nil
	}
	p := forbidden.problem("a page of another host may not do this: name its origin in api.cors")
	p.refused = "origin"
	return p
}

// byBrowser tells of a password, which a browser adds by itself to what any page
// has it do. That every page may call does not mean with the user's password:
// only a page that is named may.
func byBrowser(r *http.Request) bool {
	_, _, is := r.BasicAuth()
	return is
}

// acceptOptions lets in pages of this host, which the library knows by itself,
// and those of api.cors, which it would read as patterns.
func (s *Server) acceptOptions(r *http.Request, protocols ...string) *websocket.AcceptOptions {
	o, origin := s.origins.Load(), r.Header.Get("Origin")
	return &websocket.AcceptOptions{Subprotocols: protocols, InsecureSkipVerify: o.names(origin) || o.all && !byBrowser(r)}
}
