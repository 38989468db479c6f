package api

import (
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
)

// beaconError is the body of an error on the Beacon API's routes.
type beaconError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

const beaconPrefix = "/eth/v1/node/"

func (s *Server) beaconRoutes() {
	s.getLarge(beaconPrefix+"peers", s.lists, s.beaconPeers) // all that are known
	s.get(beaconPrefix+"peers/{peer_id}", read, s.beaconPeer)
	s.get(beaconPrefix+"peer_count", read, s.beaconPeerCount)
	s.get(beaconPrefix+"version", read, s.beaconVersion)
	s.get("/eth/v2/node/version", read, s.beaconVersionV2)
	s.get(beaconPrefix+"syncing", read, s.beaconSyncing)
	s.get(beaconPrefix+"health", read, s.beaconHealth)
}

type beaconData struct {
	Data any `json:"data"`
	Meta any `json:"meta,omitempty"`
}

type beaconMetadata struct {
	SeqNumber         string `json:"seq_number"`
	Attnets           string `json:"attnets"`
	Syncnets          string `json:"syncnets"`
	CustodyGroupCount string `json:"custody_group_count"`
}

type beaconIdentity struct {
	PeerID             peer.ID        `json:"peer_id"`
	ENR                string         `json:"enr"`
	P2PAddresses       []string       `json:"p2p_addresses"`
	DiscoveryAddresses []string       `json:"discovery_addresses"`
	Metadata           beaconMetadata `json:"metadata"`
	Private            bool           `json:"private_network,omitempty"` // of ours: who has no shared key need not dial
}

// beaconIdentity is what a joining node reads to learn the id behind a host's
// address.
func (s *Server) beaconIdentity(w http.ResponseWriter, _ *http.Request) {
	i := s.node.Info()
	id := beaconIdentity{
		PeerID: i.PeerID, P2PAddresses: i.Advertised, DiscoveryAddresses: []string{}, Private: s.node.Config().P2P.Private(),
		Metadata: beaconMetadata{SeqNumber: "0", Attnets: "0x0000000000000000", Syncnets: "0x00", CustodyGroupCount: "0"},
	}
	if i.ENR != nil {
		id.ENR = *i.ENR
	}
	writeJSON(w, http.StatusOK, beaconData{Data: id})
}

type beaconPeer struct {
	PeerID    peer.ID `json:"peer_id"`
	ENR       string  `json:"enr"`
	Address   string  `json:"last_seen_p2p_address"`
	State     string  `json:"state"`
	Direction string  `json:"direction"`
}

// beaconPeerOf shows a peer that is not connected as one that we would dial.
func beaconPeerOf(p parley.Peer) beaconPeer {
	v := beaconPeer{PeerID: p.ID, Address: p.Addr, State: "connected", Direction: p.Direction}
	if p.State != "connected" {
		v.State, v.Direction = "disconnected", "outbound"
	}
	return v
}

// knownPeers lists those that are connected, and then those that are known.
func (s *Server) knownPeers(keep func(beaconPeer) bool) []beaconPeer {
	list := []beaconPeer{}
	for _, p := range s.node.Peers() {
		if v := beaconPeerOf(p); keep(v) {
			list = append(list, v)
		}
	}
	away, _ := s.node.KnownPeers("", math.MaxInt, func(p parley.Peer) bool { return keep(beaconPeerOf(p)) })
	for _, p := range away {
		list = append(list, beaconPeerOf(p))
	}
	return list
}

// beaconPeerBy finds a peer by its id as text.
func (s *Server) beaconPeerBy(text string) (beaconPeer, *problem) {
	id, err := peer.Decode(text)
	if err != nil {
		return beaconPeer{}, badRequest.problem("Invalid peer ID")
	}
	if p, ok := s.node.Peer(id); ok {
		return beaconPeerOf(p), nil
	}
	if d, ok := s.node.PeerDetail(id); ok {
		return beaconPeerOf(d.Peer), nil
	}
	return beaconPeer{}, notFound.problem("Peer not found")
}

func (s *Server) beaconPeers(w http.ResponseWriter, r *http.Request) {
	states, directions := r.URL.Query()["state"], r.URL.Query()["direction"]
	for _, v := range states {
		if !slices.Contains([]string{"disconnected", "connecting", "connected", "disconnecting"}, v) {
			s.refuse(w, r, badRequest.problem("Invalid state"))
			return
		}
	}
	for _, v := range directions {
		if v != "inbound" && v != "outbound" {
			s.refuse(w, r, badRequest.problem("Invalid direction"))
			return
		}
	}
	list := s.knownPeers(func(p beaconPeer) bool {
		return (len(states) == 0 || slices.Contains(states, p.State)) && (len(directions) == 0 || slices.Contains(directions, p.Direction))
	})
	writeJSON(w, http.StatusOK, beaconData{Data: list, Meta: map[string]int{"count": len(list)}})
}

func (s *Server) beaconPeer(w http.ResponseWriter, r *http.Request) {
	p, bad := s.beaconPeerBy(r.PathValue("peer_id"))
	if bad != nil {
		s.refuse(w, r, bad)
		return
	}
	writeJSON(w, http.StatusOK, beaconData{Data: p})
}

func (s *Server) beaconPeerCount(w http.ResponseWriter, _ *http.Request) {
	count := map[string]int{"connected": len(s.node.Peers())}
	s.node.KnownPeers("", 0, func(parley.Peer) bool { count["disconnected"]++; return false })
	data := map[string]string{}
	for _, state := range []string{"disconnected", "connecting", "connected", "disconnecting"} {
		data[state] = strconv.Itoa(count[state])
	}
	writeJSON(w, http.StatusOK, beaconData{Data: data})
}

func (s *Server) beaconVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, beaconData{Data: map[string]string{"version": s.node.Info().Agent}})
}

// beaconVersionV2 is the newer form, by parts.
func (s *Server) beaconVersionV2(w http.ResponseWriter, _ *http.Request) {
	v := s.node.Version()
	writeJSON(w, http.StatusOK, beaconData{Data: map[string]any{"beacon_node": map[string]string{
		"code": "PA", "name": v.Name, "version": v.Version, "commit": v.Commit[:min(8, len(v.Commit))],
	}}})
}

func (s *Server) beaconSyncing(w http.ResponseWriter, _ *http.Request) {
	st := s.node.Status()
	head := uint64(0)
	if st.Head != nil {
		head = st.Head.Height
	}
	writeJSON(w, http.StatusOK, beaconData{Data: map[string]any{
		"head_slot": strconv.FormatUint(head, 10), "sync_distance": strconv.FormatUint(st.Sync.LagBlocks, 10),
		"is_syncing": st.Sync.State != "synced", "is_optimistic": false, "el_offline": false,
	}})
}

// beaconHealth answers by status alone: 200 ready, 206 (or ?syncing_status)
// while syncing, 503 otherwise.
func (s *Server) beaconHealth(w http.ResponseWriter, r *http.Request) {
	syncing := http.StatusPartialContent
	if text := r.URL.Query().Get("syncing_status"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 100 || n > 599 {
			s.refuse(w, r, badRequest.problem("Invalid syncing status code"))
			return
		}
		syncing = n
	}
	state := s.node.Status().Sync.State
	switch {
	case s.node.Live() != nil, state == "waiting":
		w.WriteHeader(http.StatusServiceUnavailable)
	case state == "synced":
		w.WriteHeader(http.StatusOK)
	case syncing < 200: // a status below is no final answer in HTTP
		w.WriteHeader(http.StatusPartialContent)
	default:
		w.WriteHeader(syncing)
	}
}
