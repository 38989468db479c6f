package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley"
)

const (
	prysmPrefix  = "/eth/v1alpha1/node/"
	prysmTrusted = "/prysm/v1/node/trusted_peers"
	prysmWait    = 5 * time.Second // for a trusted peer to be connected
)

func (s *Server) prysmRoutes() {
	s.get(prysmPrefix+"peers", read, s.prysmPeers)
	s.get(prysmPrefix+"peer", read, s.prysmPeer)
	s.get(prysmPrefix+"p2p", read, s.prysmHost)
	s.get(prysmPrefix+"version", read, s.prysmVersion)
	s.get(prysmPrefix+"syncing", read, s.prysmSyncing)
	s.get(prysmTrusted, read, s.prysmTrustedPeers)
	s.handle(route{method: http.MethodPost, pattern: prysmTrusted, access: admin, serve: s.prysmTrust})
	s.handle(route{method: http.MethodDelete, pattern: prysmTrusted + "/{peer_id}", access: admin, serve: s.prysmUntrust})
}

type prysmPeer struct {
	Address         string  `json:"address"` // a multiaddr with its /p2p/
	Direction       string  `json:"direction"`
	ConnectionState string  `json:"connectionState"`
	PeerID          peer.ID `json:"peerId"`
	ENR             string  `json:"enr"` // without enr:, "" = none
}

func prysmPeerOf(p beaconPeer) prysmPeer {
	return prysmPeer{withID(p.Address, p.PeerID), strings.ToUpper(p.Direction), strings.ToUpper(p.State), p.PeerID, strings.TrimPrefix(p.ENR, "enr:")}
}

// withID adds the peer's id to an address that lacks it.
func withID(address string, id peer.ID) string {
	if address == "" || strings.Contains(address, "/p2p/") {
		return address
	}
	return address + "/p2p/" + id.String()
}

func (s *Server) prysmPeers(w http.ResponseWriter, _ *http.Request) {
	peers := []prysmPeer{}
	for _, p := range s.node.Peers() {
		peers = append(peers, prysmPeerOf(beaconPeerOf(p)))
	}
	writeJSON(w, http.StatusOK, map[string]any{"peers": peers})
}

func (s *Server) prysmPeer(w http.ResponseWriter, r *http.Request) {
	p, bad := s.beaconPeerBy(r.URL.Query().Get("peer_id"))
	if bad != nil {
		s.refuse(w, r, bad)
		return
	}
	writeJSON(w, http.StatusOK, prysmPeerOf(p))
}

func (s *Server) prysmHost(w http.ResponseWriter, _ *http.Request) {
	i := s.node.Info()
	enr := ""
	if i.ENR != nil {
		enr = strings.TrimPrefix(*i.ENR, "enr:")
	}
	writeJSON(w, http.StatusOK, map[string]any{"addresses": i.Advertised, "peerId": i.PeerID, "enr": enr})
}

func (s *Server) prysmVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"version": s.node.Info().Agent, "metadata": ""})
}

func (s *Server) prysmSyncing(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"syncing": s.node.Status().Sync.State != "synced"})
}

// prysmTrustedPeers lists the trusted peers that are connected or known.
func (s *Server) prysmTrustedPeers(w http.ResponseWriter, _ *http.Request) {
	peers := []beaconPeer{}
	trusted := func(p parley.Peer) bool { return p.Trusted }
	away, _ := s.node.KnownPeers("", math.MaxInt, trusted)
	for _, p := range append(slices.DeleteFunc(s.node.Peers(), func(p parley.Peer) bool { return !trusted(p) }), away...) {
		peers = append(peers, beaconPeerOf(p))
	}
	writeJSON(w, http.StatusOK, map[string]any{"peers": peers})
}

// prysmTrust trusts a peer, and connects once with it, as far as that works
// within a moment.
func (s *Server) prysmTrust(w http.ResponseWriter, r *http.Request) {
	body, p := s.wholeBody(w, r)
	if p != nil {
		s.refuse(w, r, p)
		return
	}
	var in struct {
		Addr string `json:"addr"`
	}
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		s.refuse(w, r, badRequest.problem(`Could not decode request body: want {"addr":"/ip4/…/tcp/PORT/p2p/ID"}`))
		return
	}
	var id peer.ID
	addr, err := multiaddr.NewMultiaddr(in.Addr)
	if err == nil {
		_, id = peer.SplitAddr(addr)
	}
	if id == "" {
		s.refuse(w, r, badRequest.problem("Could not derive peer info from multiaddress: want /ip4/…/tcp/PORT/p2p/ID"))
		return
	}
	if _, err := s.node.TrustPeer(id); err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), prysmWait)
	defer cancel()
	if _, err := s.node.ConnectPeer(ctx, in.Addr); err != nil {
		s.log.Debug("trusted peer not connected", "peer", id, "err", err)
	}
	w.WriteHeader(http.StatusOK)
}

func (s *Server) prysmUntrust(w http.ResponseWriter, r *http.Request) {
	id, err := peer.Decode(r.PathValue("peer_id"))
	if err != nil {
		s.refuse(w, r, badRequest.problem("Could not decode peer id"))
		return
	}
	if _, err := s.node.UntrustPeer(id); err != nil && !errors.Is(err, parley.ErrNotFound) { // of whom was none, the result is the same
		s.refuse(w, r, s.problemOf(err))
		return
	}
	w.WriteHeader(http.StatusOK)
}
