package api

import (
	"regexp"
	"strings"
	"testing"
)

// conditional asks again for what a client has.
func (p pair) conditional(t *testing.T) {
	h := p.h
	hash := h.do("GET", "/api/v1/chain/blocks/1", "", "").json(t)["hash"].(string)
	genesis := h.do("GET", "/api/v1/chain/blocks/0", "", "").json(t)["hash"].(string)
	asset := regexp.MustCompile(`(?:src|href)="([^"?]*)`).FindStringSubmatch(string(h.do("GET", "/docs", "", "").body))[1]
	for _, c := range []struct{ path, cache string }{
		{"/api/v1/chain/blocks/" + hash, "public, no-cache"}, {"/api/v1/chain/blocks/" + strings.ToUpper(hash), "public, no-cache"}, {"/api/v1/chain/blocks/" + genesis, "public, no-cache"},
		{"/api/v1/chain/blocks/" + hash + "/records", "public, no-cache"}, {"/api/v1/chain/blocks/" + hash + "/records?limit=1", "public, no-cache"},
		{"/openapi.json", "no-cache"}, {"/openapi.yaml", "no-cache"}, {"/openapi-3.0.json", "no-cache"},
	} {
		first := h.do("GET", c.path, "", "")
		tag := first.header.Get("ETag")
		if first.status != 200 || len(tag) < 10 || !strings.Contains(first.header.Get("Cache-Control"), c.cache) {
			t.Errorf("%s: %d, tag %s, %s", c.path, first.status, tag, first.header.Get("Cache-Control"))
			continue
		}
		for _, have := range []string{tag, `"other", ` + tag} {
			if got := h.do("GET", c.path, "", "", "If-None-Match", have); got.status != 304 || len(got.body) > 0 || got.header.Get("ETag") != tag {
				t.Errorf("%s again with %s: %d with %d bytes", c.path, have, got.status, len(got.body))
			}
		}
		if got := h.do("GET", c.path, "", "", "If-None-Match", `"other"`); got.status != 200 || string(got.body) != string(first.body) {
			t.Errorf("%s with another tag: %d", c.path, got.status)
		}
	}
	if got := h.do("GET", asset, "", "", "If-None-Match", h.do("GET", asset, "", "").header.Get("ETag")); got.status != 304 || len(got.body) > 0 {
		t.Errorf("%s again: %d with %d bytes", asset, got.status, len(got.body))
	}
	for path, want := range map[string]int{"/api/v1/chain/blocks/" + strings.Repeat("ab", 32): 404, "/api/v1/chain/blocks/1": 200, "/api/v1/status": 200} {
		got := h.do("GET", path, "", "", "If-None-Match", `"`+strings.Repeat("ab", 32)+`", *`)
		if got.status != want || got.header.Get("ETag") != "" || got.header.Get("Cache-Control") != "" {
			t.Errorf("%s: %d %v", path, got.status, got.header)
		}
	}
}
