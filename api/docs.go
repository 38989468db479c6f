package api

import (
	"net/http"

	"github.com/swaggest/swgui/v5emb"
)

// docsPolicy lets the page run what it was served with, and load from nowhere
// else.
const docsPolicy = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"

// docsRoutes serve the description of the native routes as a page. All of it is
// in the binary.
func (s *Server) docsRoutes() {
	page := v5emb.New("parley", "/openapi.json", "/docs/")
	serve := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		page.ServeHTTP(w, r)
	}
	s.get("/docs", open, serve)
	s.get("/docs/{file}", open, serve)
}
