package host

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// gater counts what it is asked for.
type gater struct{ accepted, secured, refuse atomic.Int32 }

func (g *gater) InterceptPeerDial(peer.ID) bool               { return true }
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool {
	g.accepted.Add(1)
	return true
}
func (g *gater) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	g.secured.Add(1)
	return g.refuse.Load() == 0
}
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func serveAPI(t *testing.T, h *Host, useTLS bool) {
	t.Helper()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s", r.Proto, r.Method, body)
		}),
		Protocols: new(http.Protocols),
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	if useTLS {
		stub := httptest.NewUnstartedServer(nil)
		stub.StartTLS() // for its certificate
		stub.Close()
		srv.TLSConfig = &tls.Config{Certificates: stub.TLS.Certificates}
		srv.Protocols = nil
	}
	done := make(chan error, 1)
	go func() {
		if useTLS {
			done <- srv.ServeTLS(h.HTTP(), "", "")
		} else {
			done <- srv.Serve(h.HTTP())
		}
	}()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// request makes one request on a connection of its own.
func request(url, protocol string) (string, error) {
	tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	switch protocol {
	case "h2c":
		tr.Protocols.SetUnencryptedHTTP2(true)
	case "tls":
		tr.Protocols.SetHTTP2(true)
	default:
		tr.Protocols.SetHTTP1(true)
	}
	res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Post(url, "text/plain", strings.NewReader("body"))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// One port serves HTTP, h2c and libp2p at once, and only libp2p meets the
// gater and becomes a peer.
func TestSharedPort(t *testing.T) {
	g := &gater{}
	reg := prometheus.NewPedanticRegistry()
	api := listenTCP(t)
	h := newHost(t, Options{APIListener: api, Gater: g, Registerer: onlyOurs{reg}})
	serveAPI(t, h, false)
	url := "http://" + api.Addr().String()

	const n = 10
	answers := make(chan error, 2*n)
	for i := range 2 * n {
		go func() {
			protocol, want := "http", "HTTP/1.1 POST body"
			if i%2 == 0 {
				protocol, want = "h2c", "HTTP/2.0 POST body"
			}
			got, err := request(url, protocol)
			if err == nil && got != want {
				err = fmt.Errorf("%s: answer %q, want %q", protocol, got, want)
			}
			answers <- err
		}()
	}
	a := newHost(t, Options{}, "/ip4/127.0.0.1/tcp/0")
	c := echo(t, a, h, h.Network().ListenAddresses()[0])
	for range 2 * n {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if port := fmt.Sprint(api.Addr().(*net.TCPAddr).Port); !strings.HasSuffix(c.RemoteMultiaddr().String(), "/tcp/"+port) {
		t.Errorf("the peer is at %s, want port %s", c.RemoteMultiaddr(), port)
	}
	if in, out := h.PeerCount(); in != 1 || out != 0 || g.accepted.Load() != 1 || g.secured.Load() != 1 {
		t.Errorf("%d inbound and %d outbound peers, gater asked %d and %d times; want 1 0 1 1", in, out, g.accepted.Load(), g.secured.Load())
	}
	a.Network().ClosePeer(h.ID())
	g.refuse.Store(1)
	b := newHost(t, Options{})
	b.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Network().ListenAddresses()})
	if got := gather(t, reg)["parley_host_connections_total inbound refused tcp"]; got != 1 {
		t.Errorf("%v refused connections are counted, want 1", got)
	}
}

func TestSharedPortTLS(t *testing.T) {
	api := listenTCP(t)
	h := newHost(t, Options{APIListener: api})
	serveAPI(t, h, true)
	if got, err := request("https://"+api.Addr().String(), "tls"); err != nil || got != "HTTP/2.0 POST body" {
		t.Errorf("answer %q, %v", got, err)
	}
	echo(t, newHost(t, Options{}), h, h.Network().ListenAddresses()[0])
}

// A listen address that the API's listener covers is one shared listener.
func TestSharedPortIsListenedOnce(t *testing.T) {
	api, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(api.Addr().(*net.TCPAddr).Port)
	h := newHost(t, Options{APIListener: api}, "/ip4/0.0.0.0/tcp/"+port, "/ip4/127.0.0.1/tcp/"+port)
	var got []string
	for _, a := range h.Network().ListenAddresses() {
		got = append(got, a.String())
	}
	slices.Sort(got)
	want := []string{"/ip4/0.0.0.0/tcp/" + port}
	if api.Addr().(*net.TCPAddr).IP.To4() == nil {
		want = append(want, "/ip6/::/tcp/"+port)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listens on %s, want %s", got, want)
	}
	a := newHost(t, Options{})
	echo(t, a, h, ma.StringCast("/ip4/127.0.0.1/tcp/"+port))
	if len(want) == 2 {
		if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
			t.Logf("no IPv6 on this machine: %v", err)
		} else {
			l.Close()
			echo(t, newHost(t, Options{}), h, ma.StringCast("/ip6/::1/tcp/"+port))
		}
	}
}

func TestSharedPortAfterHTTPEnds(t *testing.T) {
	api := listenTCP(t)
	h := newHost(t, Options{APIListener: api})
	h.HTTP().Close()
	if _, err := h.HTTP().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if _, err := request("http://"+api.Addr().String(), "http"); err == nil {
		t.Error("an answer from nobody")
	}
	echo(t, newHost(t, Options{}), h, h.Network().ListenAddresses()[0])
}

// pipes is a listener in a bubble.
type pipes struct {
	ch   chan net.Conn
	errs chan error
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case err := <-p.errs:
		return nil, err
	case c, ok := <-p.ch:
		if !ok {
			return nil, net.ErrClosed
		}
		return c, nil
	}
}
func (p *pipes) Close() error   { close(p.ch); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }
func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.ch <- b
	return a
}

func bubbleSorter(t *testing.T) (*sorter, *pipes, *atomic.Int32) {
	p := &pipes{ch: make(chan net.Conn), errs: make(chan error)}
	dropped := &atomic.Int32{}
	s, err := newSorter(p, func() { dropped.Add(1) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.ended.Go(s.run)
	return s, p, dropped
}

func TestSorting(t *testing.T) {
	for begin, http := range map[string]bool{
		"GET / HTTP/1.1\r\n": true, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": true, "POST /rpc HTTP/1.0\r\n": true,
		"OPTIONS * HTTP/1.1\r\n": true, "\x16\x03\x01\x02\x00\x01": true,
		"\x13/multistream/1.0.0\n": false, "\x00\x00\x00\x00": false, "get / HTTP": false, "\xffnonce of a private network": false,
	} {
		t.Run(begin, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p, dropped := bubbleSorter(t)
				c := p.dial()
				go func() {
					for i := range len(begin) { // one byte a write, 1.5 s apart until sorted
						if _, err := c.Write([]byte{begin[i]}); err != nil {
							t.Error(err)
						}
						if i < 2 {
							time.Sleep(1500 * time.Millisecond)
						}
					}
					c.Close()
				}()
				l := net.Listener(s.p2p[0].queue)
				if http {
					l = s.http
				}
				got, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) // no deadline is left over
				b, err := io.ReadAll(got)
				if err != nil || string(b) != begin {
					t.Errorf("%q, %v; want %q", b, err, begin)
				}
				s.close()
				if dropped.Load() != 0 {
					t.Errorf("%d dropped", dropped.Load())
				}
			})
		})
	}
}

// Silent connections hold no place against one that speaks, and go after 5 s.
func TestSorterDropsTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, dropped := bubbleSorter(t)
		defer s.close()
		var slow []net.Conn
		for range maxSorting + 44 {
			slow = append(slow, p.dial())
		}
		synctest.Wait()
		if n := dropped.Load(); n != 44 {
			t.Errorf("%d of the oldest were dropped, want 44", n)
		}
		if _, err := slow[0].Write([]byte("G")); err == nil {
			t.Error("the oldest is still there")
		}
		quick := p.dial()
		go quick.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		got, err := s.http.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if line, _ := bufio.NewReader(got).ReadString('\n'); line != "GET / HTTP/1.1\r\n" {
			t.Errorf("read %q", line)
		}
		last := slow[len(slow)-1]
		go last.Write([]byte("GE")) // and no more
		time.Sleep(sortTime + time.Millisecond)
		synctest.Wait()
		if n := dropped.Load(); n != maxSorting+44 {
			t.Errorf("%d dropped after 5 s, want all %d", n, maxSorting+44)
		}
		if s.sorting.list.Len() != 0 {
			t.Errorf("%d places are taken", s.sorting.list.Len())
		}
		quick.Close()
		got.Close()
	})
}

// Nobody accepts: what comes above the bound is closed and nothing waits.
func TestSorterBoundsTheUnaccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, dropped := bubbleSorter(t)
		for range maxSorted + 7 {
			c := p.dial()
			if _, err := c.Write([]byte("GET")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := dropped.Load(); n != 7 {
			t.Errorf("%d dropped, want 7", n)
		}
		s.close()
		s.close()
	})
}

func TestSorterOutlivesAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := bubbleSorter(t)
		for range 20 {
			p.errs <- errors.New("too many open files")
		}
		c := p.dial()
		go c.Write([]byte("GET"))
		if _, err := s.http.Accept(); err != nil {
			t.Error(err)
		}
		p.errs <- errors.New("too many open files")
		s.close() // in the middle of a pause
	})
}

func TestSorterClosesTheSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := bubbleSorter(t)
		c := p.dial()
		synctest.Wait()
		began := time.Now()
		s.close()
		if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(began) != 0 {
			t.Errorf("closing took %s; the silent one reads %v", time.Since(began), err)
		}
	})
}

// A server that hijacks the connection can write raw, as the event stream does.
func TestSortedConnection(t *testing.T) {
	api := listenTCP(t)
	h := newHost(t, Options{APIListener: api})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := (&net.Dialer{}).DialContext(ctx, "tcp", api.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("GET /")); err != nil {
		t.Fatal(err)
	}
	c, err := h.HTTP().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if raw, err := c.(*sortedConn).SyscallConn(); err != nil || raw == nil {
		t.Errorf("raw connection: %v", err)
	}
	if _, err := io.Copy(c, strings.NewReader("hello")); err != nil {
		t.Error(err)
	}
	if err := c.(*sortedConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(client); err != nil || string(b) != "hello" {
		t.Errorf("client read %q, %v", b, err)
	}
}
