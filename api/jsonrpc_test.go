package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// openMethods are those that ask for scope read alone. The
// table of access is held to it, or a slip in that one would open a method.
const openMethods = `rpc_modules web3_clientVersion net_peerCount net_listening net_version
	eth_blockNumber eth_chainId eth_syncing eth_getBlockByNumber parley_status parley_peers parley_chain parley_subscribe parley_unsubscribe
	bitcoin_getpeerinfo bitcoin_getconnectioncount bitcoin_getnetworkinfo bitcoin_listbanned bitcoin_isbanned`

// TestEveryMethodIsClassified holds the table of access against the methods of
// the receivers: one that nobody has thought about would be open.
func TestEveryMethodIsClassified(t *testing.T) {
	s := idleServer(t, nil)
	there := map[string]bool{rpcSubscribe: true, rpcUnsubscribe: true}
	for service, rcvr := range s.rpcServices() {
		for method := range reflect.TypeOf(rcvr).Methods() {
			name := []rune(method.Name)
			name[0] = unicode.ToLower(name[0])
			there[service+"_"+string(name)] = true
		}
	}
	for name := range there {
		if rpcAccess[name] == 0 {
			t.Errorf("method %s is not classified: say in rpcAccess who may use it", name)
		}
	}
	for name, need := range rpcAccess {
		if !there[name] {
			t.Errorf("method %s is gone", name)
		}
		want := admin
		if name == rpcDenied || slices.Contains(strings.Fields(openMethods), name) {
			want = read
		}
		if need != want {
			t.Errorf("method %s asks for access %d, want %d: say in this test who may use it", name, need, want)
		}
	}
}

// rpcAs posts a message as somebody.
func rpcAs(s *Server, l parley.Listener, addr, body string, header ...string) reply {
	return call(s, l, addr, "POST", "/rpc", body, append([]string{"Content-Type", "application/json"}, header...)...)
}

type rpcReply struct {
	ID     json.RawMessage
	Result json.RawMessage
	Error  *struct {
		Code    int
		Message string
		Data    struct{ Code, Detail string }
	}
}

func rpcReplies(t *testing.T, b []byte) []rpcReply {
	t.Helper()
	var list []rpcReply
	if bytes.HasPrefix(b, []byte("[")) {
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		return list
	}
	list = make([]rpcReply, 1)
	if err := json.Unmarshal(b, &list[0]); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return list
}

// TestRPCAccess asks for every method as everybody and looks who is let in.
func TestRPCAccess(t *testing.T) {
	public := idleServer(t, nil)
	shut := idleServer(t, func(c *config.Config) { c.API.PublicRead = false })
	bearer := func(s *Server, scope string) []string {
		text, err := NewToken(s.cfg, "t", scope, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"Authorization", "Bearer " + text}
	}
	for _, w := range []struct {
		name        string
		s           *Server
		l           parley.Listener
		auth        []string
		read, admin bool
	}{
		{"nobody, public", public, parley.Listener{}, nil, true, false},
		{"nobody, shut", shut, parley.Listener{}, nil, false, false},
		{"read", shut, parley.Listener{}, bearer(shut, "read"), true, false},
		{"admin", shut, parley.Listener{}, bearer(shut, "admin"), true, true},
		{"foreign token", public, parley.Listener{}, bearer(shut, "admin"), false, false},
		{"socket", shut, parley.Listener{Admin: true}, nil, true, true},
	} {
		t.Run(w.name, func(t *testing.T) {
			w.s.live.Load().limits = newLimiter(0)
			for name, need := range rpcAccess {
				if name == rpcDenied {
					continue
				}
				got := rpcAs(w.s, w.l, stranger, `{"jsonrpc":"2.0","id":7,"method":"`+name+`"}`, w.auth...)
				r := rpcReplies(t, got.body)[0]
				denied := r.Error != nil && r.Error.Code == rpcUnauthorized
				want := need == admin && !w.admin || !w.read
				if denied != want {
					t.Errorf("%s: %d %s, want unauthorized = %v", name, got.status, got.body, want)
				}
				if denied && w.read && (r.Error.Data.Code != "PLY-004" || r.Error.Message != "unauthorized" || string(r.ID) != "7") {
					t.Errorf("%s: %s", name, got.body)
				}
			}
		})
	}
	for _, l := range []parley.Listener{{}, {Admin: true}} {
		r := rpcReplies(t, rpcAs(public, l, stranger, `{"jsonrpc":"2.0","id":1,"method":"rpc_modules","params":[]}`).body)[0]
		want := `{"eth":"1.0","net":"1.0","parley":"1.0","rpc":"1.0","web3":"1.0"}`
		if l.Admin {
			want = `{"admin":"1.0",` + want[1:]
		}
		if string(r.Result) != want {
			t.Errorf("modules: %s, want %s", r.Result, want)
		}
	}
}

// TestRPCTokens forges tokens; none opens a method, not even one that is open.
func TestRPCTokens(t *testing.T) {
	s := idleServer(t, nil)
	later := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	sum := func(key []byte, c jwt.MapClaims) string { return sign(t, jwt.SigningMethodHS256, key, c) }
	for name, token := range map[string]string{
		"alg none":   "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzY29wZSI6ImFkbWluIiwiZXhwIjo0MTAyNDQ0ODAwfQ.",
		"wrong key":  sum(make([]byte, 32), jwt.MapClaims{"scope": "admin", "exp": later(time.Hour)}),
		"expired":    sum(s.live.Load().secrets[0], jwt.MapClaims{"scope": "admin", "exp": later(-2 * time.Minute)}),
		"no exp":     sum(s.live.Load().secrets[0], jwt.MapClaims{"scope": "admin"}),
		"odd scope":  sum(s.live.Load().secrets[0], jwt.MapClaims{"scope": "root", "exp": later(time.Hour)}),
		"other HMAC": sign(t, jwt.SigningMethodHS512, s.live.Load().secrets[0], jwt.MapClaims{"scope": "admin", "exp": later(time.Hour)}),
	} {
		for _, method := range []string{"net_version", "admin_datadir"} {
			got := rpcAs(s, parley.Listener{}, stranger, `{"id":1,"method":"`+method+`"}`, "Authorization", "Bearer "+token)
			r := rpcReplies(t, got.body)[0]
			if got.status != 401 || r.Error == nil || r.Error.Code != rpcUnauthorized || r.Error.Data.Code != "PLY-004" || got.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s, %s: %d %s", name, method, got.status, got.body)
			}
		}
	}
	// A read token opens what is open, and no more; bitcoin's tools send it as a password.
	text, err := NewToken(s.cfg, "t", "admin", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequest("POST", "/", nil)
	r.SetBasicAuth("anybody", text)
	got := rpcAs(s, parley.Listener{}, stranger, `{"jsonrpc":"1.0","id":"curl","method":"clearbanned","params":[]}`, "Authorization", r.Header.Get("Authorization"))
	if strings.TrimSpace(string(got.body)) != `{"jsonrpc":"2.0","id":"curl","result":null}` {
		t.Errorf("basic: %d %s", got.status, got.body)
	}
}

// TestRPCAbuse sends what is no call; the node answers with an error in its
// place.
func TestRPCAbuse(t *testing.T) {
	s := idleServer(t, nil)
	batch := func(n int, one string) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }
	for _, c := range []struct {
		name, body string
		status     int
		codes      []int // of the errors, 0 = a result
	}{
		{"empty", "", 200, []int{-32700}},
		{"blanks", " \n ", 200, []int{-32700}},
		{"half", `{"jsonrpc":"2.0","id":1,"method":"net_ver`, 200, []int{-32700}},
		{"two", `{"id":1,"method":"net_version"}{"id":2,"method":"net_version"}`, 200, []int{-32700}},
		{"tail", `[{"id":1,"method":"net_version"}]x`, 200, []int{-32700}},
		{"half a batch", `[{"id":1,"method":"net_version"},`, 200, []int{-32700}},
		{"text", `"net_version"`, 200, []int{-32600}},
		{"null", `null`, 200, []int{-32600}},
		{"number", `7`, 200, []int{-32600}},
		{"method is a number", `{"jsonrpc":"2.0","id":1,"method":7}`, 200, []int{-32600}},
		{"no method", `{"jsonrpc":"2.0","id":1}`, 200, []int{-32600}},
		{"an answer", `{"jsonrpc":"2.0","id":1,"result":true}`, 200, []int{-32600}},
		{"version 3", `{"jsonrpc":"3.0","id":1,"method":"net_listening"}`, 200, []int{-32600}},
		{"version 1", `{"jsonrpc":"1.0","id":1,"method":"net_listening"}`, 200, []int{0}},
		{"no version", `{"id":1,"method":"net_listening","params":null}`, 200, []int{0}},
		{"no such method", `{"id":1,"method":"net_nothing"}`, 200, []int{-32601}},
		{"no such service", `{"id":1,"method":"debug_setHead","params":["0x0"]}`, 200, []int{-32601}},
		{"no such bare method", `{"id":1,"method":"stop"}`, 200, []int{-32601}},
		{"subscribe without a connection", `{"id":1,"method":"parley_subscribe","params":["events"]}`, 200, []int{-32601}},
		{"bad parameters", `{"id":1,"method":"eth_getBlockByNumber","params":{"a":1}}`, 200, []int{-32602}},
		{"too many parameters", `{"id":1,"method":"net_version","params":[1]}`, 200, []int{-32602}},
		{"bad tag", `{"id":1,"method":"eth_getBlockByNumber","params":["0xzz",false]}`, 200, []int{-32602}},
		{"bad target", `{"id":1,"method":"isbanned","params":["nobody.example.org"]}`, 200, []int{-32602}},
		{"empty batch", `[]`, 200, []int{-32600}},
		{"a batch of odd things", `[1,"a",null,[],{},{"id":9,"method":"net_listening"}]`, 200, []int{-32600, -32600, -32600, -32600, -32600, 0}},
		{"100", batch(100, `{"id":1,"method":"net_listening"}`), 200, make([]int, 100)},
		{"101", batch(101, `{"id":1,"method":"net_listening"}`), 200, []int{-32600}},
		{"a bomb", batch(500_000, `1`), 200, []int{-32600}},
		{"deep", strings.Repeat("[", 1<<20), 200, []int{-32700}},
		{"deep parameters", `{"id":1,"method":"net_listening","params":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, 200, []int{-32602}},
		{"a long name", `{"id":1,"method":"` + strings.Repeat("x", 100_000) + `_y"}`, 200, []int{-32601}},
		{"a name that grows", `{"id":1,"jsonrpc":"` + strings.Repeat("\xff", 1<<19-100) + `","method":"` + strings.Repeat("\xff", 1<<19-100) + `"}`, 200, []int{-32600}},
		{"too large", `{"id":1,"method":"` + strings.Repeat("x", 1<<20) + `"}`, 413, []int{-32600}},
		{"signs that grow", `{"id":1,"method":"net_listening","params":["` + strings.Repeat("<", 1<<20-100) + `"]}`, 200, []int{-32602}},
	} {
		got := rpcAs(s, parley.Listener{}, "127.0.0.1:1", c.body)
		replies := rpcReplies(t, got.body)
		var codes []int
		for _, r := range replies {
			if r.Error == nil {
				codes = append(codes, 0)
			} else {
				codes = append(codes, r.Error.Code)
			}
		}
		if got.status != c.status || !reflect.DeepEqual(codes, c.codes) {
			t.Errorf("%s: %d %.200s, want codes %v", c.name, got.status, got.body, c.codes)
		}
		if len(got.body) > 20_000 {
			t.Errorf("%s: an answer of %d bytes", c.name, len(got.body))
		}
	}
	if got := rpcAs(s, parley.Listener{}, "127.0.0.1:1", `{"jsonrpc":"2.0","method":"net_listening"}`); got.status != 204 || len(got.body) != 0 {
		t.Errorf("nobody waits: %d %s", got.status, got.body)
	}
	for _, mediaType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"} { // what a page may send unasked
		got := call(s, parley.Listener{}, "127.0.0.1:1", "POST", "/", `{"id":1,"method":"net_version"}`, "Content-Type", mediaType)
		if r := rpcReplies(t, got.body)[0]; got.status != 415 || r.Error == nil || r.Error.Data.Code != "PLY-009" {
			t.Errorf("%q: %d %s", mediaType, got.status, got.body)
		}
	}
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+password))
	}
	token, err := NewToken(s.cfg, "t", "admin", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		l      parley.Listener
		header []string
	}{
		{200, parley.Listener{}, []string{"Content-Type", "text/plain", "Authorization", basic(token)}}, // bitcoin-cli
		{200, parley.Listener{}, []string{"Content-Type", "", "Authorization", "Bearer " + token}},
		{200, parley.Listener{Admin: true}, []string{"Content-Type", "text/plain"}},
		{401, parley.Listener{}, []string{"Content-Type", "text/plain", "Authorization", basic("wrong")}},
		{415, parley.Listener{}, []string{"Content-Type", "application/x-www-form-urlencoded", "Authorization", basic(token)}},
		{415, parley.Listener{}, []string{"Content-Type", "text/plain", "Authorization", basic(token), "Sec-Fetch-Site", "same-origin"}}, // a browser, with a password that it remembers
		{415, parley.Listener{}, []string{"Content-Type", "text/plain", "Authorization", basic(token), "Origin", "http://example.com"}},
		{403, parley.Listener{}, []string{"Content-Type", "text/plain", "Authorization", basic(token), "Origin", "https://evil.example"}},
	} {
		got := call(s, c.l, "127.0.0.1:1", "POST", "/", `{"id":1,"method":"clearbanned"}`, c.header...)
		if got.status != c.status {
			t.Errorf("%q: %d %s, want %d", c.header, got.status, got.body, c.status)
		}
	}
	for _, c := range []struct {
		name   string
		header []string
	}{
		{"a page of another host", []string{"Origin", "https://evil.example"}},
		{"a page without an origin", []string{"Origin", "null"}},
		{"a cross-site call", []string{"Sec-Fetch-Site", "cross-site"}},
		{"a name that was rebound", []string{"Host", "evil.example"}},
	} {
		got := rpcAs(s, parley.Listener{Loopback: true}, "127.0.0.1:1", `{"id":1,"method":"net_version"}`, append([]string{"Host", "127.0.0.1"}, c.header...)...)
		if r := rpcReplies(t, got.body)[0]; got.status != 403 || r.Error == nil || r.Error.Code != rpcUnauthorized {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
	}
}

// TestRPCJoining asks a node that knows no chain yet.
func TestRPCJoining(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.P2P.StaticPeers = []string{"127.0.0.1:1"} })
	for method, want := range map[string]string{
		"net_peerCount": `"0x0"`, "net_listening": "true", "eth_syncing": `{"startingBlock":"0x0","currentBlock":"0x0","highestBlock":"0x0"}`,
		"getconnectioncount": "0", "getpeerinfo": "[]", "listbanned": "[]", "net_version": "", "eth_chainId": "", "eth_blockNumber": "", "parley_chain": "",
	} {
		r := rpcReplies(t, rpcAs(s, parley.Listener{}, stranger, `{"id":1,"method":"`+method+`"}`).body)[0]
		if want == "" && (r.Error == nil || r.Error.Code != rpcFailed || r.Error.Data.Code != "PLY-012") || want != "" && string(r.Result) != want {
			t.Errorf("%s: %s %+v", method, r.Result, r.Error)
		}
	}
}

// TestRPCRate spends what an address may ask: a batch counts by its calls.
func TestRPCRate(t *testing.T) {
	s := idleServer(t, func(c *config.Config) { c.API.Rate = 1 }) // and two at once: the next one comes a second later
	one := strings.TrimSuffix(strings.Repeat(`{"id":1,"method":"net_listening"},`, 2), ",")
	if got := rpcAs(s, parley.Listener{}, stranger, "["+one+"]"); len(rpcReplies(t, got.body)) != 2 {
		t.Fatalf("%d %.200s", got.status, got.body)
	}
	got := rpcAs(s, parley.Listener{}, stranger, `{"id":1,"method":"net_listening"}`)
	if r := rpcReplies(t, got.body)[0]; got.status != 429 || r.Error == nil || r.Error.Code != rpcTooMany || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestExpiredConnection: a connection does not outlive the rights of its token.
func TestExpiredConnection(t *testing.T) {
	s := idleServer(t, nil)
	with := func(until time.Time) context.Context {
		return context.WithValue(t.Context(), callerKey{}, caller{token: true, admin: true, until: until})
	}
	if p := s.rpcPermit(with(time.Now().Add(time.Minute)), "admin_peers"); p != nil {
		t.Error(p)
	}
	old := with(time.Now().Add(-2 * time.Minute))
	if p := s.rpcPermit(old, "admin_peers"); p == nil {
		t.Error("an expired token is still admin")
	}
	if p := s.rpcPermit(old, "net_version"); p != nil {
		t.Error("what is open is shut to an expired token")
	}
	r := rpcReplies(t, s.rpcAnswer(old, readRPC([]byte(`{"id":1,"method":"admin_datadir"}`))))[0]
	if r.Error == nil || r.Error.Code != rpcUnauthorized || !strings.Contains(r.Error.Data.Detail, "expired") {
		t.Errorf("%+v", r)
	}
}

// rpc asks for every method, by post, as geth's console and bitcoin's tools do.
func (p pair) rpc(t *testing.T) {
	h := p.h
	admin := h.token("admin")
	follower := p.follower.node.ID().String()
	dead := "/ip4/127.0.0.1/tcp/1/p2p/" + somebody
	var b bytes.Buffer
	asked := map[string]bool{rpcDenied: true, rpcSubscribe: true, rpcUnsubscribe: true}
	for _, c := range []struct{ method, params string }{
		{"rpc_modules", ""}, {"web3_clientVersion", ""}, {"net_peerCount", "[]"}, {"net_listening", "[]"}, {"net_version", "[]"},
		{"eth_blockNumber", ""}, {"eth_chainId", ""}, {"eth_syncing", ""},
		{"eth_getBlockByNumber", `["latest",false]`}, {"eth_getBlockByNumber", `["0x0",true]`}, {"eth_getBlockByNumber", `["0xffffff"]`}, {"eth_getBlockByNumber", `["0xffffffffffffffff"]`},
		{"admin_peers", ""}, {"admin_nodeInfo", ""}, {"admin_datadir", ""},
		{"admin_addPeer", `["` + dead + `"]`}, {"admin_addPeer", `["` + dead + `"]`}, {"admin_removePeer", `["` + dead + `"]`}, {"admin_removePeer", `["` + dead + `"]`},
		{"admin_addPeer", `["enode://00@192.0.2.1:30303"]`},
		{"admin_addTrustedPeer", `["` + dead + `"]`}, {"admin_removeTrustedPeer", `["` + somebody + `"]`}, {"admin_removeTrustedPeer", `["` + somebody + `"]`},
		{"parley_status", ""}, {"parley_peers", ""}, {"parley_chain", ""},
		{"getpeerinfo", ""}, {"getconnectioncount", ""}, {"getnetworkinfo", ""},
		{"setban", `["203.0.113.0/24","add",3600]`}, {"setban", `["198.51.100.7","add",4102444800,true]`}, {"setban", `["192.0.2.0/24","add"]`}, {"setban", `["192.0.2.1","frob"]`},
		{"listbanned", ""}, {"isbanned", `["203.0.113.9"]`}, {"isbanned", `["203.0.114.9"]`}, {"setban", `["203.0.113.0/24","remove"]`}, {"setban", `["203.0.113.0/24","remove"]`},
		{"clearbanned", ""}, {"listbanned", ""}, {"setban", `["0.0.0.0/0","add"]`},
		{"addnode", `["` + dead + `","add"]`}, {"addnode", `["` + dead + `","remove"]`}, {"addnode", `["/ip4/127.0.0.1/tcp/1","onetry"]`}, {"addnode", `["x","frob"]`},
		{"disconnectnode", `[""]`}, {"disconnectnode", `["",1]`}, {"disconnectnode", `["",` + fmt.Sprint(peerNumber(p.follower.node.ID())) + `]`},
	} {
		name := c.method
		if !strings.Contains(name, "_") {
			name = "bitcoin_" + name
		}
		asked[name] = true
		body := `{"jsonrpc":"2.0","id":1,"method":"` + c.method + `"}`
		if c.params != "" {
			body = `{"jsonrpc":"2.0","id":1,"method":"` + c.method + `","params":` + c.params + `}`
		}
		got := h.do("POST", "/", admin, body)
		fmt.Fprintf(&b, "%s %s\n  %d\n  %s\n", c.method, strings.NewReplacer(follower, "PEER", somebody, "SOMEBODY", fmt.Sprint(peerNumber(p.follower.node.ID())), "NUMBER").Replace(c.params),
			got.status, rpcShape(t, got))
		if got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s", c.method, got.header.Get("Content-Type"))
		}
	}
	golden(t, "jsonrpc.golden", b.Bytes())
	for name := range rpcAccess {
		if !asked[name] {
			t.Errorf("method %s was not asked for", name)
		}
	}
	h.waitFor("the follower again", func() bool { return h.node.PeerCount().Connected == 1 })

	// What they say is what the native routes say.
	c, err := h.node.Chain()
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{
		"net_peerCount": `"0x1"`, "eth_blockNumber": fmt.Sprintf(`"0x%x"`, c.Height), "eth_syncing": "false", "net_listening": "true",
		"net_version": fmt.Sprintf(`"%d"`, uint32(c.GenesisHash[0])<<24|uint32(c.GenesisHash[1])<<16|uint32(c.GenesisHash[2])<<8|uint32(c.GenesisHash[3])),
		"eth_chainId": fmt.Sprintf(`"0x%x"`, uint32(c.GenesisHash[0])<<24|uint32(c.GenesisHash[1])<<16|uint32(c.GenesisHash[2])<<8|uint32(c.GenesisHash[3])),
	} {
		got := rpcReplies(t, h.do("POST", "/rpc", "", `{"id":1,"method":"`+method+`"}`).body)[0]
		if string(got.Result) != want {
			t.Errorf("%s: %s, want %s", method, got.Result, want)
		}
	}
	block := rpcReplies(t, h.do("POST", "/rpc", "", `{"id":1,"method":"eth_getBlockByNumber","params":["0x1",true]}`).body)[0]
	var eth ethBlock
	if err := json.Unmarshal(block.Result, &eth); err != nil || len(eth.Transactions) != 1 || eth.Transactions[0] != "0x"+p.id || eth.Number != "0x1" {
		t.Errorf("block 1: %s %v", block.Result, err)
	}
}

// rpcShape shows an error as it is, for its codes are the contract.
func rpcShape(t *testing.T, got reply) string {
	t.Helper()
	r := rpcReplies(t, got.body)[0]
	if r.Error != nil {
		return fmt.Sprintf("error %d %s", r.Error.Code, r.Error.Data.Code)
	}
	return shapeOf(reply{header: got.header, body: r.Result})
}

// FuzzRPC: whatever comes, there is one answer that is JSON, or none where
// nobody waits.
func FuzzRPC(f *testing.F) {
	for _, text := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"net_version"}`, `[{"id":1,"method":"getpeerinfo","params":[]},{"method":"x_y"}]`, `{"id":{},"method":"eth_syncing"}`,
		`[`, `[1,2]`, `{"id":null,"method":"rpc_denied"}`, `{"id":"a","method":"eth_getBlockByNumber","params":["latest",true]}`, "\x00", `{"id":1e999,"method":"net_listening"}`,
	} {
		f.Add([]byte(text))
	}
	s := idleServer(f, nil)
	ctx := context.WithValue(context.Background(), callerKey{}, caller{free: true})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxRPCBody {
			return
		}
		call := readRPC(b)
		if len(call.list) > maxRPCBatch {
			t.Fatalf("%d calls", len(call.list))
		}
		for _, m := range call.list {
			if rpcAccess[m.Method] == admin && s.rpcPermit(ctx, m.Method) == nil {
				t.Fatalf("%s is open", m.Method)
			}
		}
		if answer := s.rpcAnswer(ctx, call); len(answer) > 0 && !json.Valid(answer) {
			t.Fatalf("%q: %q", b, answer)
		}
	})
}
