package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

func TestConnCount(t *testing.T) {
	c := newConnCount(maxConns, testMetrics(t))
	add := func(key string) *countedConn {
		here, there := net.Pipe()
		t.Cleanup(func() { _, _ = here.Close(), there.Close() })
		return c.add(here, key)
	}
	var conns []*countedConn
	for range maxConnsPerIP {
		conns = append(conns, add("192.0.2.1"))
	}
	if slices.Contains(conns, nil) || add("192.0.2.1") != nil {
		t.Error("one address has another bound")
	}
	_ = conns[0].Close()
	_ = conns[0].Close() // counts once
	if conns[0] = add("192.0.2.1"); conns[0] == nil || add("192.0.2.1") != nil {
		t.Error("a closed connection is not counted once")
	}
	for range maxConns - maxConnsPerIP {
		if add("") == nil {
			t.Fatal("refused below the bound")
		}
	}
	if add("") != nil {
		t.Error("over the bound of all")
	}
	noteState(conns[1], http.StateIdle)
	noteState(conns[2], http.StateIdle)
	noteState(conns[3], http.StateIdle)
	noteState(conns[1], http.StateActive) // at work again
	for _, longest := range conns[2:4] {
		if add("") == nil || !longest.left {
			t.Error("the connection that is idle longest keeps its place")
		}
		noteState(longest, http.StateIdle) // late news
	}
	if add("") != nil || conns[1].left {
		t.Error("a connection at work lost its place")
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	if len(c.byIP) != 0 || c.idle.Len() != 0 || c.total != maxConns-maxConnsPerIP+2 {
		t.Errorf("%d addresses, %d idle, %d connections are kept", len(c.byIP), c.idle.Len(), c.total)
	}
}

// TestIdleClients fills the API with clients that stay and ask nothing more.
func TestIdleClients(t *testing.T) {
	s := idleServer(t, nil)
	const most = 4
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := s.newServer(s.Handler(parley.Listener{}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(newConnCount(most, s.metrics).wrap(l)) }()
	for i := range 5 * most {
		if err := ask(t, "tcp", l.Addr().String()); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	_ = server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// ask sends one request on a connection that stays open.
func ask(t *testing.T, network, addr string) error {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), network, addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "HTTP/1.1 ") {
		err = fmt.Errorf("answered %q", line)
	}
	return err
}

// TestOperatorsDoors are open while the API takes no more connections.
func TestOperatorsDoors(t *testing.T) {
	h := start(t, func(c *config.Config) { c.Ops.Listen = "127.0.0.1:0" })
	addr := strings.TrimPrefix(h.base, "http://")
	const most = 8
	h.conns.mu.Lock()
	h.conns.most = most
	h.conns.mu.Unlock()
	for range most { // none is idle: none has asked yet
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	h.waitFor("the connections", func() bool {
		h.conns.mu.Lock()
		defer h.conns.mu.Unlock()
		return h.conns.total == most
	})
	if err := ask(t, "tcp", addr); err == nil {
		t.Error("the API is not full: the test proves nothing")
	}
	if err := ask(t, "unix", h.unix); err != nil {
		t.Errorf("local socket: %v", err)
	}
	if err := ask(t, "tcp", h.ops.Addr().String()); err != nil {
		t.Errorf("ops: %v", err)
	}
}

func TestOpsPortTaken(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for profile, fails := range map[string]bool{config.ProfileDefault: true, config.ProfileDevnet: false} {
		c := labConfig(t)
		c.Ops.Listen, c.Profile = taken.Addr().String(), profile
		s, err := newOn(t, c)
		if port := (*parley.PortError)(nil); errors.As(err, &port) != fails || (s == nil) != fails {
			t.Errorf("profile %s: %v", profile, err)
		}
		if s != nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestClose ends servers that were not run, and one that could not be made.
func TestClose(t *testing.T) {
	c := labConfig(t)
	c.Ops.Listen = "127.0.0.1:0"
	s, err := newOn(t, c)
	if err != nil {
		t.Fatal(err)
	}
	addr := s.ops.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	c = labConfig(t)
	c.Ops.Listen = addr
	if s, err = newOn(t, c); err != nil {
		t.Fatalf("the ops port of a closed server: %v", err)
	}
	if err := errors.Join(s.Run(ctx), s.Close()); err != nil {
		t.Errorf("run and closed: %v", err)
	}
	c = labConfig(t)
	c.Ops.Listen = addr
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, c.API.JWTSecretFile), []byte(strings.Repeat("s", 40)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newOn(t, c); err == nil {
		t.Fatal("a secret that others may read was taken")
	}
	if err := ask(t, "tcp", addr); err == nil {
		t.Error("the ops listener is open after a start that failed")
	}
}

// newOn makes a server on a node that does not run.
func newOn(t *testing.T, c config.Config) (*Server, error) {
	t.Helper()
	n, err := parley.New(c, parley.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return New(n, Options{})
}
