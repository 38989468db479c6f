package api

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	bundleType  = "application/zip"
	bundleStack = 2 // of pprof: all stacks as a panic writes them
)

// bundled are the routes whose answers a bundle holds, each as NAME.json. What
// is a list is cut after 1,000 of its items.
var bundled = []string{
	"version", "status", "node", "health", "config", "log-levels",
	"peers", "peers/count", "peers/history", "static-peers", "addrbook",
	"bans", "shared-keys", "dht", "dht/table",
	"chain", "chain/head", "chain/heads", "chain/validators", "chain/blocks",
}

const bundleReadme = `A support bundle of a parley node, made %s.

api/v1/*.json   what the API answered; FILE.error where it refused
metrics.txt     the metrics
log.jsonl       the newest lines of the log
goroutines.txt  all stacks
heap.pb.gz      memory by who took it, for go tool pprof

Keys, tokens and passwords are left out. Addresses, peer ids and names are in it: share it with those alone who may know
them. parley status --bundle FILE, peers list, bans list, chain status and the like show what the node would have answered.
`

func (s *Server) bundleRoutes() {
	s.raw(route{method: http.MethodGet, pattern: prefix + "debug/bundle", access: admin, places: s.dumps, serve: s.bundle}, huma.Operation{
		OperationID: "get-debug-bundle", Summary: "What helps to find a fault, without secrets: a zip of answers, metrics, stacks and the newest lines of the log",
	}, form{gives: bundleType})
}

// bundle streams a bundle. One that fails on its way is cut off, and has no
// directory at its end, which every reader of a zip misses.
func (s *Server) bundle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Disposition", `attachment; filename="parley-bundle.zip"`)
	out := &lazyHeader{ResponseWriter: w, contentType: bundleType}
	if err := s.writeBundle(r.Context(), out); err != nil {
		s.log.Warn("bundle broken off", "err", err)
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) writeBundle(ctx context.Context, w io.Writer) error {
	z := zip.NewWriter(w)
	now := time.Now().UTC()
	add := func(name string, write func(io.Writer) error) error {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: now})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := write(f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return ctx.Err()
	}
	if err := add("README.txt", func(f io.Writer) error {
		_, err := fmt.Fprintf(f, bundleReadme, now.Format(time.RFC3339))
		return err
	}); err != nil {
		return err
	}
	for _, name := range bundled {
		status, body := s.ask(ctx, name)
		ending := ".json"
		if status >= http.StatusBadRequest {
			ending = ".error"
		}
		if err := add(path.Join(strings.Trim(prefix, "/"), name)+ending, func(f io.Writer) error { _, err := f.Write(body); return err }); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"metrics.txt", s.writeMetrics},
		{"goroutines.txt", func(f io.Writer) error { return pprof.Lookup("goroutine").WriteTo(f, bundleStack) }},
		{"heap.pb.gz", func(f io.Writer) error { return pprof.Lookup("heap").WriteTo(f, 0) }},
		{"log.jsonl", s.writeLastLines},
	} {
		if err := add(part.name, part.write); err != nil {
			return err
		}
	}
	return z.Close()
}

// ask returns what the API would answer an admin who asks for a native route.
func (s *Server) ask(ctx context.Context, name string) (status int, body []byte) {
	u := &url.URL{Path: prefix + name}
	rt, ok := s.routes[http.MethodGet+" "+u.Path]
	if !ok {
		return http.StatusNotFound, nil
	}
	if s.pages(u.Path) {
		u.RawQuery = "limit=1000"
	}
	r := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}, Body: http.NoBody, Host: "localhost"}).
		WithContext(context.WithValue(ctx, callerKey{}, caller{token: true, admin: true, free: true, local: true}))
	kept := &keptAnswer{header: http.Header{}, status: http.StatusOK}
	rt.serve(kept, r)
	return kept.status, kept.body.Bytes()
}

// pages tells whether a native route takes a limit.
func (s *Server) pages(path string) bool {
	item := s.huma.OpenAPI().Paths[path]
	if item == nil || item.Get == nil {
		return false
	}
	for _, p := range item.Get.Parameters {
		if p.Name == "limit" {
			return true
		}
	}
	return false
}

func (s *Server) writeMetrics(w io.Writer) error {
	kept := &keptAnswer{header: http.Header{}, status: http.StatusOK}
	promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{}).ServeHTTP(kept, &http.Request{Method: http.MethodGet, Header: http.Header{}})
	_, err := w.Write(kept.body.Bytes())
	return err
}

func (s *Server) writeLastLines(w io.Writer) error {
	if s.lines == nil {
		return json.NewEncoder(w).Encode(map[string]string{"msg": noLog})
	}
	_, err := w.Write(append(bytes.Join(s.lines.lastWritten(lastLines), []byte("\n")), '\n'))
	return err
}

// keptAnswer is an answer in memory.
type keptAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *keptAnswer) Header() http.Header         { return k.header }
func (k *keptAnswer) WriteHeader(status int)      { k.status = status }
func (k *keptAnswer) Write(b []byte) (int, error) { return k.body.Write(b) }

// SetReadDeadline is what huma asks of every connection; memory is never late.
func (k *keptAnswer) SetReadDeadline(time.Time) error  { return nil }
func (k *keptAnswer) SetWriteDeadline(time.Time) error { return nil }
