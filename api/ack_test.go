package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
)

// TestAckLevels has a node that orders nothing: what is accepted is answered
// with 202 and the place to ask, at once or when the timeout ends; a node that
// stops says so.
func TestAckLevels(t *testing.T) {
	s := idleServer(t, nil)
	socket := parley.Listener{Admin: true}
	post := func(path, body string) reply {
		return call(s, socket, "", "POST", "/api/v1/records"+path, body, "Content-Type", "application/json")
	}
	const draft = `{"subject":"s","nonce":%d,"body":{"a":1}}`
	for i, query := range []string{"?ack=accepted", "?ack=committed&timeout=10ms", "?timeout=10ms"} {
		got := post(query, fmt.Sprintf(draft, i))
		r := got.json(t)
		if got.status != 202 || r["status"] != "pending" || got.header.Get("Location") != fmt.Sprintf("/api/v1/records/%s", r["id"]) {
			t.Fatalf("%s: %d %q %s", query, got.status, got.header.Get("Location"), got.body)
		}
		again := post("?ack=accepted", fmt.Sprintf(`{"raw":%q}`, r["raw"]))
		if again.status != 202 || again.json(t)["id"] != r["id"] {
			t.Errorf("%s, handed in again: %d %s", query, again.status, again.body)
		}
		if ask := call(s, socket, "", "GET", got.header.Get("Location"), ""); ask.status != 200 || ask.json(t)["status"] != "pending" {
			t.Errorf("%s, asked for: %d %s", query, ask.status, ask.body)
		}
	}
	batch := fmt.Sprintf(draft, 10) + "\n" + fmt.Sprintf(draft, 11) + "\n"
	for _, query := range []string{"?ack=accepted", "?timeout=10ms"} {
		got := call(s, socket, "", "POST", "/api/v1/records/batch"+query, batch, "Content-Type", "application/x-ndjson")
		lines := strings.Split(strings.TrimSpace(string(got.body)), "\n")
		for _, line := range lines {
			var r map[string]any
			if err := json.Unmarshal([]byte(line), &r); err != nil || r["status"] != "pending" || len(lines) != 2 {
				t.Errorf("batch%s: %s", query, got.body)
			}
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.node.Run(ctx); err != nil {
		t.Fatal(err)
	}
	got := post("?ack=accepted", fmt.Sprintf(draft, 20))
	if got.status != 503 || got.json(t)["reason"] != "shutting_down" || got.header.Get("Retry-After") == "" {
		t.Errorf("while it stops: %d %s", got.status, got.body)
	}
}
