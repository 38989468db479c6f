package api

import (
	"bytes"
	"encoding/base64"
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
	seen := map[string]bool{}
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
	}
	golden(t, "routes.golden", b.Bytes())
	follower.waitFor("the peer again", func() bool { return follower.node.PeerCount().Connected == 1 })
	for pattern := range classes {
		if !seen[pattern] && !strings.Contains(pattern, "openapi") && !strings.Contains(pattern, "/docs") && !h.routes[pattern].stream && !h.routes[pattern].grpc && pattern != "POST /api/v1/devnet/partition" && pattern != "GET /api/v1/backup" && pattern != "GET /api/v1/debug/bundle" {
			t.Errorf("route %s was not asked", pattern)
		}
	}
}

func (p pair) errors(t *testing.T) {
	h := p.h
	admin := h.token("admin")
	unknown := strings.Repeat("ab", 32)
	for _, c := range []struct {
		method, path, token, body string
		status                    int
		code                      string // of a problem, or the word of another system
		header                    []string
	}{
		{"GET", "/api/v1/nothing", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/status/", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1//status", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/%2e%2e/v1/status", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/chain/blocks/%2e%2e", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/chain/blocks/1%2frecords", "", "", 400, "PLY-002", nil},
		{"DELETE", "/api/v1/status", "", "", 405, "PLY-009", nil},
		{"PUT", "/api/v1/records", admin, "{}", 405, "PLY-009", nil},
		{"OPTIONS", "/api/v1/records", "", "", 405, "PLY-009", nil},
		{"POST", "/api/v1/records", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"POST", "/api/v1/records", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "text/plain"}},
		{"POST", "/api/v1/records/batch", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "text/plain"}},
		{"POST", "/api/v1/records", admin, "{", 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, "", 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, "[]", 422, "PLY-003", nil},
		{"POST", "/api/v1/records", admin, strings.Repeat("[", 100_000), 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, `{"subject":1}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","colour":1}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/records?ack=maybe", admin, `{"subject":"s"}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/records?timeout=1y", admin, `{"subject":"s"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"` + strings.Repeat("x", 128<<10) + `"}`, 413, "PLY-008", nil},
		{"POST", "/api/v1/records/batch", admin, strings.Repeat("x", 4<<20+1), 413, "PLY-008", nil},
		{"POST", "/api/v1/records", admin, `{"subject":" s","body":1}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":1,"media_type":"x"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":"` + strings.Repeat("x", 66000) + `"}`, 413, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"raw":"00"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"raw":"zz"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":1,"body_base64":"AA=="}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", admin, `{"subject":"s","body":1,"author":"` + unknown + `","nonce":1,"sig":"` + unknown + unknown + `"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/records", "", `{"subject":"s"}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/records", h.token("read"), `{"subject":"s"}`, 403, "PLY-005", nil},
		{"GET", "/api/v1/records/" + unknown, "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/records/xyz", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?subject=a&author=b", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?author=b", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?subject=s&cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/records?subject=s&limit=0", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/records?subject=s&limit=1001", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/chain/blocks?from=-1", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/chain/blocks?from=99999999999999999999", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/chain/blocks?cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/chain/blocks/99999", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/chain/blocks/" + unknown, "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/chain/blocks/latest", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers?state=odd", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/peers?state=known&cursor=away.x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers?cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers/x", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/" + h.node.Info().PeerID.String(), "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/x/history", "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1/peers/history?cursor=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers/history?cursor=99999999999999999999", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/peers/history?limit=1001", "", "", 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/find-node", "", `{"peer":"x"}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/dht/find-node", h.token("read"), `{"peer":"x"}`, 403, "PLY-005", nil},
		{"POST", "/api/v1/dht/find-node", admin, `{"peer":"x"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/dht/find-node", admin, `{}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/find-providers", admin, `{"key":""}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/find-providers", admin, `{"key":"a","limit":129}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/dht/provide", admin, `{"key":"` + strings.Repeat("x", 1025) + `"}`, 422, "PLY-003", nil},
		{"GET", "/api/v1/dht/values", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/dht/values?key=/ipns/x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/dht/values?key=A", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/dht/values?key=a&quorum=21", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/dht/values?key=nobody-has-this", "", "", 404, "PLY-006", nil},
		{"PUT", "/api/v1/dht/values?key=a", "", `{"value":"aGVsbG8="}`, 401, "PLY-004", nil},
		{"PUT", "/api/v1/dht/values?key=a", admin, `{"value":"!"}`, 422, "PLY-003", nil},
		{"PUT", "/api/v1/dht/values?key=a", admin, `{"value":"` + base64.StdEncoding.EncodeToString(make([]byte, 3841)) + `"}`, 413, "PLY-008", nil},
		{"PUT", "/api/v1/dht/values?key=/parley/a/" + p.follower.node.ID().String(), admin, `{"value":"aGVsbG8="}`, 400, "PLY-002", nil},
		{"GET", "/api/v1/dht/table?cursor=x", "", "", 400, "PLY-002", nil},
		{"DELETE", "/api/v1/dht/values?key=a", admin, "", 405, "PLY-009", nil},
		{"GET", "/api/v1/addrbook", "", "", 401, "PLY-004", nil},
		{"GET", "/api/v1/addrbook?table=old", admin, "", 422, "PLY-003", nil},
		{"GET", "/api/v1/addrbook?cursor=x", admin, "", 400, "PLY-002", nil},
		{"GET", "/api/v1/addrbook?cursor=tried.x", admin, "", 400, "PLY-002", nil},
		{"GET", "/api/v1/addrbook/export", h.token("read"), "", 403, "PLY-005", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"host.example.org"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"0.0.0.0/0"}`, 409, "PLY-007", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"192.0.2.1","for":"1h","forever":true}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/bans", admin, `{"target":"192.0.2.1","for":"soon"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/bans", h.token("read"), `{"target":"192.0.2.1"}`, 403, "PLY-005", nil},
		{"GET", "/api/v1/bans/192.0.2.1", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/bans/192.0.2.1", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/bans", admin, "", 422, "PLY-003", nil},
		{"GET", "/api/v1/bans/check?target=x.example.org", "", "", 400, "PLY-002", nil},
		{"POST", "/api/v1/addrbook/import", admin, "a=b", 415, "PLY-009", []string{"Content-Type", "text/plain"}},
		{"POST", "/api/v1/addrbook/import", admin, `{"parley_addrbook":1,"network":"ffffffff","entries":0}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/addrbook/import", admin, strings.Repeat(" ", 16<<20+1), 413, "PLY-008", nil},
		{"POST", "/api/v1/peers", "", `{"address":"127.0.0.1:1"}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/peers", h.token("read"), `{"address":"127.0.0.1:1"}`, 403, "PLY-005", nil},
		{"POST", "/api/v1/peers", admin, `{}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers", admin, `{"address":""}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"` + strings.Repeat("x", 2000) + `"}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"enode://a@b:1","static":true}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"300.1.1.1:1"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"127.0.0.1:1","static":true,"trusted":true}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"/ip4/127.0.0.1/tcp/1"}`, 502, "PLY-016", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"` + strings.TrimPrefix(h.base, "http://") + `"}`, 502, "PLY-016", nil},
		{"POST", "/api/v1/peers", admin, `{"address":"` + strings.TrimPrefix(h.base, "http://") + `","static":true}`, 400, "PLY-002", nil},
		{"GET", "/api/v1/gossip/mesh?topic=odd", "", "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/" + p.follower.node.ID().String() + "/penalize", admin, `{"points":0}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers/" + p.follower.node.ID().String() + "/penalize", admin, `{"points":101}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers/" + p.follower.node.ID().String() + "/penalize", admin, `{"points":1,"reason":"spam"}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/peers/" + h.node.ID().String() + "/penalize", admin, `{"points":1}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/peers/x/connect", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR/connect", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR/disconnect", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR/untrust", admin, "", 404, "PLY-006", nil},
		{"POST", "/api/v1/peers/" + h.node.Info().PeerID.String() + "/trust", admin, "", 400, "PLY-002", nil},
		{"POST", "/api/v1/peers/" + h.node.Info().PeerID.String() + "/connect", admin, "", 502, "PLY-016", nil},
		{"POST", "/api/v1/peers/" + h.node.Info().PeerID.String() + "/trust", "", "", 401, "PLY-004", nil},
		{"DELETE", "/api/v1/peers/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/peers/none:1", admin, "", 404, "PLY-006", nil},
		{"DELETE", "/api/v1/peers/none:1", h.token("read"), "", 403, "PLY-005", nil},
		{"POST", "/api/v1/chain/validators", "", `{"remove":[1]}`, 401, "PLY-004", nil},
		{"POST", "/api/v1/chain/validators", h.token("read"), `{"remove":[1]}`, 403, "PLY-005", nil},
		{"POST", "/api/v1/chain/validators", admin, `{}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"remove":[9]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"remove":[1]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"add":[{"key":"ed25519:ab"}]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"threshold":2}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"change":"zz"}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"change":"00","remove":[1]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"change":"00"}`, 400, "PLY-017", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"threshold":1,"approvals":["00"]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"add":[{"key":"` + unknown + `"}]}`, 409, "PLY-007", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"add":[{"key":"` + unknown + `"}],"accept_two":true}`, 409, "PLY-007", nil},
		{"POST", "/api/v1/chain/validators", admin, `{"remove":[1],"colour":1}`, 422, "PLY-003", nil},
		{"POST", "/api/v1/chain/validators?timeout=1y", admin, `{"remove":[1]}`, 400, "PLY-002", nil},
		{"PATCH", "/api/v1/config", "", `{"log":{"level":"debug"}}`, 401, "PLY-004", nil},
		{"PATCH", "/api/v1/config", h.token("read"), `{"log":{"level":"debug"}}`, 403, "PLY-005", nil},
		{"PATCH", "/api/v1/config", admin, `{"log":{"levle":"debug"}}`, 422, "PLY-003", nil},
		{"PATCH", "/api/v1/config", admin, `{"p2p":{"port":1}}`, 422, "PLY-003", nil},
		{"PATCH", "/api/v1/config", admin, `{"api":{"jwt_secret_file":"/etc/shadow"}}`, 403, "PLY-005", nil},
		{"PATCH", "/api/v1/config", admin, `[]`, 422, "PLY-003", nil},
		{"GET", "/api/v1/gossip/traces/x", "", "", 422, "PLY-003", nil},
		{"GET", "/api/v1/gossip/traces/" + strings.Repeat("z", 40), "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/gossip/traces/" + strings.Repeat("a", 40), "", "", 404, "PLY-006", nil},
		{"GET", "/api/v1", "", "", 404, "PLY-006", nil},
		{"POST", "/api/v1/config/reload", "", "", 401, "PLY-004", nil},
		{"POST", "/api/v1/config/reload", h.token("read"), "", 403, "PLY-005", nil},
		{"POST", "/api/v1/config/reload?force=maybe", admin, "", 422, "PLY-003", nil},
		{"POST", "/api/v1/devnet/partition", admin, `{"groups":[["other"]]}`, 400, "PLY-002", nil},
		{"POST", "/api/v1/devnet/partition", admin, `{}`, 422, "PLY-003", nil},
		{"GET", "/api/v1/ws", "", "", 426, "PLY-009", nil},
		{"GET", "/api/v1/events?types=[", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/events?since=x", "", "", 400, "PLY-002", nil},
		{"GET", "/api/v1/status", "", "", 403, "PLY-005", []string{"Host", "evil.example"}},
		{"GET", "/api/blockchain/blocks/99999", "", "", 404, "block_not_found", nil},
		{"GET", "/api/blockchain/blocks/x", "", "", 404, "block_not_found", nil},
		{"GET", "/api/blockchain/dump?from=x", "", "", 400, "bad_request", nil},
		{"GET", "/api/nothing", "", "", 404, "not_found", nil},
		{"POST", "/api/peers", "", "", 405, "method_or_type", nil},
		{"GET", "/eth/v1/node/peers/x", "", "", 400, "400", nil},
		{"GET", "/eth/v1/node/peers?state=odd", "", "", 400, "400", nil},
		{"GET", "/eth/v1/nothing", "", "", 404, "404", nil},
		{"GET", "/eth/v1alpha1/node/peer", "", "", 400, "400", nil},
		{"GET", "/eth/v1alpha1/node/peer?peer_id=12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", "", "", 404, "404", nil},
		{"POST", "/prysm/v1/node/trusted_peers", admin, `{"addr":"127.0.0.1:1"}`, 400, "400", nil},
		{"POST", "/prysm/v1/node/trusted_peers", admin, `{`, 400, "400", nil},
		{"POST", "/prysm/v1/node/trusted_peers", h.token("read"), `{}`, 403, "403", nil},
		{"DELETE", "/prysm/v1/node/trusted_peers/x", admin, "", 400, "400", nil},
		{"GET", "/ws", "", "", 426, "PLY-009", nil},
		{"GET", "/", "", "", 404, "PLY-006", nil},
		{"GET", "/metrics", "", "", 404, "PLY-006", nil},
		{"GET", "/debug/pprof/", "", "", 404, "PLY-006", nil},
	} {
		name := fmt.Sprintf("%s %.60s %.40s", c.method, c.path, c.body)
		var got reply
		if len(c.header) == 2 && c.header[0] == "Host" {
			got = call(h.Server, parley.Listener{Loopback: true}, "127.0.0.1:1", c.method, c.path, "", c.header...)
		} else {
			got = h.do(c.method, c.path, c.token, c.body, c.header...)
		}
		if got.status != c.status {
			t.Errorf("%s: status %d, want %d: %.200s", name, got.status, c.status, got.body)
			continue
		}
		m := got.json(t)
		code := fmt.Sprint(m["code"])
		if m["error"] != nil {
			code = fmt.Sprint(m["error"])
		}
		if code != c.code {
			t.Errorf("%s: code %s, want %s", name, code, c.code)
		}
		if strings.HasPrefix(c.code, "PLY") {
			path, _, _ := strings.Cut(c.path, "?")
			if got.header.Get("Content-Type") != problemType || m["status"] != float64(c.status) || m["type"] == nil || m["title"] == nil || m["instance"] == nil {
				t.Errorf("%s: not a problem of RFC 9457: %s %s", name, got.header.Get("Content-Type"), got.body)
			} else if !strings.Contains(path, "%") && m["instance"] != path {
				t.Errorf("%s: instance %v", name, m["instance"])
			}
		}
		if c.code == "PLY-017" && m["reason"] == nil {
			t.Errorf("%s: refused without a reason", name)
		}
		if len(got.body) > 2000 {
			t.Errorf("%s: an error of %d bytes", name, len(got.body))
		}
	}
}
