package api

import (
	"bufio"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
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

// TestPathTricks: no other spelling of a path lets a stranger do, or read, what
// the plain one refuses; nobody is sent elsewhere; and there is no fault of ours.
func TestPathTricks(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.PublicRead = false })
	s.live.Load().limits = newLimiter(0)
	asked := 0
	for _, pattern := range s.patterns() {
		rt := s.routes[pattern]
		if rt.access == open {
			continue
		}
		plain := strings.NewReplacer("{id}", "x", "{ref}", "1", "{index}", "1", "{peer_id}", "x", "{target}", "192.0.2.1", "{topic}", "block", "{$}", "").Replace(rt.pattern)
		dir, last := plain[:strings.LastIndexByte(plain, '/')], plain[strings.LastIndexByte(plain, '/')+1:]
		encoded := ""
		for i := range len(last) {
			encoded += fmt.Sprintf("%%%02x", last[i])
		}
		for _, path := range []string{
			plain, dir + "/" + encoded, "/" + plain, dir + "//" + last, dir + "/./" + last, "/docs/.." + plain, "/docs/%2e%2e" + plain, "/livez/.." + plain,
			"/health" + plain + "/../../../../../../health", plain + "/", plain + "/.", plain + "%00", plain + "%2f", plain + "%2F..", plain + "%5c", plain + ";.css", plain + "%3Fx", plain + "%23",
			plain + "%20", plain + ".", strings.ToUpper(plain), "/%2e" + plain, dir + "%2f" + last, plain + "?token=x", plain + "?_method=GET",
		} {
			r := httptest.NewRequest(rt.method, "/", strings.NewReader("{}"))
			u, err := url.ParseRequestURI(path)
			if err != nil {
				continue // no request: the server answers 400
			}
			r.URL, r.RemoteAddr = u, stranger
			r.Header.Set("X-HTTP-Method-Override", "GET")
			r.Header.Set("X-Original-URL", "/livez")
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			s.Handler(parley.Listener{}).ServeHTTP(w, r)
			if w.Code < 400 || w.Code == http.StatusInternalServerError {
				t.Errorf("%s %s: %d %.200s", rt.method, path, w.Code, w.Body)
			}
			asked++
		}
	}
	if asked < 1000 {
		t.Errorf("%d paths were asked for", asked)
	}
}

// TestPagesOfOthers: a page of another host changes nothing, by any route, though
// the browser knows a token or is on the machine of the node.
func TestPagesOfOthers(t *testing.T) {
	s := idleServer(t, nil)
	token, err := NewToken(s.cfg, "t", "admin", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	password := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+token))
	for _, pattern := range s.patterns() {
		rt := s.routes[pattern]
		if rt.method == http.MethodGet {
			continue // a page of another host cannot read the answer; a WebSocket is refused by its library: TestBrowser
		}
		path := strings.NewReplacer("{", "", "}", "", "$", "").Replace(rt.pattern)
		for name, header := range map[string][]string{
			"another host":             {"Origin", "https://evil.example"},
			"a page in a frame":        {"Origin", "null"},
			"another port":             {"Origin", "http://127.0.0.1:81"},
			"another host by its mark": {"Sec-Fetch-Site", "cross-site"},
			"another name of the site": {"Sec-Fetch-Site", "same-site"},
		} {
			got := call(s, parley.Listener{Loopback: true}, "127.0.0.1:1", rt.method, path, "{}",
				append([]string{"Host", "127.0.0.1:80", "Authorization", password, "Content-Type", "application/json"}, header...)...)
			status := got.status
			if rt.grpc && status == http.StatusOK {
				t.Errorf("%s from %s: %s", pattern, name, got.body)
			} else if status != http.StatusForbidden {
				t.Errorf("%s from %s: %d %.200s", pattern, name, status, got.body)
			}
		}
	}
}

// TestForgedTokens has tokens that say by themselves how they are to be checked.
func TestForgedTokens(t *testing.T) {
	s := idleServer(t, nil)
	secret := s.live.Load().secrets[0]
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := part(map[string]any{"scope": "admin", "exp": time.Now().Add(time.Hour).Unix()})
	signed := func(key []byte, head any) string {
		text := part(head) + "." + claims
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	mine := []byte("a secret of the forger that is long enough")
	good := signed(secret, map[string]any{"alg": "HS256"})
	for name, c := range map[string]struct {
		token string
		want  int
	}{
		"good":                       {good, 204},
		"NONE":                       {part(map[string]any{"alg": "NONE"}) + "." + claims + ".", 401},
		"nOnE with a signature":      {signed(secret, map[string]any{"alg": "nOnE"}), 401},
		"no alg":                     {signed(secret, map[string]any{"typ": "JWT"}), 401},
		"alg is a list":              {signed(secret, map[string]any{"alg": []string{"HS256"}}), 401},
		"a key of its own":           {signed(mine, map[string]any{"alg": "HS256", "jwk": map[string]string{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString(mine)}}), 401},
		"a key by its address":       {signed(mine, map[string]any{"alg": "HS256", "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/cert"}), 401},
		"a key by a path":            {signed([]byte{}, map[string]any{"alg": "HS256", "kid": "/dev/null"}), 401},
		"signed by another kind":     {sign(t, jwt.SigningMethodEdDSA, private, jwt.MapClaims{"scope": "admin", "exp": time.Now().Add(time.Hour).Unix()}), 401},
		"signed by a public key":     {signed(public, map[string]any{"alg": "HS256"}), 401},
		"signed by the secret's hex": {signed(fmt.Appendf(nil, "%X", secret), map[string]any{"alg": "HS256"}), 401},
		"RS256 by the secret":        {signed(secret, map[string]any{"alg": "RS256"}), 401},
		"two tokens":                 {good + "." + good, 401},
		"a token and a blank":        {good + " x", 401},
		"padding":                    {good + "=", 401},
		"encrypted":                  {"eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..x.x.x", 401},
	} {
		if got := call(s, parley.Listener{}, "127.0.0.1:1", "POST", "/api/v1/devnet/heal", "", "Authorization", "Bearer "+c.token); got.status != c.want {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.body, c.want)
		}
	}
}
