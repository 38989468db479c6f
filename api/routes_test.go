package api

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// shape keeps the keys of an answer and what kind each value is. Lists show
// the shape of their elements, all keys joined.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for k, e := range v {
			m[k] = shape(e)
		}
		if _, ok := m["inbound"].(bool); ok {
			m["inbound"] = false // who of two nodes dialled first is chance
		}
		delete(m, "mesh") // what gossip brings takes its time
		delete(m, "ignored")
		delete(m, "rejected")
		delete(m, "claimed")
		delete(m, "validated")
		return m
	case []any:
		seen, list := map[string]bool{}, []any{}
		for _, e := range v {
			s := shape(e)
			b, _ := json.Marshal(s)
			if !seen[string(b)] {
				seen[string(b)] = true
				list = append(list, s)
			}
		}
		sort.Slice(list, func(i, j int) bool { return fmt.Sprint(list[i]) < fmt.Sprint(list[j]) })
		return list
	case string:
		return "text"
	case float64:
		return 0
	}
	return v // bool, null
}

func shapeOf(r reply) string {
	var v any
	if r.header.Get("Content-Type") == linesType {
		lines := []any{}
		for line := range bytes.Lines(r.body) {
			if err := json.Unmarshal(line, &v); err != nil {
				return fmt.Sprintf("%q", r.body)
			}
			lines, v = append(lines, v), nil
		}
		v = lines
	} else if err := json.Unmarshal(r.body, &v); err != nil {
		return fmt.Sprintf("%q", r.body)
	}
	b, err := json.MarshalIndent(shape(v), "  ", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it)%s", path, firstDifference(string(want), string(got)))
	}
}

// firstDifference is the first line that two texts do not share, with what
// stands before it.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < min(len(w), len(g)) && w[i] == g[i] {
		i++
	}
	rest := func(l []string) string { return strings.Join(l[min(i, len(l)):min(i+4, len(l))], "\n") }
	return fmt.Sprintf(", from line %d on, after\n%s\nit wants\n%s\nand has\n%s", i+1, strings.Join(w[max(0, i-8):i], "\n"), rest(w), rest(g))
}

// pair is a validator with its follower, and a record in their chain.
type pair struct {
	h, follower *house
	id          string
	message     string // of gossip, that the follower heard
}

// TestRoutes asks a validator with one follower for everything, and runs what
// else needs a chain.
func TestRoutes(t *testing.T) {
	h := start(t, nil)
	h.waitFor("the chain", func() bool { return h.do("GET", "/api/v1/chain", "", "").status == 200 })
	follower := start(t, func(c *config.Config) {
		c.Node.Name = "n2"
		c.P2P.StaticPeers = []string{strings.TrimPrefix(h.base, "http://")}
	})
	if got := follower.do("GET", "/api/blockchain/status", "", ""); got.status != 200 && got.status != 503 {
		t.Errorf("while joining: %d %s", got.status, got.body)
	}
	tail := follower.node.TailGossip([]string{"block"}, true)
	defer tail.Close()
	admin := h.token("admin")
	first := h.do("POST", "/api/v1/records", admin, `{"subject":"s1","body":{"a":1}}`)
	if first.status != 200 {
		t.Fatalf("submit: %d %s", first.status, first.body)
	}
	id := first.json(t)["id"].(string)
	follower.waitFor("the block", func() bool {
		got := follower.do("GET", "/api/v1/records/"+id, "", "")
		return got.status == 200 && got.json(t)["status"] == "committed"
	})
	h.waitFor("the follower", func() bool { return bytes.Contains(h.do("GET", "/api/peers", "", "").body, []byte(`"peer_count":1`)) })

	follower.waitFor("the peer's head", func() bool {
		ps := follower.node.Peers()
		return len(ps) == 1 && ps[0].Validated != nil && ps[0].Claimed != nil
	})

	for _, x := range []*house{h, follower} {
		x.waitFor("the table of the DHT", func() bool { return x.node.DHT().Peers == 1 })
	}

	h.waitFor("the mesh", func() bool { m, err := h.node.GossipMesh("block"); return err == nil && len(m) == 1 })
	var heard []parley.TailedMessage
	follower.waitFor("a block by gossip", func() bool { // the first came before the topics, maybe
		if got := h.do("POST", "/api/v1/records", admin, fmt.Sprintf(`{"subject":"s0","body":{"at":%d}}`, time.Now().UnixNano())); got.status != 200 {
			return false
		}
		select {
		case <-tail.Wake():
		case <-time.After(time.Second):
		}
		heard = tail.Take()
		return len(heard) > 0
	})
	h.waitFor("the links", func() bool {
		l := h.node.Topology().Links
		return len(l) == 1 && l[0].LatencyMS != nil && len(l[0].Topics) > 0
	})
	p := pair{h, follower, id, heard[0].ID}
	t.Run("shapes", p.shapes)
	t.Run("errors", p.errors)
	t.Run("rpc", p.rpc)
	t.Run("rpc clients", p.rpcClients)
	t.Run("records", p.records)
	t.Run("signed", p.signed)
	t.Run("batch", p.batch)
	t.Run("pages", p.pages)
	t.Run("conditional", p.conditional)
	t.Run("seed", p.seed)
	t.Run("stream", p.stream)
	t.Run("teranode frames", p.teranodeFrames)
	t.Run("sse", p.sse)
	t.Run("http2", p.http2)
	t.Run("wire", p.wire)
	t.Run("grpc views", p.grpcViews)
	t.Run("grpc calls", p.grpcCalls)
	t.Run("grpc faults", p.grpcFaults)
	t.Run("grpc bans", p.grpcBans)
	t.Run("grpc events", p.grpcEvents)
	t.Run("grpc blocks", p.grpcBlocks)
	t.Run("teranode peers", p.teranodePeers)
	t.Run("metrics", p.metricsPage)
	t.Run("stop", p.stop)
}

func (p pair) shapes(t *testing.T) {
	h, follower, id := p.h, p.follower, p.id
	peerID, hostID := follower.node.Info().PeerID.String(), h.node.Info().PeerID.String()
	hostAddr := h.node.Info().Advertised[0]
	author := hex.EncodeToString(make([]byte, 32))
	var b bytes.Buffer
	seen, doc := map[string]bool{}, documentOf(t, h.Server)
	for _, c := range []struct {
		h                   *house
		pattern, path, body string
	}{
		{h, "GET /livez", "/livez", ""}, {h, "GET /readyz", "/readyz", ""}, {h, "GET /readyz", "/readyz?verbose", ""},
		{h, "GET /health", "/health", ""}, {h, "GET /health", "/health?format=json", ""},
		{h, "GET /api/v1/version", "/api/v1/version", ""}, {h, "GET /api/v1/status", "/api/v1/status", ""},
		{h, "GET /api/v1/node", "/api/v1/node", ""}, {h, "GET /api/v1/health", "/api/v1/health", ""},
		{follower, "GET /api/v1/peers", "/api/v1/peers?direction=outbound&q=n1&sort=name", ""}, {h, "GET /api/v1/peers/count", "/api/v1/peers/count", ""},
		{h, "GET /api/v1/peers/{id}", "/api/v1/peers/" + peerID, ""}, {follower, "GET /api/v1/static-peers", "/api/v1/static-peers", ""},
		{h, "GET /api/v1/chain", "/api/v1/chain", ""}, {h, "GET /api/v1/chain/head", "/api/v1/chain/head", ""},
		{h, "GET /api/v1/chain/heads", "/api/v1/chain/heads", ""}, {h, "GET /api/v1/chain/validators", "/api/v1/chain/validators", ""},
		{h, "POST /api/v1/chain/validators", "/api/v1/chain/validators", `{"add":[{"key":"` + peerID + `"}],"add_admins":["` + peerID + `"],"accept_two":true,"dry_run":true}`},
		{h, "GET /api/v1/chain/blocks", "/api/v1/chain/blocks", ""}, {h, "GET /api/v1/chain/blocks/{ref}", "/api/v1/chain/blocks/1", ""},
		{h, "GET /api/v1/chain/blocks/{ref}/records", "/api/v1/chain/blocks/1/records", ""},
		{h, "POST /api/v1/records", "/api/v1/records", `{"subject":"s2","body_base64":"AAEC","media_type":"application/octet-stream"}`},
		{h, "POST /api/v1/records/batch", "/api/v1/records/batch", `{"subject":"s2","n":1}`},
		{h, "GET /api/v1/records/{id}", "/api/v1/records/" + id, ""}, {h, "GET /api/v1/records/{id}/proof", "/api/v1/records/" + id + "/proof", ""},
		{h, "GET /api/v1/records", "/api/v1/records?subject=s1", ""},
		{h, "GET /api/v1/records", "/api/v1/records?author=" + author, ""},
		{h, "POST /api/v1/devnet/heal", "/api/v1/devnet/heal", ""}, {h, "POST /api/v1/config/reload", "/api/v1/config/reload", ""},
		{h, "GET /api/v1/config", "/api/v1/config", ""},
		{h, "GET /api/v1/log-levels", "/api/v1/log-levels", ""}, {h, "PUT /api/v1/log-levels", "/api/v1/log-levels", `{"default":"info","p2p":"debug"}`},
		{h, "PATCH /api/v1/config", "/api/v1/config", `{"api":{"public_read":true}}`}, {h, "GET /api/v1/topology", "/api/v1/topology", ""},
		{follower, "GET /api/v1/gossip/traces/{message_id}", "/api/v1/gossip/traces/" + p.message, ""},
		{h, "GET /api/v1/shared-keys", "/api/v1/shared-keys", ""},
		{h, "GET /api/peers", "/api/peers", ""}, {h, "GET /api/blockchain/status", "/api/blockchain/status", ""},
		{h, "GET /api/blockchain/dump", "/api/blockchain/dump", ""}, {h, "GET /api/blockchain/blocks", "/api/blockchain/blocks", ""},
		{h, "GET /api/blockchain/blocks/{index}", "/api/blockchain/blocks/1", ""}, {h, "GET /api/blockchain/validate", "/api/blockchain/validate", ""},
		{h, "GET /api/transactions/recent", "/api/transactions/recent", ""},
		{h, "GET /eth/v1/node/identity", "/eth/v1/node/identity", ""}, {h, "GET /eth/v1/node/peers", "/eth/v1/node/peers?state=connected&direction=inbound", ""},
		{h, "GET /eth/v1/node/peers/{peer_id}", "/eth/v1/node/peers/" + peerID, ""}, {h, "GET /eth/v1/node/peer_count", "/eth/v1/node/peer_count", ""},
		{h, "GET /eth/v1/node/version", "/eth/v1/node/version", ""}, {h, "GET /eth/v1/node/syncing", "/eth/v1/node/syncing", ""},
		{h, "GET /eth/v1/node/health", "/eth/v1/node/health", ""},
		{h, "GET /eth/v2/node/version", "/eth/v2/node/version", ""}, {h, "GET /eth/v1alpha1/node/peers", "/eth/v1alpha1/node/peers", ""},
		{h, "GET /eth/v1alpha1/node/peer", "/eth/v1alpha1/node/peer?peer_id=" + peerID, ""}, {h, "GET /eth/v1alpha1/node/p2p", "/eth/v1alpha1/node/p2p", ""},
		{h, "GET /eth/v1alpha1/node/version", "/eth/v1alpha1/node/version", ""}, {h, "GET /eth/v1alpha1/node/syncing", "/eth/v1alpha1/node/syncing", ""},
		{follower, "POST /prysm/v1/node/trusted_peers", "/prysm/v1/node/trusted_peers", `{"addr":"` + hostAddr + `"}`},
		{follower, "GET /prysm/v1/node/trusted_peers", "/prysm/v1/node/trusted_peers", ""},
		{follower, "DELETE /prysm/v1/node/trusted_peers/{peer_id}", "/prysm/v1/node/trusted_peers/" + hostID, ""},
		{h, "POST /rpc", "/rpc", `{"id":1,"method":"net_version"}`}, {h, "POST /{$}", "/", `[{"id":1,"method":"web3_clientVersion"},{"id":2,"method":"net_nothing"}]`},
		{h, "GET /api/v1/gossip/topics", "/api/v1/gossip/topics", ""}, {h, "GET /api/v1/gossip/mesh", "/api/v1/gossip/mesh?topic=block", ""},
		{h, "POST /api/v1/gossip/topics/{topic}/messages", "/api/v1/gossip/topics/block/messages", "x"},
		{follower, "POST /api/v1/peers/{id}/penalize", "/api/v1/peers/" + hostID + "/penalize", `{"points":1,"note":"late"}`},
		{follower, "GET /api/v1/dht", "/api/v1/dht", ""}, {follower, "GET /api/v1/dht/table", "/api/v1/dht/table", ""},
		{follower, "POST /api/v1/dht/find-node", "/api/v1/dht/find-node", `{"peer":"` + hostID + `"}`},
		{follower, "POST /api/v1/dht/provide", "/api/v1/dht/provide", `{"key":"a thing"}`},
		{h, "POST /api/v1/dht/find-providers", "/api/v1/dht/find-providers", `{"key":"a thing","limit":1}`},
		{follower, "PUT /api/v1/dht/values", "/api/v1/dht/values?key=note", `{"value":"aGVsbG8="}`},
		{h, "GET /api/v1/dht/values", "/api/v1/dht/values?quorum=1&key=/parley/note/" + peerID, ""},
		{follower, "POST /api/v1/dht/crawl", "/api/v1/dht/crawl", ""},
		{follower, "GET /api/v1/addrbook", "/api/v1/addrbook?table=tried&source=static&q=" + hostID, ""},
		{follower, "GET /api/v1/addrbook/export", "/api/v1/addrbook/export", ""},
		{follower, "POST /api/v1/addrbook/import", "/api/v1/addrbook/import", `{"id":"x"}`},
		{h, "POST /api/v1/bans", "/api/v1/bans?dry_run=true", `{"target":"203.0.113.0/24","for":"1h"}`},
		{h, "POST /api/v1/bans", "/api/v1/bans", `{"target":"203.0.113.7/24","for":"1h","note":"scanner"}`},
		{h, "GET /api/v1/bans", "/api/v1/bans?kind=cidr&origin=operator", ""}, {h, "GET /api/v1/bans/check", "/api/v1/bans/check?target=203.0.113.9", ""},
		{h, "GET /api/v1/bans/{target}", "/api/v1/bans/203.0.113.0%2F24", ""}, {h, "GET /api/v1/bans/export", "/api/v1/bans/export", ""},
		{h, "DELETE /api/v1/bans/{target}", "/api/v1/bans/203.0.113.0%2F24", ""}, {h, "GET /api/v1/bans", "/api/v1/bans?all=true", ""},
		{h, "POST /api/v1/bans/import", "/api/v1/bans/import", `{"target":"2001:db8::/32","until":null}`}, {h, "DELETE /api/v1/bans", "/api/v1/bans?origin=import", ""},
		{follower, "POST /api/v1/peers", "/api/v1/peers", `{"address":"/ip4/127.0.0.1/tcp/1","static":true}`},
		{follower, "DELETE /api/v1/peers/{id}", "/api/v1/peers/%2Fip4%2F127.0.0.1%2Ftcp%2F1", ""},
		{follower, "POST /api/v1/peers/{id}/connect", "/api/v1/peers/" + hostID + "/connect", ""},
		{follower, "POST /api/v1/peers/{id}/trust", "/api/v1/peers/" + hostID + "/trust", ""},
		{follower, "POST /api/v1/peers/{id}/untrust", "/api/v1/peers/" + hostID + "/untrust", ""},
		{follower, "POST /api/v1/peers/{id}/disconnect", "/api/v1/peers/" + hostID + "/disconnect", ""},
		{follower, "GET /api/v1/peers/history", "/api/v1/peers/history?limit=2", ""},
		{follower, "GET /api/v1/peers/{id}/history", "/api/v1/peers/" + hostID + "/history?limit=1", ""},
	} {
		seen[c.pattern] = true
		if strings.HasSuffix(c.pattern, "/history") { // what the lines before did is written a moment later
			c.h.waitFor("the end of the connection", func() bool {
				return bytes.Contains(c.h.do("GET", "/api/v1/peers/"+hostID+"/history", "", "").body, []byte(`"disconnected"`))
			})
		}
		if c.pattern == "GET /api/v1/addrbook" { // the book hears of a handshake a moment after the table of peers
			c.h.waitFor("the peer in the book", func() bool {
				return bytes.Contains(c.h.do("GET", c.path, c.h.token("admin"), "").body, []byte(hostID))
			})
		}
		method, _, _ := strings.Cut(c.pattern, " ")
		token := ""
		if classes[c.pattern] != read && classes[c.pattern] != open {
			token = c.h.token("admin")
		}
		got := c.h.do(method, c.path, token, c.body)
		path := strings.NewReplacer(p.message, "MESSAGE", peerID, "PEER", hostID, "HOST", id, "ID", author, "AUTHOR").Replace(c.path)
		fmt.Fprintf(&b, "%s %s\n  %d %s\n  %s\n", method, path, got.status, got.header.Get("Content-Type"), shapeOf(got))
		if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Cross-Origin-Resource-Policy") != "same-origin" {
			t.Errorf("%s: without the headers that every answer has", path)
		}
		if strings.Contains(c.pattern, " "+prefix) {
			if err := doc.fault(c.pattern, got); err != nil {
				t.Errorf("%s %s is not as /openapi.json says: %v", method, path, err)
			}
		}
	}
	golden(t, "routes.golden", b.Bytes())
	follower.waitFor("the peer again", func() bool { return follower.node.PeerCount().Connected == 1 })
	for pattern := range classes {
		if !seen[pattern] && !strings.Contains(pattern, "openapi") && !strings.Contains(pattern, "/docs") && !h.routes[pattern].stream && !h.routes[pattern].grpc && pattern != "POST /api/v1/devnet/partition" && pattern != "GET /api/v1/backup" && pattern != "GET /api/v1/debug/bundle" {
			t.Errorf("route %s was not asked", pattern)
		}
	}
}
