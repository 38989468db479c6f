package api

import (
	"fmt"
	"slices"

	"github.com/parley-p2p/parley/config"
)

// compatRoutes adds the routes of other systems, so far as api.compat names
// them. The node's identity is always there: nodes that join ask for it.
func (s *Server) compatRoutes() error {
	s.get(beaconPrefix+"identity", open, s.beaconIdentity)
	has := func(name string) bool { return slices.Contains(s.cfg.API.Compat, name) }
	if has(config.CompatProvChain) {
		s.provchainRoutes()
	}
	if has(config.CompatBeacon) {
		s.beaconRoutes()
	}
	if has(config.CompatPrysm) {
		s.prysmRoutes()
	}
	if has(config.CompatTeranode) {
		s.teranodeRoutes()
		s.teranodeService()
	}
	if has(config.CompatJSONRPC) {
		if err := s.rpcRoutes(); err != nil {
			return fmt.Errorf("JSON-RPC: %w", err)
		}
	}
	return nil
}
