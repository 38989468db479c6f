package api

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/parley-p2p/parley/config"
)

const (
	certLook  = time.Second // between two looks at the files
	tlsRecord = 0x16        // first byte of a TLS handshake; no method of HTTP begins with it
)

// certificate is what the API shows of itself by TLS. Its files are looked at
// when somebody connects, so that a new certificate is used without a restart.
type certificate struct {
	log *slog.Logger

	mu     sync.Mutex // guards below; held while the files are read, which are local
	cert   string
	key    string
	pair   *tls.Certificate
	seen   [2]fileState // of the files as they were read, or were in vain
	looked time.Time
}

type fileState struct {
	size int64
	at   time.Time
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}
	}
	return fileState{info.Size(), info.ModTime()}
}

// openCertificate reads the files of cfg; nil where it names none.
func openCertificate(cfg config.Config, log *slog.Logger) (*certificate, error) {
	if cfg.API.TLSCert == "" {
		return nil, nil //nolint:nilnil // the API then speaks plain HTTP
	}
	c := &certificate{log: log}
	return c, c.use(cfg)
}

// use takes the files of cfg, if they fit together.
func (c *certificate) use(cfg config.Config) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(cfg.Path(cfg.API.TLSCert), cfg.Path(cfg.API.TLSKey))
}

func (c *certificate) load(cert, key string) error { // mu held
	seen := [2]fileState{stateOf(cert), stateOf(key)}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("api.tls_cert %s and api.tls_key %s: %w [PLY-101 %s]", cert, key, err, config.RuleTLSPair)
	}
	c.cert, c.key, c.pair, c.seen = cert, key, &pair, seen
	return nil
}

// get is the GetCertificate of TLS. When the files have changed and do not fit
// together, the last good pair stays.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= certLook {
		c.looked = now
		c.look()
	}
	return c.pair, nil
}

func (c *certificate) look() { // mu held
	now := [2]fileState{stateOf(c.cert), stateOf(c.key)}
	if now == c.seen {
		return
	}
	if err := c.load(c.cert, c.key); err != nil {
		c.seen = now // said once
		c.log.Warn("certificate not read again: the last one stays", "err", err)
		return
	}
	c.log.Info("certificate read again", "file", c.cert, "until", c.pair.Leaf.NotAfter)
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}
}

// clearRoutes are the routes that are served without TLS too: what a load
// balancer asks, and what a node asks that wants to join.
var clearRoutes = map[string]bool{"/health": true, "/eth/v1/node/identity": true}

// clearHandler answers plain HTTP on a listener that wants TLS.
func (s *Server) clearHandler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && clearRoutes[r.URL.EscapedPath()] {
			h.ServeHTTP(w, r)
			return
		}
		p := methodOrType.problem("this node speaks HTTPS alone: write https:// for http://")
		p.Status = http.StatusUpgradeRequired
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("Upgrade", "TLS/1.2, HTTP/1.1")
		w.Header().Set("Connection", "Upgrade")
		s.refuse(w, r, p)
	})
}

// tlsSplit sorts the connections of a listener by their first byte.
type tlsSplit struct {
	net.Listener
	log           *slog.Logger
	secure, plain chan net.Conn
	done          chan struct{}
	once          sync.Once
}

// splitTLS MUST be closed by one of its two listeners.
func splitTLS(l net.Listener, log *slog.Logger) *tlsSplit {
	return &tlsSplit{Listener: l, log: log, secure: make(chan net.Conn), plain: make(chan net.Conn), done: make(chan struct{})}
}

// run accepts until the listener is closed.
func (t *tlsSplit) run() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer t.once.Do(func() { close(t.done) })
	for {
		conn, err := t.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // out of files, or a client that is gone already: as without TLS, that ends nothing
			t.log.Warn("accept", "addr", t.Addr(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-t.done:
				return net.ErrClosed
			}
			continue
		}
		wg.Go(func() { t.sort(conn) })
	}
}

func (t *tlsSplit) sort(conn net.Conn) {
	first := make([]byte, 1)
	_ = conn.SetReadDeadline(time.Now().Add(readHeaderTimeout))
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a silent client is in nobody's way when the node stops
		select {
		case <-t.done:
			_ = conn.SetReadDeadline(time.Now())
		case <-stop:
		}
	}()
	if _, err := conn.Read(first); err != nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	to := t.plain
	if first[0] == tlsRecord {
		to = t.secure
	}
	select {
	case to <- &begunConn{Conn: conn, first: first}:
	case <-t.done:
		_ = conn.Close()
	}
}

// side is the listener of one sort of connections.
type side struct {
	*tlsSplit
	from chan net.Conn
}

func (s side) Accept() (net.Conn, error) {
	select {
	case conn := <-s.from:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close closes both sides.
func (s side) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.Listener.Close()
}

// begunConn is a connection of which some bytes were read.
type begunConn struct {
	net.Conn
	first []byte // reader only
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
