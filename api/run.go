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
	var servers []*http.Server
	g, gctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, name string, h http.Handler) {
		server := s.newServer(h)
		begin := server.Serve
		if part, ok := l.(side); ok && part.from == part.secure {
			server.TLSConfig = s.cert.config()
			server.Protocols.SetHTTP2(true)
			begin = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
		}
		servers = append(servers, server)
		g.Go(func() error {
			if err := begin(l); !errors.Is(err, http.ErrServerClosed) && gctx.Err() == nil {
				return fmt.Errorf("serve %s: %w", name, err)
			}
			return nil
		})
		s.log.Info("listening", "addr", l.Addr(), "name", name)
	}
	for _, l := range s.node.Listeners() {
		h := s.Handler(l)
		if l.Admin { // who may use the socket could stop the node anyway
			serve(l.Listener, l.Name, h)
			continue
		}
		l.Listener = s.conns.wrap(l.Listener)
		if s.cert == nil {
			serve(l.Listener, l.Name, h)
			continue
		}
		split := splitTLS(l.Listener, s.log)
		g.Go(func() error {
			if err := split.run(); gctx.Err() == nil {
				return fmt.Errorf("serve %s: %w", l.Name, err)
			}
			return nil
		})
		serve(side{split, split.plain}, l.Name, s.clearHandler(h))
		serve(side{split, split.secure}, l.Name+" (TLS)", h)
	}
	if s.ops != nil { // counted apart: probes are answered however many clients there are
		serve(newConnCount(maxOpsConns, s.metrics).wrap(s.ops), "ops", s.opsHandler(isLoopback(s.ops.Addr())))
	}
	if l := s.node.IPC(); l != nil && s.rpc != nil {
		g.Go(func() error { return s.serveIPC(gctx, l) })
		s.log.Info("listening", "addr", l.Addr(), "name", "JSON-RPC")
	}
	g.Go(func() error { return s.hub.run(gctx) })
	g.Go(func() error { return s.follow(gctx) })
	g.Go(func() error { return s.tellLog(gctx) })
	g.Go(func() error { return s.tellStatuses(gctx) })
	<-gctx.Done()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	s.shutdown(drain, servers)
	return g.Wait()
}

// Close closes the ops listener of a server that was not run. After Run there
// is nothing to close.
func (s *Server) Close() error {
	if s.ops == nil {
		return nil
	}
	if err := s.ops.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// newServer bounds what a connection may take.
func (s *Server) newServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: &protocols, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnState: noteState,
		HTTP2:     &http.HTTP2Config{SendPingTimeout: pingEvery, PingTimeout: pongWithin}, // a stream that is quiet has a client
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
	stop := context.AfterFunc(ctx, s.stays.cut) // a client that reads slowly holds up nobody
	defer stop()
	s.hub.wait()
}

// listenOps opens the ops listener; nil = none. On a devnet a taken port is no
// fault, since several nodes share the machine.
func (s *Server) listenOps() (net.Listener, error) {
	addr := s.cfg.Ops.Listen
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr) //nolint:noctx // it waits for nobody
	switch {
	case err == nil:
		return l, nil
	case !errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("ops.listen %s: %w", addr, parley.ForeignAddr(err))
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
