package api

import (
	"regexp"
	"strings"
	"testing"
)

// The page of the API loads nothing from elsewhere, and all that it names is
// there.
func TestDocsPage(t *testing.T) {
	h := start(t, nil)
	page := h.do("GET", "/docs", "", "")
	if page.status != 200 || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || page.header.Get("Content-Security-Policy") != docsPolicy {
		t.Fatalf("%d %v", page.status, page.header)
	}
	named := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(string(page.body), -1)
	if len(named) < 3 {
		t.Errorf("the page names %d files: %s", len(named), page.body)
	}
	for _, m := range named {
		if !strings.HasPrefix(m[1], "/docs/") {
			t.Errorf("the page loads %s", m[1])
			continue
		}
		path, _, _ := strings.Cut(m[1], "?")
		if got := h.do("GET", path, "", ""); got.status != 200 || len(got.body) < 100 {
			t.Errorf("%s: %d, %d bytes", path, got.status, len(got.body))
		}
	}
	if !strings.Contains(string(page.body), "/openapi.json") {
		t.Error("the page does not name the document")
	}
	for _, path := range []string{"/docs/none.js", "/docs/..%2f..%2fetc%2fpasswd", "/docs/%2e%2e", "/docs/a/b"} {
		if got := h.do("GET", path, "", ""); got.status != 404 {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}
