package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// makeCert writes a certificate for 127.0.0.1 and its key.
func makeCert(t *testing.T, dir, name string) (cert, key string, parsed *x509.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if parsed, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return cert, key, parsed
}

// trusting is a client that knows just these certificates.
func trusting(h2 bool, certs ...*x509.Certificate) *http.Client {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: h2, DisableKeepAlives: true}}
}

func get(t *testing.T, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// TestTLS asks a node with a certificate in every way, and changes that while
// it runs.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, first := makeCert(t, dir, "first")
	c := labConfig(t)
	c.API.TLSCert, c.API.TLSKey = cert, key
	h, next := reloader(t, c)
	secure := strings.Replace(h.base, "http", "https", 1)

	for _, h2 := range []bool{false, true} {
		res, body := get(t, trusting(h2, first), secure+"/api/v1/version")
		want := 1
		if h2 {
			want = 2
		}
		if res.StatusCode != 200 || res.ProtoMajor != want || !strings.Contains(body, "parley") {
			t.Errorf("h2 %v: %s %d %s", h2, res.Proto, res.StatusCode, body)
		}
	}
	for path, want := range map[string]int{
		"/health": 200, "/eth/v1/node/identity": 200, "/api/v1/status": 426, "/rpc": 426, "/": 426, "/health/": 426, "/api/v1/ws": 426, "/livez": 426,
	} {
		got := h.do("GET", path, "", "")
		if got.status != want {
			t.Errorf("plain GET %s: %d, want %d", path, got.status, want)
		}
		if want == 426 && (got.header.Get("Upgrade") != "TLS/1.2, HTTP/1.1" || !bytes.Contains(got.body, []byte("PLY-009"))) {
			t.Errorf("plain GET %s: %v %s", path, got.header, got.body)
		}
	}
	if got := h.do("POST", "/health", "", "{}"); got.status != 426 {
		t.Errorf("plain POST: %d", got.status)
	}
	if got := h.do("GET", "/%68ealth", "", ""); got.status != 426 {
		t.Errorf("a path that only looks like it: %d", got.status)
	}
	if got := h.do("GET", "/api/v1/status", "unix", ""); got.status != 200 {
		t.Errorf("the local socket needs no TLS: %d", got.status)
	}
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "wss", 1)+"/rpc", &websocket.DialOptions{HTTPClient: trusting(false, first)})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseNow()

	// A guest joins over the port that speaks TLS: p2p is there too.
	g := labConfig(t)
	g.Node.Name, g.P2P.StaticPeers = "guest", []string{strings.TrimPrefix(h.base, "http://")}
	guest, _ := reloader(t, g)
	guest.waitFor("the node behind TLS", func() bool { return guest.node.PeerCount().Connected == 1 })

	// A new certificate under the old names: the next but one that connects sees it.
	_, _, second := makeCert(t, dir, "second")
	seen := func(want *x509.Certificate) func() bool {
		return func() bool {
			raw, err := tls.Dial("tcp", strings.TrimPrefix(h.base, "http://"), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			return raw.ConnectionState().PeerCertificates[0].Equal(want)
		}
	}
	h.waitFor("the second certificate", seen(second))
	// One that is broken leaves the last.
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.cert.mu.Lock()
	h.cert.looked = time.Time{}
	h.cert.mu.Unlock()
	if !seen(second)() {
		t.Error("a broken key took the certificate away")
	}
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 422 || !bytes.Contains(got.body, []byte("tls_pair")) {
		t.Errorf("reload: %d %s", got.status, got.body)
	}
	// New names by a reload.
	other := t.TempDir()
	c.API.TLSCert, c.API.TLSKey, _ = makeCert(t, other, "third")
	third := mustParse(t, c.API.TLSCert)
	next.Store(&config.Loaded{Config: c})
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 || !bytes.Contains(got.body, []byte(`"changed":["api.tls_cert","api.tls_key"]`)) {
		t.Errorf("reload: %d %s", got.status, got.body)
	}
	h.waitFor("the third certificate", seen(third))
	// To end TLS takes a restart.
	c.API.TLSCert, c.API.TLSKey = "", ""
	next.Store(&config.Loaded{Config: c})
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 || !bytes.Contains(got.body, []byte(`"needs_restart":["api.tls_cert","api.tls_key"]`)) {
		t.Errorf("reload: %d %s", got.status, got.body)
	}
	if !seen(third)() {
		t.Error("TLS ended without a restart")
	}
	// Who says nothing, or half a handshake, is in nobody's way when it stops.
	for _, text := range []string{"", "\x16\x03\x01"} {
		silent, err := net.Dial("tcp", strings.TrimPrefix(h.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		if _, err := silent.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	guest.stop()
	h.stop()
	if took := time.Since(began); took > drainTimeout {
		t.Errorf("took %s to stop", took)
	}
}

func mustParse(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A certificate that does not fit its key stops the start, and says so.
func TestTLSFault(t *testing.T) {
	c := labConfig(t)
	c.API.TLSCert, _, _ = makeCert(t, t.TempDir(), "one")
	_, c.API.TLSKey, _ = makeCert(t, t.TempDir(), "two")
	n, err := parley.New(c, parley.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	_, err = New(n, Options{})
	if err == nil || !strings.Contains(err.Error(), "[PLY-101 tls_pair]") || !strings.Contains(err.Error(), c.API.TLSKey) {
		t.Errorf("%v", err)
	}
}

// TestCORS calls as pages of other hosts.
// exhausted is a listener that is out of files before each connection.
type exhausted struct {
	net.Listener
	failed bool
	conns  chan net.Conn
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failed = !l.failed; l.failed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	conn, open := <-l.conns
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *exhausted) Addr() net.Addr { return &net.TCPAddr{} }

// A node that is out of files for a moment goes on.
func TestTLSOutOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &exhausted{conns: make(chan net.Conn)}
		split := splitTLS(l, slog.New(slog.DiscardHandler))
		ended := make(chan error, 1)
		go func() { ended <- split.run() }()
		ours, theirs := net.Pipe()
		select {
		case l.conns <- theirs:
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		}
		go func() { _, _ = ours.Write([]byte("GET")) }()
		conn, err := side{split, split.plain}.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		close(l.conns)
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the listener was closed: %v", err)
		}
	})
}

func TestCORS(t *testing.T) {
	const page = "https://app.example.org"
	c := labConfig(t)
	h, next := reloader(t, c)
	admin := h.token("admin")
	preflight := func(origin string) reply {
		return h.do("OPTIONS", "/api/v1/records", "", "", "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
	}
	post := func(origin string) int {
		return h.do("POST", "/api/v1/devnet/heal", admin, "", "Origin", origin, "Sec-Fetch-Site", "cross-site").status
	}
	if got := preflight(page); got.status != 405 || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without api.cors: %d %v", got.status, got.header)
	}
	if got := post(page); got != 403 {
		t.Errorf("a page's POST, without api.cors: %d", got)
	}
	if got := h.do("GET", "/api/v1/status", "", "", "Origin", page); got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a page may not read: %d %v", got.status, got.header)
	}
	c.API.CORS = []string{"http://[::1]:5173", page}
	next.Store(&config.Loaded{Config: c})
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); !bytes.Contains(got.body, []byte(`"changed":["api.cors"]`)) {
		t.Fatalf("%d %s", got.status, got.body)
	}
	h.waitFor("the new origins", func() bool { return preflight(page).status == 204 })
	got := preflight(page)
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": page, "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
		"Access-Control-Allow-Headers": allowedHeaders, "Access-Control-Expose-Headers": exposedHeaders, "Vary": "Origin", "Access-Control-Allow-Credentials": "",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
		}
	}
	for _, name := range []string{"authorization", "content-type", "connect-protocol-version", "connect-timeout-ms", "x-grpc-web", "x-user-agent", "grpc-timeout"} {
		if !slices.Contains(strings.Split(strings.ToLower(got.header.Get("Access-Control-Allow-Headers")), ", "), name) {
			t.Errorf("a page may not send %s, as clients of remote calls do", name)
		}
	}
	if got := post(page); got != 204 {
		t.Errorf("an allowed page's POST: %d", got)
	}
	for _, origin := range []string{"https://evil.example", "http://app.example.org", "https://app.example.org.evil.example", "null", "https://app.example.org:8443"} {
		if got := preflight(origin); got.status != 405 || got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d %v", origin, got.status, got.header)
		}
		if got := post(origin); got != 403 {
			t.Errorf("%s: POST %d", origin, got)
		}
	}
	password := "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+admin)) // as a browser adds it by itself
	dial := func(origin, authorization string) int {
		conn, res, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/api/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}, "Authorization": {authorization}}})
		if err == nil {
			_ = conn.CloseNow()
		}
		return res.StatusCode
	}
	for _, origin := range []string{page, "http://[::1]:5173", h.base} {
		for _, authorization := range []string{"", password} {
			if got := dial(origin, authorization); got != 101 {
				t.Errorf("%s %q: WebSocket of an allowed page: %d", origin, authorization, got)
			}
		}
	}
	if got := dial("https://evil.example", ""); got != 403 {
		t.Errorf("a page's WebSocket: %d", got)
	}
	c.API.CORS = []string{"*"}
	next.Store(&config.Loaded{Config: c})
	h.do("POST", "/api/v1/config/reload", "unix", "")
	h.waitFor("every origin", func() bool { return preflight("https://evil.example").status == 204 })
	if got := dial("https://evil.example", ""); got != 101 {
		t.Errorf("every page's WebSocket: %d", got)
	}
	if got := post("https://evil.example"); got != 204 {
		t.Errorf("every page's POST with a token: %d", got)
	}
	if got := dial("https://evil.example", password); got != 403 {
		t.Errorf("every page's WebSocket with the user's password: %d", got)
	}
	forged := h.do("POST", "/api/v1/devnet/heal", "", "", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Authorization", password)
	if forged.status != 403 {
		t.Errorf("every page's POST with the user's password: %d", forged.status)
	}
}

// TestCompat switches other systems' routes off; the identity stays.
func TestCompat(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.Compat = nil })
	foreign := func(path string) bool {
		return strings.HasPrefix(path, "/eth/") || strings.HasPrefix(path, "/prysm/") || strings.HasPrefix(path, "/p2p_api.") || strings.HasPrefix(path, "/api/") && !strings.HasPrefix(path, prefix) ||
			slices.Contains([]string{"/health", "/ws", "/p2p-ws", "/rpc", "/{$}"}, path)
	}
	for _, rt := range s.routes {
		if foreign(rt.pattern) && rt.pattern != "/eth/v1/node/identity" {
			t.Errorf("%s is there", rt.pattern)
		}
	}
	if s.rpc != nil || s.node.IPC() != nil {
		t.Error("JSON-RPC is served")
	}
	paths := map[string]string{"provchain": "/api/peers", "beacon": "/eth/v1/node/peers", "prysm": "/eth/v1alpha1/node/peers", "teranode": "/ws", "jsonrpc": "/rpc"}
	for name := range paths {
		s := idleServer(t, func(c *config.Config) { c.API.Compat = []string{name} })
		for other, path := range paths {
			if got := call(s, parley.Listener{}, stranger, "GET", path, ""); (got.status != 404) != (other == name) {
				t.Errorf("with %s alone, %s: %d", name, path, got.status)
			}
		}
		if s.routes["POST /p2p_api.PeerService/GetPeers"] != nil != (name == "teranode") {
			t.Errorf("with %s alone: Teranode's peer service", name)
		}
	}
}
