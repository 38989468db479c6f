package api

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/libp2p/go-libp2p/core/peer"
)

// beaconError is the body of an error on the Beacon API's routes.
type beaconError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

const beaconPrefix = "/eth/v1/node/"

func (s *Server) beaconRoutes() {
	s.get(beaconPrefix+"identity", open, s.beaconIdentity)
	s.get(beaconPrefix+"peers", read, s.beaconPeers)
	s.get(beaconPrefix+"peers/{peer_id}", read, s.beaconPeer)
	s.get(beaconPrefix+"peer_count", read, s.beaconPeerCount)
	s.get(beaconPrefix+"version", read, s.beaconVersion)
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

// knownPeers lists those that are connected, and static ones that are not.
func (s *Server) knownPeers() []beaconPeer {
	list := []beaconPeer{}
	seen := map[peer.ID]bool{}
	for _, p := range s.node.Peers() {
		seen[p.ID] = true
		list = append(list, beaconPeer{PeerID: p.ID, Address: p.Addr, State: "connected", Direction: p.Direction})
	}
	for _, p := range s.node.StaticPeers() {
		if p.ID == "" || seen[p.ID] {
			continue
		}
		seen[p.ID] = true
		address := ""
		if len(p.Addresses) > 0 {
			address = p.Addresses[0]
		}
		list = append(list, beaconPeer{PeerID: p.ID, Address: address, State: "disconnected", Direction: "outbound"})
	}
	return list
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
	list := slices.DeleteFunc(s.knownPeers(), func(p beaconPeer) bool {
		return len(states) > 0 && !slices.Contains(states, p.State) || len(directions) > 0 && !slices.Contains(directions, p.Direction)
	})
	writeJSON(w, http.StatusOK, beaconData{Data: list, Meta: map[string]int{"count": len(list)}})
}

func (s *Server) beaconPeer(w http.ResponseWriter, r *http.Request) {
	id, err := peer.Decode(r.PathValue("peer_id"))
	if err != nil {
		s.refuse(w, r, badRequest.problem("Invalid peer ID"))
		return
	}
	for _, p := range s.knownPeers() {
		if p.PeerID == id {
			writeJSON(w, http.StatusOK, beaconData{Data: p})
			return
		}
	}
	s.refuse(w, r, notFound.problem("Peer not found"))
}

func (s *Server) beaconPeerCount(w http.ResponseWriter, _ *http.Request) {
	count := map[string]int{}
	for _, p := range s.knownPeers() {
		count[p.State]++
	}
	data := map[string]string{}
	for _, state := range []string{"disconnected", "connecting", "connected", "disconnecting"} {
		data[state] = strconv.Itoa(count[state])
	}
	writeJSON(w, http.StatusOK, beaconData{Data: data})
}

func (s *Server) beaconVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, beaconData{Data: map[string]string{"version": s.node.Info().Agent}})
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
