package api

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

func (p pair) records(t *testing.T) {
	h := p.h
	admin := h.token("admin")
	got := h.do("POST", "/api/v1/records?ack=accepted", admin, `{"subject":"r1","body":{"k":"v"}}`)
	if id := got.json(t)["id"]; got.status != 202 && got.status != 200 || got.status == 202 && got.header.Get("Location") != fmt.Sprintf("/api/v1/records/%s", id) {
		t.Fatalf("accepted: %d %q %s", got.status, got.header.Get("Location"), got.body)
	}
	id := got.json(t)["id"].(string)
	h.waitFor("the record", func() bool { return h.do("GET", "/api/v1/records/"+id, "", "").json(t)["status"] == "committed" })
	got = h.do("POST", "/api/v1/records", "unix", `{"subject":"r1","body":{"k":"w"}}`)
	if got.status != 200 || got.json(t)["status"] != "committed" {
		t.Fatalf("over the socket: %d %s", got.status, got.body)
	}
	second := got.json(t)
	history := h.do("GET", "/api/v1/records?subject=r1", "", "").json(t)
	items := history["items"].([]any)
	if len(items) != 2 || items[0].(map[string]any)["id"] != second["id"] || items[1].(map[string]any)["id"] != id || history["next_cursor"] != nil {
		t.Errorf("history: %v", history)
	}
	byAuthor := h.do("GET", fmt.Sprintf("/api/v1/records?author=%s&limit=1", second["author"]), "", "").json(t)
	if items := byAuthor["items"].([]any); len(items) != 1 || items[0].(map[string]any)["id"] != second["id"] || byAuthor["next_cursor"] == nil {
		t.Errorf("by author: %v", byAuthor)
	}
	again := h.do("POST", "/api/v1/records", admin, fmt.Sprintf(`{"raw":%q}`, second["raw"]))
	if again.status != 200 || again.json(t)["height"] != second["height"] {
		t.Errorf("a record that is in the chain: %d %s", again.status, again.body)
	}
	block := h.do("GET", fmt.Sprintf("/api/v1/chain/blocks/%s", second["block_hash"]), "", "").json(t)
	if block["height"] != second["height"] {
		t.Errorf("block by hash: %v", block)
	}
}

// signed hands in records of an author who is not the node: a token of
// scope read will do.
func (p pair) signed(t *testing.T) {
	h := p.h
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	c, err := h.node.Chain()
	if err != nil {
		t.Fatal(err)
	}
	r := &consortium.Record{Nonce: 1, Subject: "signed", MediaType: "application/json", Body: []byte(`{"a":1}`)}
	r.Sign(key, c.GenesisHash)
	draft := func(sig []byte) string {
		return fmt.Sprintf(`{"subject":"signed","body":{"a":1},"nonce":1,"author":"%x","sig":"%x"}`, r.Author[:], sig)
	}
	reader := h.token("read")
	if got := h.do("POST", "/api/v1/records", reader, draft(r.Sig[:])); got.status != 200 || got.json(t)["id"] != consortium.RecordID(r.Encode()).String() {
		t.Errorf("by a reader: %d %s", got.status, got.body)
	}
	wrong := *r
	wrong.Sign(key, chain.Hash{1})
	if got := h.do("POST", "/api/v1/records", reader, draft(wrong.Sig[:])); got.status != 400 || got.json(t)["reason"] != "bad_signature" {
		t.Errorf("signed for another chain: %d %s", got.status, got.body)
	}
	r.Nonce, r.NotAfter = 2, 1
	r.Sign(key, c.GenesisHash)
	if got := h.do("POST", "/api/v1/records", reader, fmt.Sprintf(`{"raw":"%x"}`, r.Encode())); got.status != 409 || got.json(t)["reason"] != "expired" {
		t.Errorf("expired: %d %s", got.status, got.body)
	}
}

func (p pair) batch(t *testing.T) {
	h := p.h
	var body strings.Builder
	const n = 300
	for i := range n {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&body, `{"subject":"b%d","n":%d}`+"\n", i, i)
		case 1:
			fmt.Fprintf(&body, `{"subject":"b%d","body":{"n":%d}}`+"\r\n\n", i, i)
		default:
			fmt.Fprintf(&body, `{"n":%d}`+"\n", i)
		}
	}
	for _, c := range []struct{ scope, ack string }{{"admin", "committed"}, {"admin", "accepted"}, {"read", "committed"}} {
		got := h.do("POST", "/api/v1/records/batch?ack="+c.ack, h.token(c.scope), body.String(), "Content-Type", "application/x-ndjson")
		lines := strings.Split(strings.TrimSpace(string(got.body)), "\n")
		if got.status != 200 || len(lines) != n {
			t.Fatalf("%+v: status %d, %d lines", c, got.status, len(lines))
		}
		for i, line := range lines {
			var a map[string]any
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			switch {
			case i%3 == 2:
				if a["code"] != "PLY-002" {
					t.Fatalf("%+v line %d: %s", c, i, line)
				}
			case c.scope == "read":
				if a["code"] != "PLY-005" {
					t.Fatalf("%+v line %d: %s", c, i, line)
				}
			default:
				b, _ := json.Marshal(a["body"])
				if a["subject"] != fmt.Sprintf("b%d", i) || string(b) != fmt.Sprintf(`{"n":%d}`, i) || c.ack == "committed" && a["status"] != "committed" {
					t.Fatalf("%+v line %d: %s", c, i, line)
				}
			}
		}
		h.waitFor("an empty pool", func() bool { return h.node.Status().Mempool.Records == 0 })
	}
}

func (p pair) pages(t *testing.T) {
	h := p.h
	all := h.do("GET", "/api/v1/chain/blocks?limit=1000", "", "").json(t)["items"].([]any)
	walk := func(path string) (heights []float64) {
		for cursor := ""; ; {
			m := h.do("GET", path+"&cursor="+cursor, "", "").json(t)
			for _, b := range m["items"].([]any) {
				heights = append(heights, b.(map[string]any)["height"].(float64))
			}
			next, more := m["next_cursor"].(string)
			if !more {
				return heights
			}
			cursor = next
		}
	}
	up, down := walk("/api/v1/chain/blocks?limit=2"), walk("/api/v1/chain/blocks?limit=3&order=desc")
	if len(up) != len(all) || len(down) != len(all) {
		t.Fatalf("%d blocks, %d upwards, %d downwards", len(all), len(up), len(down))
	}
	for i := range up {
		if up[i] != float64(i) || down[len(down)-1-i] != float64(i) {
			t.Fatalf("up %v down %v", up, down)
		}
	}
	first := func(path string) any {
		items := h.do("GET", path, "", "").json(t)["items"].([]any)
		if len(items) == 0 {
			return nil
		}
		return items[0].(map[string]any)["height"]
	}
	if first("/api/v1/chain/blocks?from=1") != 1.0 || first("/api/v1/chain/blocks?from=99999") != nil ||
		first("/api/v1/chain/blocks?from=1&order=desc") != 1.0 || first("/api/v1/chain/blocks?from=99999&order=desc") != float64(len(all)-1) {
		t.Error("from: a page begins with another height")
	}
}

// seed looks at what the seed's script compares.
func (p pair) seed(t *testing.T) {
	h, follower := p.h, p.follower
	if got := h.do("GET", "/health", "", ""); string(got.body) != "OK" || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") {
		t.Errorf("health: %q", got.body)
	}
	if got := h.do("GET", "/health", "", "", "Accept", "application/json"); got.json(t)["status"] != "healthy" {
		t.Errorf("health: %s", got.body)
	}
	status := func(h *house) map[string]any { return h.do("GET", "/api/blockchain/status", "", "").json(t) }
	follower.waitFor("the tip", func() bool { return status(follower)["latest_block_hash"] == status(h)["latest_block_hash"] })
	st := status(h)
	got := h.do("GET", "/api/blockchain/dump", "", "")
	var dump []map[string]any
	if err := json.Unmarshal(got.body, &dump); err != nil {
		t.Fatal(err)
	}
	if float64(len(dump)) != st["block_count"] || got.header.Get("X-Total-Count") != fmt.Sprint(len(dump)) {
		t.Errorf("dump of %d blocks, X-Total-Count %s, block_count %v", len(dump), got.header.Get("X-Total-Count"), st["block_count"])
	}
	for i, b := range dump {
		if b["index"] != float64(i) || i > 0 && b["previous_hash"] != dump[i-1]["hash"] {
			t.Fatalf("block %d of the dump: %v", i, b)
		}
		if n := b["transaction_count"].(float64); n > 0 && float64(strings.Count(b["data"].(string), "\n")+1) != n {
			t.Fatalf("block %d: %v records in %q", i, n, b["data"])
		}
	}
	if dump[len(dump)-1]["hash"] != st["latest_block_hash"] {
		t.Error("the dump ends with another block than the status")
	}
	for query, want := range map[string]int{"?from=1": len(dump) - 1, "?limit=2": 2, "?from=1&limit=1": 1, "?from=99999": 0, "?limit=0": 0} {
		var part []any
		if err := json.Unmarshal(h.do("GET", "/api/blockchain/dump"+query, "", "").body, &part); err != nil || len(part) != want {
			t.Errorf("dump%s: %d blocks, want %d: %v", query, len(part), want, err)
		}
	}
	address := follower.do("GET", "/api/peers", "", "").json(t)["peers"].([]any)[0].(map[string]any)["address"]
	if address != strings.TrimPrefix(h.base, "http://") {
		t.Errorf("the follower shows its peer at %v, not %s", address, h.base)
	}
}

// wire sends what no client would.
func (p pair) wire(t *testing.T) {
	h := p.h
	send := func(text string) string {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(h.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() { _, _ = conn.Write([]byte(text)) }() // the server may stop reading
		b := make([]byte, 64)
		n, _ := conn.Read(b)
		return string(b[:n])
	}
	if got := send("GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("64 KiB of headers: %q", got)
	}
	if got := send("GET /health HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400") {
		t.Errorf("no Host: %q", got)
	}
	if got := send("GET /api/v1/../v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404") {
		t.Errorf("dots in the path: %q", got)
	}
	if got := send("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 403") {
		t.Errorf("foreign host in the target: %q", got)
	}
}

func (p pair) metricsPage(t *testing.T) {
	h := p.h
	ops := h.opsHandler(true)
	ask := func(host, path string) reply { return callOps(ops, host, path) }
	text := string(ask("localhost", "/metrics").body)
	for _, want := range []string{
		`parley_api_requests_total{method="GET",route="/health",status="200"}`, `parley_api_request_seconds_bucket{route="/api/v1/records/{id}"`,
		`parley_api_clients{stream="ws"}`, `parley_api_events_dropped_total{stream="sse"} 0`, `parley_api_refused_total{reason="rate"} 0`,
		`route="other"`, "parley_ledger_height", "parley_build_info",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if strings.Contains(text, "nothing") {
		t.Error("/metrics shows a path that a client made up")
	}
	if got := ask("localhost", "/readyz?verbose"); got.status != 200 || !strings.Contains(string(got.body), "[+] store ok") {
		t.Errorf("/readyz: %d %s", got.status, got.body)
	}
	if got := ask("localhost", "/debug/pprof/"); got.status != 404 {
		t.Errorf("pprof without ops.pprof: %d", got.status)
	}
	if got := ask("evil.example", "/metrics"); got.status != 403 {
		t.Errorf("/metrics for a foreign Host: %d", got.status)
	}
}

// http2 asks in the clear, as gRPC clients do.
func (p pair) http2(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.h.base+"/api/v1/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 || res.StatusCode != 200 {
		t.Errorf("%s %d", res.Proto, res.StatusCode)
	}
}
