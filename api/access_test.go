package api

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// classes is what each route asks of its caller, by INTERFACES 3. A route that
// is not here is a route that nobody has thought about.
var classes = map[string]access{
	"GET /livez": open, "GET /readyz": open, "GET /health": open,
	"GET /docs": open, "GET /docs/{file}": open, "GET /openapi.json": open, "GET /openapi.yaml": open, "GET /openapi-3.0.json": open,
	"GET /api/v1/version": open, "GET /eth/v1/node/identity": open,

	"GET /api/v1/status": read, "GET /api/v1/node": read, "GET /api/v1/health": read,
	"GET /api/v1/peers": read, "GET /api/v1/peers/count": read, "GET /api/v1/peers/{id}": read, "GET /api/v1/static-peers": read,
	"GET /api/v1/peers/history": read, "GET /api/v1/peers/{id}/history": read,
	"GET /api/v1/chain": read, "GET /api/v1/chain/head": read, "GET /api/v1/chain/heads": read, "GET /api/v1/chain/validators": read,
	"GET /api/v1/chain/blocks": read, "GET /api/v1/chain/blocks/{ref}": read, "GET /api/v1/chain/blocks/{ref}/records": read,
	"GET /api/v1/records": read, "GET /api/v1/records/{id}": read, "GET /api/v1/records/{id}/proof": read, "GET /api/v1/backup": admin, "GET /api/v1/ws": read, "GET /api/v1/events": read,
	"GET /api/peers": read, "GET /api/blockchain/status": read, "GET /api/blockchain/dump": read, "GET /api/blockchain/blocks": read,
	"GET /api/blockchain/blocks/{index}": read, "GET /api/blockchain/validate": read, "GET /api/transactions/recent": read,
	"GET /eth/v1/node/peers": read, "GET /eth/v1/node/peers/{peer_id}": read, "GET /eth/v1/node/peer_count": read,
	"GET /eth/v1/node/version": read, "GET /eth/v1/node/syncing": read, "GET /eth/v1/node/health": read,

	"GET /eth/v2/node/version": read, "GET /eth/v1alpha1/node/peers": read, "GET /eth/v1alpha1/node/peer": read, "GET /eth/v1alpha1/node/p2p": read,
	"GET /eth/v1alpha1/node/version": read, "GET /eth/v1alpha1/node/syncing": read,
	"GET /prysm/v1/node/trusted_peers": read, "POST /prysm/v1/node/trusted_peers": admin, "DELETE /prysm/v1/node/trusted_peers/{peer_id}": admin,
	"POST /rpc": read, "GET /rpc": read, "POST /{$}": read, "GET /{$}": read, // each method says for itself what it asks: TestRPCAccess
	"GET /ws": read, "GET /p2p-ws": read,

	"GET /api/v1/dht": read, "GET /api/v1/dht/table": read, "GET /api/v1/dht/values": read, "PUT /api/v1/dht/values": admin,
	"POST /api/v1/dht/find-node": admin, "POST /api/v1/dht/find-providers": admin, "POST /api/v1/dht/provide": admin, "POST /api/v1/dht/crawl": admin,
	"GET /api/v1/addrbook": admin, "GET /api/v1/addrbook/export": admin, "POST /api/v1/addrbook/import": admin,
	"GET /api/v1/bans": read, "GET /api/v1/bans/check": read, "GET /api/v1/bans/{target}": read, "GET /api/v1/bans/export": read,
	"POST /api/v1/bans": admin, "DELETE /api/v1/bans": admin, "DELETE /api/v1/bans/{target}": admin, "POST /api/v1/bans/import": admin,

	"POST /api/v1/records": anybody, "POST /api/v1/records/batch": anybody,

	"POST /api/v1/peers": admin, "DELETE /api/v1/peers/{id}": admin, "POST /api/v1/peers/{id}/connect": admin, "POST /api/v1/peers/{id}/disconnect": admin,
	"POST /api/v1/peers/{id}/trust": admin, "POST /api/v1/peers/{id}/untrust": admin, "POST /api/v1/peers/{id}/penalize": admin,
	"GET /api/v1/gossip/topics": read, "GET /api/v1/gossip/mesh": read, "GET /api/v1/gossip/traces/{message_id}": read, "GET /api/v1/topology": read,
	"POST /api/v1/chain/validators": admin, "POST /api/v1/devnet/partition": admin, "POST /api/v1/devnet/heal": admin, "POST /api/v1/config/reload": admin,
	"GET /api/v1/config": admin, "PATCH /api/v1/config": admin, "GET /api/v1/debug/bundle": admin, "GET /api/v1/log-levels": admin, "PUT /api/v1/log-levels": admin, "GET /api/v1/logs": admin,
	"GET /api/v1/shared-keys": admin,
}

func TestEveryRouteIsClassified(t *testing.T) {
	s := idleServer(t, nil)
	for _, p := range s.patterns() {
		want, ok := classes[p]
		if !ok {
			t.Errorf("route %s is not classified: say in this test who may use it", p)
		} else if got := s.routes[p].access; got != want {
			t.Errorf("route %s asks for access %d, want %d", p, got, want)
		}
	}
	for p := range maps.Keys(classes) {
		if s.routes[p] == nil {
			t.Errorf("route %s is gone", p)
		}
	}
}

const stranger = "192.0.2.1:5000"

// TestAccess asks every route as everybody and looks who is let in.
func TestAccess(t *testing.T) {
	shut := idleServer(t, func(c *config.Config) { c.API.PublicRead = false })
	public := idleServer(t, nil)
	type who struct {
		name string
		s    *Server
		l    parley.Listener
		auth []string
		in   []access
	}
	token := func(s *Server, scope string) []string {
		text, err := NewToken(s.cfg, "t", scope, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"Authorization", "Bearer " + text}
	}
	for _, w := range []who{
		{"nobody, public", public, parley.Listener{}, nil, []access{open, read}},
		{"nobody, shut", shut, parley.Listener{}, nil, []access{open}},
		{"read", shut, parley.Listener{}, token(shut, "read"), []access{open, read, anybody}},
		{"admin", shut, parley.Listener{}, token(shut, "admin"), []access{open, read, anybody, admin}},
		{"socket", shut, parley.Listener{Admin: true}, nil, []access{open, read, anybody, admin}},
		{"foreign token", public, parley.Listener{}, token(shut, "admin"), []access{open}},
	} {
		t.Run(w.name, func(t *testing.T) {
			w.s.live.Load().limits = newLimiter(0)
			for _, pattern := range w.s.patterns() {
				rt := w.s.routes[pattern]
				if rt.stream {
					continue // never ends; TestStreamAccess asks them
				}
				path := strings.NewReplacer("{id}", "x", "{ref}", "x", "{index}", "x", "{peer_id}", "x", "{$}", "").Replace(rt.pattern)
				got := call(w.s, w.l, stranger, rt.method, path, "", w.auth...).status
				refused := got == http.StatusUnauthorized || got == http.StatusForbidden
				if want := !slices.Contains(w.in, rt.access); refused != want {
					t.Errorf("%s: status %d, want refused = %v", pattern, got, want)
				}
			}
		})
	}
}

// TestStreamAccess asks for streams in a way that ends: with a query that is
// wrong, which is looked at after the token.
func TestStreamAccess(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.PublicRead = false })
	token, err := NewToken(s.cfg, "t", "read", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/api/v1/events": 401, "/api/v1/ws": 401, "/api/v1/events?token=x": 401,
		"/api/v1/events?types=[&token=" + token: 400, "/api/v1/ws?token=" + token: 426,
		"/api/v1/status?token=" + token: 401,
	} {
		if got := call(s, parley.Listener{}, stranger, "GET", path, ""); got.status != want {
			t.Errorf("%.40s: %d, want %d", path, got.status, want)
		}
	}
}

func sign(t *testing.T, method jwt.SigningMethod, key any, c jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokens(t *testing.T) {
	s := idleServer(t, nil)
	secret, now := s.live.Load().secrets[0], time.Now()
	with := func(changes jwt.MapClaims) string {
		c := jwt.MapClaims{"sub": "t", "scope": "admin", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
		for k, v := range changes {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return sign(t, jwt.SigningMethodHS256, secret, c)
	}
	valid := with(nil)
	parts := strings.Split(valid, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	later := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, c := range []struct {
		name, token string
		want        int
	}{
		{"valid", valid, 204},
		{"read", with(jwt.MapClaims{"scope": "read"}), 403},
		{"role admin", with(jwt.MapClaims{"scope": nil, "role": "admin"}), 204},
		{"role auditor", with(jwt.MapClaims{"scope": nil, "role": "auditor"}), 403},
		{"scope goes before role", with(jwt.MapClaims{"scope": "read", "role": "admin"}), 403},
		{"unknown scope", with(jwt.MapClaims{"scope": "root"}), 401},
		{"unknown scope with a role", with(jwt.MapClaims{"scope": "root", "role": "admin"}), 401},
		{"no scope", with(jwt.MapClaims{"scope": nil}), 401},
		{"no exp", with(jwt.MapClaims{"exp": nil}), 401},
		{"expired within the leeway", with(jwt.MapClaims{"exp": later(-50 * time.Second)}), 204},
		{"expired", with(jwt.MapClaims{"exp": later(-70 * time.Second)}), 401},
		{"issued soon, within the leeway", with(jwt.MapClaims{"iat": later(50 * time.Second)}), 204},
		{"issued later", with(jwt.MapClaims{"iat": later(time.Hour), "exp": later(2 * time.Hour)}), 401},
		{"not before", with(jwt.MapClaims{"nbf": later(time.Hour)}), 401},
		{"8760 h", with(jwt.MapClaims{"exp": later(8760 * time.Hour)}), 204},
		{"over 8760 h", with(jwt.MapClaims{"exp": later(8760*time.Hour + time.Second)}), 401},
		{"over 8760 h without iat", with(jwt.MapClaims{"iat": nil, "exp": later(8762 * time.Hour)}), 401},
		{"exp is text", with(jwt.MapClaims{"exp": "tomorrow"}), 401},
		{"HS384", sign(t, jwt.SigningMethodHS384, secret, jwt.MapClaims{"scope": "admin", "exp": later(time.Hour)}), 401},
		{"other secret", sign(t, jwt.SigningMethodHS256, make([]byte, 32), jwt.MapClaims{"scope": "admin", "exp": later(time.Hour)}), 401},
		{"empty secret", sign(t, jwt.SigningMethodHS256, []byte{}, jwt.MapClaims{"scope": "admin", "exp": later(time.Hour)}), 401},
		{"alg none", none, 401},
		{"crit", critical(t, secret, jwt.MapClaims{"scope": "admin", "exp": later(time.Hour)}), 401},
		{"no signature", parts[0] + "." + parts[1] + ".", 401},
		{"two parts", parts[0] + "." + parts[1], 401},
		{"garbage", "a.b.c", 401},
		{"dots", "..", 401},
		{"huge", strings.Repeat("a", 15000), 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := call(s, parley.Listener{}, "127.0.0.1:1", "POST", "/api/v1/devnet/heal", "", "Authorization", "Bearer "+c.token)
			if got.status != c.want {
				t.Errorf("status %d, want %d: %s", got.status, c.want, got.body)
			}
			if c.want == 401 && got.header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
	t.Run("flips", func(t *testing.T) {
		for i := range valid {
			for _, flip := range []byte{1, 2, 32} {
				b := []byte(valid)
				if b[i] ^= flip; b[i] <= ' ' || b[i] > '~' {
					continue
				}
				if _, err := parseToken(s.live.Load().secrets, string(b)); err == nil {
					t.Fatalf("byte %d flipped by %d: still valid", i, flip)
				}
			}
		}
	})
	t.Run("places", func(t *testing.T) {
		basic := base64.StdEncoding.EncodeToString([]byte("anybody:" + valid))
		for _, c := range []struct {
			path, header string
			want         int
		}{
			{"/api/v1/devnet/heal", "Basic " + basic, 204},
			{"/api/v1/devnet/heal", "bearer " + valid, 204},
			{"/api/v1/devnet/heal", "Basic !", 401},
			{"/api/v1/devnet/heal", "Digest " + valid, 401},
			{"/api/v1/devnet/heal?token=" + valid, "", 401},
		} {
			if got := call(s, parley.Listener{}, "127.0.0.1:1", "POST", c.path, "", "Authorization", c.header); got.status != c.want {
				t.Errorf("%.30s %.10s: status %d, want %d", c.path, c.header, got.status, c.want)
			}
		}
	})
}

func TestNewToken(t *testing.T) {
	s := idleServer(t, nil)
	for _, c := range []struct {
		scope string
		ttl   time.Duration
	}{{"root", time.Hour}, {"", time.Hour}, {"read", 0}, {"read", -1}, {"read", 8761 * time.Hour}} {
		if _, err := NewToken(s.cfg, "t", c.scope, c.ttl); err == nil {
			t.Errorf("scope %q for %s: want an error", c.scope, c.ttl)
		}
	}
}

// TestTokensOff is the guide's JWT_SECRET that is too short: the node works
// and no token does.
func TestTokensOff(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.JWTSecret = "secret" })
	for _, c := range []struct {
		method, path, auth string
		want               int
		code               string
	}{
		{"GET", "/api/v1/status", "", 200, ""},
		{"GET", "/api/v1/status", "Bearer x.y.z", 503, "PLY-013"},
		{"POST", "/api/v1/records", "", 503, "PLY-013"},
		{"POST", "/api/v1/devnet/heal", "Bearer x.y.z", 503, "PLY-013"},
		{"GET", "/api/v1/version", "Bearer x.y.z", 200, ""},
	} {
		got := call(s, parley.Listener{}, stranger, c.method, c.path, "", "Authorization", c.auth)
		if got.status != c.want || c.code != "" && got.json(t)["code"] != c.code {
			t.Errorf("%s %s: %d %s", c.method, c.path, got.status, got.body)
		}
	}
	if got := call(s, parley.Listener{Admin: true}, "@", "POST", "/api/v1/devnet/heal", ""); got.status != 204 {
		t.Errorf("local socket: %d", got.status)
	}
}

func TestHost(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.AllowedHosts = []string{"node.lan"} })
	for host, want := range map[string]int{
		"127.0.0.1:8080": 200, "localhost": 200, "LOCALHOST:1": 200, "[::1]:8080": 200, "::1": 200, "node.lan:8080": 200, "192.168.1.10": 200,
		"evil.example": 403, "localhost.evil.example:8080": 403, "127.0.0.1.evil.example": 403, "": 403,
	} {
		if got := call(s, parley.Listener{Loopback: true}, "127.0.0.1:1", "GET", "/health", "", "Host", host).status; got != want {
			t.Errorf("Host %q: %d, want %d", host, got, want)
		}
		if got := call(s, parley.Listener{}, stranger, "GET", "/health", "", "Host", host).status; got != 200 {
			t.Errorf("Host %q on a public listener: %d", host, got)
		}
	}
}

func TestRate(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.Rate = 2 })
	ask := func(l parley.Listener, addr string, header ...string) (passed int) {
		for range 100 {
			if r := call(s, l, addr, "GET", "/api/v1/version", "", header...); r.status == 200 {
				passed++
			} else if r.status != 429 || r.header.Get("Retry-After") == "" {
				t.Fatalf("status %d, Retry-After %q", r.status, r.header.Get("Retry-After"))
			}
		}
		return passed
	}
	if n := ask(parley.Listener{}, stranger); n < 4 || n > 20 {
		t.Errorf("a stranger had %d of 100 answers at 2/s", n)
	}
	if n := ask(parley.Listener{}, "192.0.2.2:1"); n < 4 {
		t.Errorf("another address had %d answers", n)
	}
	if n := ask(parley.Listener{}, "127.0.0.1:1"); n != 100 {
		t.Errorf("loopback had %d of 100 answers", n)
	}
	if n := ask(parley.Listener{Admin: true}, "@"); n != 100 {
		t.Errorf("the socket had %d of 100 answers", n)
	}
}

func TestLimiter(t *testing.T) {
	l, now := newLimiter(1), time.Now()
	v6 := netip.MustParseAddr
	if !l.allow(v6("2001:db8::1"), false, now) || !l.allow(v6("2001:db8::2"), false, now) || l.allow(v6("2001:db8::3"), false, now) {
		t.Error("a /64 is not one address")
	}
	if !l.allow(v6("2001:db8::3"), true, now) {
		t.Error("a token shares the bucket of nobody")
	}
	if !l.allow(v6("2001:db8::3"), false, now.Add(time.Second)) {
		t.Error("a second later: refused")
	}
	for i := range 3 * maxLimited {
		l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), false, now)
	}
	if n := len(l.now) + len(l.old); n > 2*maxLimited {
		t.Errorf("%d addresses are held", n)
	}
}

// TestClaimsAreClosed pins the claims that are understood.
func TestClaimsAreClosed(t *testing.T) {
	b, err := json.Marshal(claims{Scope: "admin", Role: "x"})
	if err != nil || string(b) != `{"scope":"admin","role":"x"}` {
		t.Errorf("%s %v", b, err)
	}
}

// critical signs a token with an extension that whoever reads it MUST understand.
func critical(t *testing.T, secret []byte, c jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, c)
	token.Header["crit"], token.Header["b64"] = []string{"b64"}, true
	text, err := token.SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
