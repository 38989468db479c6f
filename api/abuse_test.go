package api

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley"
)

// pipes is a listener whose connections are made in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

// TestSlowClients: each way to hold a connection has an end.
func TestSlowClients(t *testing.T) {
	s := idleServer(t, nil)
	const get = "GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n"
	const post = "POST /api/v1/devnet/partition HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
	for _, c := range []struct {
		name  string
		says  string
		drips bool // goes on with a byte each second
		reads bool // takes the answer
		ends  time.Duration
	}{
		{"says nothing", "", false, true, readHeaderTimeout},
		{"half a header", get, false, true, readHeaderTimeout},
		{"a header byte by byte", get + "X-Long: ", true, true, readHeaderTimeout},
		{"asks once and stays", get + "\r\n", false, true, idleTimeout},
		{"half a body", post + "\r\n{", false, true, bodyTimeout},
		{"a body byte by byte", post + "\r\n{", true, true, bodyTimeout},
		{"does not read", get + "\r\n", false, false, writeTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newPipes()
				server := s.newServer(s.Handler(parley.Listener{Admin: true}))
				served := make(chan error, 1)
				go func() { served <- server.Serve(l) }()
				began := time.Now()
				conn := l.dial()
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					_, _ = io.WriteString(conn, c.says)
					for c.drips {
						time.Sleep(time.Second)
						if _, err := conn.Write([]byte("x")); err != nil {
							return
						}
					}
				}()
				if c.reads {
					_, _ = io.Copy(io.Discard, conn)
				} else {
					time.Sleep(c.ends + time.Second)
					if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
						t.Errorf("it still gets %q, %v", b, err)
					}
				}
				if took := time.Since(began); took < c.ends || took > c.ends+2*time.Second {
					t.Errorf("its connection ended after %s, want %s", took, c.ends)
				}
				_ = conn.Close()
				<-gone
				_ = server.Close()
				<-served
			})
		})
	}
}

// TestBadHTTP: what is no request gets a short answer and no connection.
func TestBadHTTP(t *testing.T) {
	h := start(t, nil)
	addr := strings.TrimPrefix(h.base, "http://")
	const head = "GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n"
	for _, c := range []struct {
		name, says string
		want       int // status; 0 = closed without one
	}{
		{"good", head + "\r\n", 200},
		{"a header of 16 KiB", head + "X-Long: " + strings.Repeat("x", 24<<10) + "\r\n\r\n", 431},
		{"many headers", head + strings.Repeat("X-Many: yes\r\n", 4<<10) + "\r\n", 431},
		{"a path of 64 KiB", "GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431},
		{"no host", "GET /api/v1/version HTTP/1.1\r\n\r\n", 400},
		{"two hosts", head + "Host: evil.example\r\n\r\n", 400},
		{"NUL in the path", "GET /api/v1/version\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
		{"NUL in a header", head + "X: a\x00b\r\n\r\n", 400},
		{"no such version", "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 505},
		{"two lengths", "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}", 400},
		{"a length below zero", "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400},
		{"a length and chunks", "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
		{"an unknown encoding", "POST /rpc HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		{"a chunk that lies", "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n", 400},
		{"no path", "GET version HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
		{"a proxy's request", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 403},
		{"another host's path", "GET http://evil.example/api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n", 403},
		{"bad percents", "GET /api/v1/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
		{"TLS", "\x16\x03\x01\x00\x05\r\n\r\n", 400},
		{"a preface of HTTP/2 and nothing of it", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100), 0},
		{"a frame of HTTP/2 over its size", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\x00\x00\x00\x00\x00\x01", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			go func() { _, _ = io.WriteString(conn, c.says) }()
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			if c.want == 0 {
				if err == nil {
					t.Fatalf("answered by %s", res.Status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != c.want || len(b) > 1000 {
				t.Errorf("%s with %d bytes, want %d", res.Status, len(b), c.want)
			}
			if c.want >= 400 && c.want != 403 && c.want != 404 {
				if _, err := in.ReadByte(); err == nil {
					t.Error("the connection goes on")
				}
			}
		})
	}
	if got := h.do("GET", "/api/v1/version", "", ""); got.status != 200 {
		t.Errorf("afterwards: %d", got.status)
	}
}
