package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
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

func (o *origins) allow(origin string) bool {
	return o.all || slices.ContainsFunc(o.list, func(x string) bool { return strings.EqualFold(x, origin) })
}

// share tells a browser that a page of another host may read the answer.
func (o *origins) share(h http.Header, r *http.Request) (allowed bool) {
	if len(o.list) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !o.allow(origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Retry-After, Location, X-Total-Count")
	return true
}

// preflight answers what a browser asks before it calls for a page.
func preflight(h http.Header) {
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID")
	h.Set("Access-Control-Max-Age", "600")
}

// check refuses what a page of another host has a browser do: it might send a
// password that the user gave for this node.
func (o *origins) check(r *http.Request) *problem {
	if o.all || o.forged.Check(r) == nil {
		return nil
	}
	p := forbidden.problem("a page of another host may not do this: name its origin in api.cors")
	p.refused = "origin"
	return p
}

// acceptOptions lets in pages of this host, which the library knows by itself,
// and those of api.cors, which it would read as patterns.
func (s *Server) acceptOptions(r *http.Request, protocols ...string) *websocket.AcceptOptions {
	return &websocket.AcceptOptions{Subprotocols: protocols, InsecureSkipVerify: s.origins.Load().allow(r.Header.Get("Origin"))}
}

// follow takes over what of the configuration was read again, until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	sub := s.node.Events().Subscribe()
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Wake():
		}
		events, lost := sub.Take(takeAtOnce)
		if lost > 0 || slices.ContainsFunc(events, func(e event.Envelope) bool { _, is := e.Data.(event.ConfigReloaded); return is }) {
			s.adopt(s.node.LiveConfig())
		}
	}
}

func (s *Server) adopt(cfg config.Config) {
	s.origins.Store(newOrigins(cfg.API))
	if s.cert == nil || cfg.API.TLSCert == "" {
		return
	}
	if err := s.cert.use(cfg); err != nil {
		s.log.Warn("certificate not read again: the last one stays", "err", err)
	}
}
