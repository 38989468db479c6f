package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	writeTimeout      = 90 * time.Second // over the longest wait of a submitted record
	bodyTimeout       = 30 * time.Second
	drainTimeout      = 10 * time.Second
	maxHeader         = 16 << 10 // bytes
)

// Run serves the node's listeners and the ops listener until ctx ends, and
// then lets requests finish for 10 s. WebSockets are closed with 1001. The
// node MUST go on until Run has returned: requests read its store.
func (s *Server) Run(ctx context.Context) error {
	listeners := s.node.Listeners()
	ops, err := s.listenOps(ctx)
	if err != nil {
		return err
	}
	var servers []*http.Server
	g, gctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, name string, h http.Handler) {
		server := s.newServer(h)
		servers = append(servers, server)
		g.Go(func() error {
			if err := server.Serve(s.conns.wrap(l)); !errors.Is(err, http.ErrServerClosed) && gctx.Err() == nil {
				return fmt.Errorf("serve %s: %w", name, err)
			}
			return nil
		})
		s.log.Info("listening", "addr", l.Addr(), "name", name)
	}
	for _, l := range listeners {
		serve(l.Listener, l.Name, s.Handler(l))
	}
	if ops != nil {
		serve(ops, "ops", s.opsHandler(isLoopback(ops.Addr())))
	}
	g.Go(func() error { return s.hub.run(gctx) })
	<-gctx.Done()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	s.shutdown(drain, servers)
	return g.Wait()
}

// newServer bounds what a connection may take.
func (s *Server) newServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: &protocols, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// shutdown ends the streams first: they would outlast any drain.
func (s *Server) shutdown(ctx context.Context, servers []*http.Server) {
	s.hub.stop()
	var wg sync.WaitGroup
	for _, server := range servers {
		wg.Go(func() {
			if err := server.Shutdown(ctx); err != nil {
				s.log.Warn("requests cut off", "err", err)
				_ = server.Close()
			}
		})
	}
	wg.Wait()
	s.hub.wait()
}

// listenOps opens the ops listener; nil = none. On a devnet a taken port is no
// fault, since several nodes share the machine.
func (s *Server) listenOps(ctx context.Context) (net.Listener, error) {
	addr := s.cfg.Ops.Listen
	if addr == "" {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case !errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("ops.listen %s: %w", addr, err)
	case s.cfg.Profile == config.ProfileDevnet:
		s.log.Info("ops listener skipped", "addr", addr, "err", err)
		return nil, nil
	}
	return nil, parley.NewPortError("ops.listen", addr, err)
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

const (
	maxConns      = 4096
	maxConnsPerIP = 256
)

// connCount bounds the open connections over all listeners.
type connCount struct {
	metrics *metrics

	mu    sync.Mutex // guards below
	total int
	byIP  map[string]int
}

func newConnCount(m *metrics) *connCount { return &connCount{metrics: m, byIP: map[string]int{}} }

// wrap closes what comes over the bounds. Loopback and unix sockets have none
// per address.
func (c *connCount) wrap(l net.Listener) net.Listener { return &countedListener{l, c} }

type countedListener struct {
	net.Listener
	count *connCount
}

func (l *countedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key := ""
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			key = group(a.AddrPort().Addr().Unmap()).String()
		}
		if l.count.add(key) {
			return &countedConn{Conn: conn, done: sync.OnceFunc(func() { l.count.remove(key) })}, nil
		}
		l.count.metrics.refused.WithLabelValues("connections").Inc()
		_ = conn.Close()
	}
}

func (c *connCount) add(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= maxConns || key != "" && c.byIP[key] >= maxConnsPerIP {
		return false
	}
	c.total++
	if key != "" {
		c.byIP[key]++
	}
	return true
}

func (c *connCount) remove(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if key == "" {
		return
	}
	if c.byIP[key]--; c.byIP[key] == 0 {
		delete(c.byIP, key)
	}
}

type countedConn struct {
	net.Conn
	done func()
}

func (c *countedConn) Close() error {
	c.done()
	return c.Conn.Close()
}
