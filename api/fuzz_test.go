package api

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// FuzzBodies: whatever stands in the body and the query of a request, it is
// answered, and the fault is not ours.
func FuzzBodies(f *testing.F) {
	s := idleServer(f, nil)
	routes := []string{
		"POST /api/v1/records", "POST /api/v1/records/batch", "POST /api/v1/bans?dry_run=true", "POST /api/v1/bans/import?dry_run=true",
		"POST /api/v1/addrbook/import", "POST /api/v1/chain/validators", "PUT /api/v1/dht/values", "POST /api/v1/dht/find-node",
		"POST /api/v1/dht/provide", "POST /api/v1/dht/find-providers", "POST /api/v1/devnet/partition", "GET /api/v1/records", "GET /api/v1/peers",
		"GET /api/v1/addrbook", "GET /api/v1/bans",
	}
	for i, body := range []string{
		`{"subject":"s","body":{"a":1}}`, "{\"subject\":\"s\",\"n\":1}\n{\"subject\":\"s\",\"n\":2}\n", `{"target":"203.0.113.0/24","for":"1h"}`, `{"target":"2001:db8::/32","until":null}`,
		`{"id":"x"}`, `{"add":[{"key":"x"}],"dry_run":true}`, `{"value":"aGVsbG8="}`, `{"peer":"x"}`, `{"key":"a thing"}`, `{"key":"a thing","limit":1}`, `{"groups":[["a"]]}`,
	} {
		f.Add(uint8(i), "limit=3&cursor=x", []byte(body))
	}
	f.Add(uint8(0), "ack=committed&timeout=1s", []byte(`{"subject":"s","body_base64":"AAEC","media_type":"application/octet-stream"}`))
	f.Fuzz(func(t *testing.T, route uint8, query string, body []byte) {
		method, target, _ := bytes.Cut([]byte(routes[int(route)%len(routes)]), []byte(" "))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, string(method), string(target), bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		if r.URL.RawQuery == "" { // a dry run stays one
			r.URL.RawQuery = query
		}
		w := httptest.NewRecorder()
		r.Body = http.MaxBytesReader(w, r.Body, defaultMaxBody)
		s.mux.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %s: %s", method, target, w.Body)
		}
	})
}
