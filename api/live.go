package api

import (
	"bytes"
	"context"
	"slices"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// live is what of the configuration acts on the next request. It never changes:
// a reload makes a new one.
type live struct {
	cfg        config.Config
	publicRead bool     // scope read needs no token
	hosts      []string // that loopback listeners accept beside IPs and localhost
	secrets    [][]byte // of tokens; the first signs, none = tokens are off
	limits     *limiter
	pprof      bool
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
			if err := s.adopt(); err != nil {
				s.log.Warn("configuration not taken over: the last one acts", "err", err)
			}
		}
	}
}

// adopt takes over what the node took over. A request that is served at the moment
// goes on with what was; a stream ends where its caller may not have it any
// longer. It fails only where the secrets were not read yet.
func (s *Server) adopt() error {
	s.adopting.Lock() // so that of two at once the newer one holds
	defer s.adopting.Unlock()
	secrets, err := s.node.TokenSecrets()
	if err != nil {
		return err
	}
	cfg := s.node.LiveConfig()
	next := &live{cfg: cfg, publicRead: cfg.API.PublicRead, hosts: cfg.API.AllowedHosts, secrets: secrets, pprof: cfg.Ops.PProf}
	if before := s.live.Load(); before != nil && before.cfg.API.Rate == cfg.API.Rate {
		next.limits = before.limits
	} else {
		next.limits = newLimiter(int(cfg.API.Rate))
	}
	before := s.live.Swap(next)
	if before != nil && (before.publicRead != next.publicRead || !slices.EqualFunc(before.secrets, next.secrets, bytes.Equal)) {
		s.judgeAll()
	}
	s.origins.Store(newOrigins(cfg.API))
	if s.cert == nil || cfg.API.TLSCert == "" {
		return nil
	}
	if err := s.cert.use(cfg); err != nil {
		s.log.Warn("certificate not read again: the last one stays", "err", err)
	}
	return nil
}
