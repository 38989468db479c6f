package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// TestTeranodeFrames pins the five frames to the last sign.
func TestTeranodeFrames(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.Node.BaseURL = "https://n1.example.org" })
	at := time.Date(2026, 11, 20, 10, 0, 0, 123_456_789, time.UTC)
	from, err := peer.Decode(somebody)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, e := range []event.Event{
		event.BlockStored{Height: 812, Hash: chain.Hash{1}, PrevHash: chain.Hash{2}, Source: "own"},
		event.BlockStored{Height: 813, Hash: chain.Hash{1}, From: from, Source: "gossip"},
		event.SubtreeAnnounced{ID: chain.Hash{3}, Height: 813, Records: 50, From: from},
		event.MiningOn{Hash: chain.Hash{4}, PrevHash: chain.Hash{1}, Height: 814, Miner: "node1", RecordCount: 50, SizeBytes: 20480, From: from},
		event.RecordRejected{ID: chain.Hash{5}, Reason: "expired", Detail: "…", Final: true},
		event.RecordRejected{ID: chain.Hash{5}, Reason: "expired", Peer: from, Final: true},
	} {
		b.Write(s.teranodeFrame(event.Envelope{V: 1, TS: at, Type: e.Type(), Data: e}))
		b.WriteByte('\n')
	}
	for _, e := range []event.Event{event.RecordRejected{ID: chain.Hash{5}, Reason: "expired"}, event.HeadChanged{}, event.PeerReady{}} {
		if f := s.teranodeFrame(event.Envelope{TS: at, Data: e}); f != nil {
			t.Errorf("%s: %s", e.Type(), f)
		}
	}
	b.Write(s.teranodeStatusFrame(at))
	b.WriteByte('\n')
	b.Write(statusFrame(at, from, wire.NodeStatus{
		ClientName: "node2", BaseURL: "https://n2.example.org", Version: "v1.0.0", CommitHash: "abcdef0", BestBlockHash: chain.Hash{6}, BestHeight: 813,
		TxCount: 3, SubtreeCount: 1, FSMState: "CATCHINGBLOCKS", StartTime: 1795165200, UptimeMS: 3_600_500, MinerName: "node2", ListenMode: "full",
		ChainWork: "00ff", ConnectedPeers: 11, Storage: "full", SyncPeer: from, SyncPeerHeight: 820, SyncPeerHash: chain.Hash{7}, SyncConnectedAt: 1795165201,
	}))
	b.WriteByte('\n')
	text := strings.ReplaceAll(b.String(), s.node.ID().String(), "SELF")
	ours, theirs, _ := strings.Cut(text, `"type":"node_status","peer_id":"`+somebody)
	ours = regexp.MustCompile(`"(start_time|uptime)":[0-9.]+`).ReplaceAllString(ours, `"$1":0`)
	ours = regexp.MustCompile(`"(version|commit_hash|best_block_hash)":"[^"]*"`).ReplaceAllString(ours, `"$1":"…"`)
	text = ours + `"type":"node_status","peer_id":"` + somebody + theirs
	golden(t, "teranode.golden", []byte(text))
}

// A client that misses a frame is closed: there is no way to ask again.
func TestTeranodeQueue(t *testing.T) {
	s := idleServer(t, nil)
	f, err := newFilter(teranodeTypes)
	if err != nil {
		t.Fatal(err)
	}
	q := newQueue("teranode", f, s.metrics)
	q.size, q.strict = teranodeQueue, true
	push := func(n int) {
		for i := range n {
			q.push(frame{seq: uint64(i + 1), name: "block.stored"}, frame{seq: uint64(i + 1), name: "peer.ready"})
		}
	}
	push(teranodeQueue)
	if frames, slow := q.take(time.Now()); slow || len(frames) != teranodeQueue {
		t.Errorf("%d frames, slow %v", len(frames), slow)
	}
	push(teranodeQueue + 1)
	if _, slow := q.take(time.Now()); !slow {
		t.Error("a frame is missing, and nobody is told")
	}
}

// What other nodes tell of themselves fills half of a queue at most: it closes
// nobody.
func TestTeranodeStatusesCloseNobody(t *testing.T) {
	h := newHub(event.NewBus(64), 10, testMetrics(t))
	h.offer(func() []frame { t.Error("made for nobody"); return nil })
	flat, native := testQueue(t, teranodeTypes), testQueue(t, "")
	flat.size, flat.strict = teranodeQueue, true
	for _, q := range []*queue{flat, native} {
		if _, err := h.join(q, ""); err != nil {
			t.Fatal(err)
		}
		defer h.leave(q, "")
	}
	for range 3 {
		h.offer(func() []frame { return slices.Repeat([]frame{{name: "node_status", flat: []byte("{}")}}, 30) })
	}
	for i := range teranodeQueue / 2 {
		flat.push(frame{seq: uint64(i + 1), name: "block.stored"})
	}
	if frames, slow := flat.take(time.Now()); slow || len(frames) != teranodeQueue {
		t.Errorf("%d frames wait, too slow %v", len(frames), slow)
	}
	if !native.empty() {
		t.Error("the event stream has them too")
	}
}

// teranodeFrames listens on both routes while a record is committed.
func (p pair) teranodeFrames(t *testing.T) {
	h := p.h
	for _, path := range []string{"/ws", "/p2p-ws"} {
		conn, res, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+path, nil)
		if err != nil {
			t.Fatalf("%v %v", res, err)
		}
		defer func() { _ = conn.CloseNow() }()
		next := func() (m map[string]any) {
			_, b, err := conn.Read(t.Context())
			if err == nil {
				err = json.Unmarshal(b, &m)
			}
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		if m := next(); m["type"] != "node_status" || m["peer_id"] != h.node.ID().String() || m["fsm_state"] != "RUNNING" || m["connected_peers_count"] != 1.0 {
			t.Errorf("%s begins with %v", path, m)
		}
		if got := h.do("POST", "/api/v1/records", h.token("admin"), fmt.Sprintf(`{"subject":%q,"body":1}`, path)); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		want := []string{"block", "node_status"} // of the other node
		for len(want) > 0 {
			m := next()
			if m["type"] == "node_status" && m["peer_id"] == h.node.ID().String() {
				continue
			}
			if m["type"] == "node_status" && (m["peer_id"] != p.follower.node.ID().String() || len(m) != 23) {
				t.Errorf("%v", m)
			}
			want = slices.DeleteFunc(want, func(x string) bool { return m["type"] == x })
			if m["type"] == "block" && (m["client_name"] != "n1" || m["height"].(float64) < 1 || m["hash"] == "") {
				t.Errorf("%v", m)
			}
		}
	}
	native, _, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/ws?format=v1&types=node.stopping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = native.CloseNow() }()
	native.SetReadLimit(1 << 20)
	if _, b, err := native.Read(t.Context()); err != nil || !bytes.HasPrefix(b, []byte(`{"type":"hello"`)) {
		t.Errorf("%.100s %v", b, err)
	}
}
