package api

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// FuzzCalls: whatever comes to a remote call, in whatever form, it is answered,
// and the fault is not ours.
func FuzzCalls(f *testing.F) {
	s := idleServer(f, nil)
	types := []string{"application/json", "application/proto", "application/grpc", "application/grpc-web", "application/grpc+json", "text/plain"}
	var paths []string
	for _, pattern := range s.patterns() {
		rt := s.routes[pattern]
		name := pattern[strings.LastIndexByte(pattern, '/')+1:]
		if rt.grpc && !rt.stream && !slices.Contains([]string{"AddPeer", "ConnectPeer", "Connect", "ReloadConfig"}, name) { // they reach out
			paths = append(paths, rt.pattern)
		}
	}
	for i, body := range []string{
		`{}`, `{"target":"203.0.113.0/24","for":"1h","dry_run":true}`, `{"subject":"s","body":"{}"}`, "\x0a\x01x", "\x00\x00\x00\x00\x02\x08\x01",
		"\x01\x00\x00\x00\x02\x1f\x8b", "\x00\xff\xff\xff\xff", "\x80\x00\x00\x00\x00", `{"limit":2147483648}`, `{"cursor":"x"}`,
	} {
		f.Add(uint8(i), uint8(i), []byte(body))
	}
	serve := s.Handler(parley.Listener{Admin: true})
	f.Fuzz(func(t *testing.T, path, mediaType uint8, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		target := paths[int(path)%len(paths)]
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
		r.Header.Set("Content-Type", types[int(mediaType)%len(types)])
		w := httptest.NewRecorder()
		serve.ServeHTTP(w, r)
		status := w.Header().Get("Grpc-Status") + w.Header().Get(http.TrailerPrefix+"Grpc-Status")
		if w.Code == http.StatusInternalServerError && !bytes.Contains(w.Body.Bytes(), []byte("protocol error")) || status == "13" && strings.Contains(w.Header().Get(http.TrailerPrefix+"Grpc-Message"), "log") {
			t.Fatalf("%s: %d %s %s", target, w.Code, status, w.Body)
		}
	})
}
