package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
)

// TestJoining asks a node that does not know its chain yet.
func TestJoining(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.P2P.StaticPeers = []string{"127.0.0.1:1"} })
	notYet := map[string]string{
		"GET /api/v1/chain": "PLY-012", "GET /api/v1/chain/head": "PLY-012", "GET /api/v1/chain/blocks": "PLY-012",
		"GET /api/v1/records": "PLY-012", "POST /api/v1/records": "PLY-012",
		"GET /api/blockchain/status": "not_ready", "GET /api/blockchain/dump": "not_ready", "GET /api/blockchain/blocks": "not_ready",
		"GET /api/blockchain/validate": "not_ready", "GET /api/transactions/recent": "not_ready",
	}
	for _, pattern := range s.patterns() {
		rt := s.routes[pattern]
		if rt.stream {
			continue
		}
		path := strings.NewReplacer("{id}", strings.Repeat("ab", 32), "{ref}", "0", "{index}", "0", "{peer_id}", "x", "{$}", "").Replace(rt.pattern)
		body := ""
		switch {
		case pattern == "GET /api/v1/records":
			path += "?subject=s"
		case rt.method == http.MethodPost:
			body = `{"subject":"s","body":1}`
		}
		got := call(s, parley.Listener{Admin: true}, "@", rt.method, path, body, "Content-Type", "application/json")
		if got.status == http.StatusInternalServerError {
			t.Errorf("%s: %s", pattern, got.body)
		}
		want, waits := notYet[pattern]
		if !waits {
			continue
		}
		m := got.json(t)
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || m["code"] != want && m["error"] != want {
			t.Errorf("%s: %d %s", pattern, got.status, got.body)
		}
	}
	if got := call(s, parley.Listener{}, stranger, "GET", "/livez", ""); got.status != 200 {
		t.Errorf("livez: %d", got.status)
	}
	if got := call(s, parley.Listener{}, stranger, "GET", "/readyz", ""); got.status != 503 {
		t.Errorf("readyz: %d", got.status)
	}
	if got := call(s, parley.Listener{}, stranger, "GET", "/api/v1/status", ""); got.json(t)["head"] != nil {
		t.Errorf("status: %s", got.body)
	}
}

func TestDevnetOnly(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.Profile = config.ProfileDefault })
	for path, body := range map[string]string{"partition": `{"groups":[["n1"]]}`, "heal": ""} {
		got := call(s, parley.Listener{Admin: true}, "@", "POST", "/api/v1/devnet/"+path, body)
		if got.status != 404 || got.json(t)["code"] != "PLY-006" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

// TestTooLarge sends what is over a route's limit by one byte, and just it.
func TestTooLarge(t *testing.T) {
	s := idleServer(t, nil)
	for _, c := range []struct {
		path  string
		limit int
		mend  string
	}{
		{"records", 131072, "65536 bytes"}, {"records/batch", 4194304, "several requests"}, {"devnet/partition", 1048576, "send less"},
	} {
		for _, over := range []int{0, 1, 2, 1 << 20} {
			body := `{"subject":"` + strings.Repeat("x", c.limit+over-14) + `"}`
			got := call(s, parley.Listener{Admin: true}, "@", "POST", prefix+c.path, body)
			m := map[string]any{}
			if c.path != "records/batch" || over > 0 {
				m = got.json(t)
			}
			detail, _ := m["detail"].(string)
			if over == 0 && m["code"] == "PLY-008" {
				t.Errorf("%s with its limit of bytes: %d %.200s", c.path, got.status, got.body)
			}
			if over > 0 && (got.status != 413 || m["code"] != "PLY-008" || !strings.Contains(detail, fmt.Sprintf("limit of %d bytes", c.limit)) || !strings.Contains(detail, c.mend)) {
				t.Errorf("%s and %d bytes more: %d %.200s", c.path, over, got.status, got.body)
			}
		}
	}
}

// TestRefusals pins the status of each reason of LEDGER 5.
func TestRefusals(t *testing.T) {
	s := idleServer(t, nil)
	for reason, status := range map[consortium.Reason]int{
		consortium.Malformed: 400, consortium.TooLarge: 413, consortium.BadSubject: 400, consortium.BadMediaType: 400, consortium.BadSignature: 400,
		consortium.UnknownAuthor: 403, consortium.NotAuthorised: 403, consortium.Expired: 409, consortium.StaleConfig: 409,
		consortium.MempoolFull: 503, consortium.AuthorLimit: 429, consortium.RateLimited: 429,
		consortium.DiskLow: 503, consortium.Syncing: 503, consortium.ShuttingDown: 503,
	} {
		p := s.problemOf(consortium.Refuse(reason, "because"))
		if p.Code != "PLY-017" || p.Reason != string(reason) || p.Status != status || (p.GetHeaders() != nil) != (status == 429 || status == 503) {
			t.Errorf("%s: %+v", reason, p)
		}
	}
	why := "expired"
	if p := rejected(parley.Record{ID: chain.Hash{1}, Reason: &why}); p.Status != 410 || p.Reason != "expired" || p.Code != "PLY-017" {
		t.Errorf("rejected: %+v", p)
	}
}

// TestStopUnderLoad ends a server while clients ask it for everything.
func TestStopUnderLoad(t *testing.T) {
	h := start(t, nil)
	token, base := h.token("admin"), h.base
	ask := func(method, path, body string) error {
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close())
	}
	lines := strings.Repeat(`{"subject":"load","n":1}`+"\n", 200)
	var wg sync.WaitGroup
	answered, enough := make(chan struct{}), make(chan struct{})
	for _, q := range []struct{ method, path, body string }{
		{"POST", "/api/v1/records/batch", lines}, {"POST", "/api/v1/records/batch?ack=accepted", lines},
		{"GET", "/api/v1/status", ""}, {"GET", "/api/v1/chain/blocks?limit=1000", ""}, {"GET", "/api/v1/records?subject=load&limit=1000", ""},
		{"GET", "/api/blockchain/dump", ""}, {"GET", "/api/transactions/recent", ""}, {"GET", "/api/v1/chain/validators", ""},
	} {
		wg.Go(func() {
			for ask(q.method, q.path, q.body) == nil {
				select {
				case answered <- struct{}{}:
				case <-enough:
				}
			}
		})
	}
	for range 100 {
		<-answered
	}
	close(enough)
	began := time.Now()
	h.stop()
	if took := time.Since(began); took > drainTimeout {
		t.Errorf("took %s to stop", took)
	}
	wg.Wait()
}
