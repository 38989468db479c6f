package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

func labConfig(t testing.TB) config.Config {
	t.Helper()
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Profile = config.ProfileDevnet
	c.Node.Name = "n1"
	c.API.Listen = []string{"127.0.0.1:0"}
	c.Ops.Listen = ""
	c.P2P.Port, c.P2P.Listen = 0, []string{"/ip4/127.0.0.1/tcp/0"}
	return c
}

// idleServer is a server whose node does not run.
func idleServer(t testing.TB, change func(*config.Config)) *Server {
	t.Helper()
	c := labConfig(t)
	if change != nil {
		change(&c)
	}
	n, err := parley.New(c, parley.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := New(n, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// patterns lists the routes in order.
func (s *Server) patterns() []string { return slices.Sorted(maps.Keys(s.routes)) }

// house is a node that runs with its server.
type house struct {
	*Server
	t    *testing.T
	base string // of its first TCP listener
	unix string // path of its local socket
	stop func() // ends the server, then the node
}

func start(t *testing.T, change func(*config.Config)) *house {
	t.Helper()
	c := labConfig(t)
	if change != nil {
		change(&c)
	}
	return startWith(t, c, func([]byte) (*config.Loaded, error) { return &config.Loaded{Config: c}, nil })
}

// startWith starts a node whose configuration comes anew from reload.
func startWith(t *testing.T, c config.Config, reload func([]byte) (*config.Loaded, error)) *house {
	t.Helper()
	reg := prometheus.NewRegistry()
	n, err := parley.New(c, parley.Env{Registry: reg, Reload: reload})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := NewLog(slog.DiscardHandler, "info", nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(n, Options{Registry: reg, Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Server: s, t: t, unix: parley.SocketPath(c.DataDir)}
	h.base = "http://" + n.Listeners()[0].Addr().String()
	stopNode := background(t, n.Run)
	stopServer := background(t, s.Run)
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		stopServer()
		stopNode()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(h.stop)
	return h
}

// background runs f until the returned function is called, which waits for it.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // t.Context ends before cleanups
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// waitFor asks until ok holds; each look is a request of its own.
func (h *house) waitFor(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			h.t.Fatalf("in vain waited for %s", what)
		case <-tick.C:
		}
	}
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(r.body, &m); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return m
}

// do sends one request over TCP; token "unix" goes by the local socket.
func (h *house) do(method, path, token, body string, header ...string) reply {
	h.t.Helper()
	base, client := h.base, http.DefaultClient
	if token == "unix" {
		base, client = "http://parley", &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", h.unix)
			},
			DisableKeepAlives: true,
		}}
	}
	r, err := http.NewRequestWithContext(h.t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" && token != "unix" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, b}
}

func (h *house) token(scope string) string {
	h.t.Helper()
	text, err := NewToken(h.cfg, "test", scope, time.Hour)
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}

// call asks a handler without a network, as from addr.
func call(s *Server, l parley.Listener, addr, method, path, body string, header ...string) reply {
	r := httptest.NewRequest(method, path, bytes.NewReader([]byte(body)))
	r.RemoteAddr = addr
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler(l).ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.Bytes()}
}
