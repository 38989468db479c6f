package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	teranodeQueue = 100 // frames that wait for one client; then it is closed
	teranodeTypes = "block.stored,subtree.announced,mining.on,record.rejected"
)

func (s *Server) teranodeRoutes() {
	for _, pattern := range []string{"/ws", "/p2p-ws"} {
		s.handle(route{method: http.MethodGet, pattern: pattern, access: read, stream: true, serve: s.teranodeSocket})
	}
}

// Frames of Teranode, flat and in its order.
type (
	teranodeBlock struct {
		Timestamp  string  `json:"timestamp"`
		Type       string  `json:"type"` // block
		Hash       string  `json:"hash"`
		Height     uint64  `json:"height"`
		BaseURL    string  `json:"base_url"`
		PeerID     peer.ID `json:"peer_id"` // who brought it; we, where we made it
		ClientName string  `json:"client_name"`
	}
	teranodeSubtree struct {
		Timestamp  string  `json:"timestamp"`
		Type       string  `json:"type"` // subtree
		Hash       string  `json:"hash"`
		BaseURL    string  `json:"base_url"`
		PeerID     peer.ID `json:"peer_id"`
		ClientName string  `json:"client_name"`
	}
	teranodeMiningOn struct {
		Timestamp string  `json:"timestamp"`
		Type      string  `json:"type"` // mining_on
		Hash      string  `json:"hash"`
		BaseURL   string  `json:"base_url"`
		PeerID    peer.ID `json:"peer_id"`
		PrevHash  string  `json:"previousblockhash"`
		Height    uint64  `json:"height"`
		Miner     string  `json:"miner"`
		Size      int     `json:"size_in_bytes"`
		TxCount   int     `json:"tx_count"`
	}
	teranodeRejectedTx struct {
		Timestamp string  `json:"timestamp"`
		Type      string  `json:"type"` // rejected_tx
		Hash      string  `json:"hash"` // id of the record
		Reason    string  `json:"reason"`
		BaseURL   string  `json:"base_url"`
		PeerID    peer.ID `json:"peer_id"`
	}
	teranodeStatus struct {
		Timestamp       string  `json:"timestamp"`
		Type            string  `json:"type"` // node_status
		PeerID          peer.ID `json:"peer_id"`
		ClientName      string  `json:"client_name"`
		BaseURL         string  `json:"base_url"`
		Version         string  `json:"version"`
		CommitHash      string  `json:"commit_hash"`
		BestBlockHash   string  `json:"best_block_hash"`
		BestHeight      uint64  `json:"best_height"`
		TxCount         uint64  `json:"tx_count"`
		SubtreeCount    uint32  `json:"subtree_count"`
		FSMState        string  `json:"fsm_state"`
		StartTime       uint64  `json:"start_time"` // unix seconds
		Uptime          float64 `json:"uptime"`     // seconds
		MinerName       string  `json:"miner_name"`
		ListenMode      string  `json:"listen_mode"`
		ChainWork       string  `json:"chain_work"`
		ConnectedPeers  uint32  `json:"connected_peers_count"`
		Storage         string  `json:"storage"`
		SyncPeer        string  `json:"sync_peer_id"`
		SyncPeerHeight  uint64  `json:"sync_peer_height"`
		SyncPeerHash    string  `json:"sync_peer_block_hash"`
		SyncConnectedAt uint64  `json:"sync_connected_at"`
	}
)

// teranodeFrame is an event as Teranode tells it; nil = it does not.
func (s *Server) teranodeFrame(e event.Envelope) []byte {
	at := stamp(e.TS)
	var v any
	switch d := e.Data.(type) {
	case event.BlockStored:
		id, name, url := s.nameOf(d.From)
		v = teranodeBlock{at, "block", d.Hash.String(), d.Height, url, id, name}
	case event.SubtreeAnnounced:
		id, name, url := s.nameOf(d.From)
		v = teranodeSubtree{at, "subtree", d.ID.String(), url, id, name}
	case event.MiningOn:
		id, _, url := s.nameOf(d.From)
		v = teranodeMiningOn{at, "mining_on", d.Hash.String(), url, id, d.PrevHash.String(), d.Height, d.Miner, d.SizeBytes, d.RecordCount}
	case event.RecordRejected:
		if !d.Final {
			return nil // one client was told: it concerns nobody else
		}
		id, _, url := s.nameOf(d.Peer)
		v = teranodeRejectedTx{at, "rejected_tx", d.ID.String(), d.Reason, url, id}
	default:
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil // texts and numbers are JSON
	}
	return b
}

// nameOf tells who a peer is, "" = this node. Of one that is not connected the
// name is not known.
func (s *Server) nameOf(id peer.ID) (who peer.ID, name, baseURL string) {
	if id == "" || id == s.node.ID() {
		return s.node.ID(), s.cfg.Node.Name, s.cfg.Node.BaseURL
	}
	p, _ := s.node.Peer(id)
	return id, p.Name, p.BaseURL
}

// teranodeStatusFrame is this node's own status.
func (s *Server) teranodeStatusFrame(now time.Time) []byte {
	return statusFrame(now, s.node.ID(), s.node.NodeStatus())
}

// statusFrame is what a node tells of itself.
func statusFrame(at time.Time, id peer.ID, n wire.NodeStatus) []byte {
	v := teranodeStatus{
		Timestamp: stamp(at), Type: "node_status", PeerID: id, ClientName: n.ClientName, BaseURL: n.BaseURL, Version: n.Version, CommitHash: n.CommitHash,
		BestBlockHash: n.BestBlockHash.String(), BestHeight: n.BestHeight, TxCount: n.TxCount, SubtreeCount: n.SubtreeCount, FSMState: n.FSMState,
		StartTime: n.StartTime, Uptime: float64(n.UptimeMS) / 1000, MinerName: n.MinerName, ListenMode: n.ListenMode, ChainWork: n.ChainWork,
		ConnectedPeers: n.ConnectedPeers, Storage: n.Storage, SyncPeerHeight: n.SyncPeerHeight, SyncConnectedAt: n.SyncConnectedAt,
	}
	if n.SyncPeer != "" {
		v.SyncPeer, v.SyncPeerHash = n.SyncPeer.String(), n.SyncPeerHash.String()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil // texts and numbers are JSON
	}
	return b
}

const lookForStatuses = time.Second // of other nodes

// tellStatuses gives clients what other nodes tell of themselves, as it comes.
func (s *Server) tellStatuses(ctx context.Context) error {
	tick := time.NewTicker(lookForStatuses)
	defer tick.Stop()
	for _, last := s.node.HeardStatuses(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var list []parley.HeardStatus
		list, last = s.node.HeardStatuses(last)
		s.hub.offer(func() (frames []frame) {
			for _, h := range list {
				frames = append(frames, frame{name: "node_status", flat: statusFrame(h.At, h.Peer, h.Status)})
			}
			return frames
		})
	}
}

// teranodeSocket serves Teranode's frames; ?format=v1 is the native stream.
func (s *Server) teranodeSocket(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "v1" {
		s.webSocket(w, r)
		return
	}
	if r.Header.Get("Upgrade") == "" {
		s.noUpgrade(w, r, prefix+"events has the same events for plain HTTP")
		return
	}
	f, err := newFilter(teranodeTypes)
	if err != nil {
		s.refuse(w, r, s.problemOf(err))
		return
	}
	q := newQueue("teranode", f, s.metrics)
	q.size, q.strict, q.owner = teranodeQueue, true, callerOf(r.Context()).local
	ip := clientIP(r)
	_, crowd := s.hub.join(q, ip)
	if crowd == nil {
		defer s.hub.leave(q, ip)
	}
	conn := s.accept(w, r, crowd)
	if conn == nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	conn.SetReadLimit(clientFrame)
	var wg sync.WaitGroup
	wg.Go(func() { // what clients say is not listened to
		defer cancel()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	})
	wg.Go(func() {
		defer cancel()
		keepAlive(ctx, conn)
	})
	stay, leave := s.stay(callerOf(ctx), func() { _ = conn.CloseNow() })
	defer leave()
	if code, why := s.writeTeranode(ctx, conn, q, stay); code != 0 {
		_ = conn.Close(code, why)
	}
	cancel()
	wg.Wait()
}

// writeTeranode returns how to close the connection; 0 = it is gone.
func (s *Server) writeTeranode(ctx context.Context, conn *websocket.Conn, q *queue, stay *stay) (websocket.StatusCode, string) {
	tick := time.NewTicker(s.cfg.Gossip.StatusInterval)
	defer tick.Stop()
	frames := []frame{{flat: s.teranodeStatusFrame(time.Now())}}
	for {
		for _, f := range frames {
			if s.leaving(stay) {
				break
			}
			if f.flat == nil {
				continue
			}
			if err := writeFrame(ctx, conn, frame{data: f.flat}); err != nil {
				return 0, ""
			}
		}
		slow := false
		select {
		case <-ctx.Done():
			return 0, ""
		case <-s.hub.stopCh:
			return websocket.StatusGoingAway, errStopped.Error()
		case <-stay.over:
			return closeExpired, stay.why.Error()
		case now := <-tick.C:
			frames = []frame{{flat: s.teranodeStatusFrame(now)}}
		case <-q.wake:
			frames, slow = q.take(time.Now())
		}
		if slow {
			return closeTooSlow, "too slow"
		}
	}
}
