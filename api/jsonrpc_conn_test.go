package api

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// rpcClients speaks by go-ethereum's own client over all three ways.
func (p pair) rpcClients(t *testing.T) {
	h := p.h
	for name, c := range map[string]struct {
		url   string
		admin bool
		push  bool
	}{
		"http": {h.base, false, false}, "ws": {strings.Replace(h.base, "http", "ws", 1), false, true},
		"ws /rpc with a token": {strings.Replace(h.base, "http", "ws", 1) + "/rpc?token=" + h.token("admin"), true, true},
		"ipc":                  {parley.IPCPath(h.cfg.DataDir), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := rpc.DialContext(t.Context(), c.url)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			modules, err := client.SupportedModules()
			if _, admin := modules["admin"]; err != nil || modules["net"] != "1.0" || admin != c.admin {
				t.Errorf("modules %v %v", modules, err)
			}
			var count, dir string
			if err := client.CallContext(t.Context(), &count, "net_peerCount"); err != nil || count != "0x1" {
				t.Errorf("count %q %v", count, err)
			}
			if err := client.CallContext(t.Context(), &dir, "admin_datadir"); (err == nil) != c.admin || c.admin && dir != h.cfg.DataDir {
				t.Errorf("datadir %q %v", dir, err)
			}
			batch := []rpc.BatchElem{{Method: "eth_chainId", Result: new(string)}, {Method: "nothing_here", Result: new(string)}}
			if err := client.BatchCallContext(t.Context(), batch); err != nil || batch[0].Error != nil || batch[1].Error == nil {
				t.Errorf("batch %v %+v", err, batch)
			}
			if c.push {
				rpcPush(t, h, client)
			}
		})
	}
	if info, err := os.Stat(parley.IPCPath(h.cfg.DataDir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
}

// rpcPush subscribes to events, and ends that.
func rpcPush(t *testing.T, h *house, client *rpc.Client) {
	t.Helper()
	events := make(chan envelope, 10)
	sub, err := client.Subscribe(t.Context(), "parley", events, "events", []string{"config.*"})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	select {
	case e := <-events:
		if e.Type != (event.ConfigReloaded{}).Type() || e.V != 1 || e.Seq == 0 {
			t.Errorf("%+v", e)
		}
	case err := <-sub.Err():
		t.Fatal(err)
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	sub.Unsubscribe()
	var ok bool
	if err := client.CallContext(t.Context(), &ok, "parley_unsubscribe", "0x0"); err == nil {
		t.Error("unsubscribed from nothing")
	}
	for _, params := range [][]any{{}, {"blocks"}, {"events", 7}, {"events", []string{"["}}, {"events", "none.such"}, {"events", "*", "b"}} {
		err := client.CallContext(t.Context(), new(string), rpcSubscribe, params...)
		if bad := rpc.Error(nil); !errors.As(err, &bad) || bad.ErrorCode() != rpcBadParams {
			t.Errorf("%v: %v", params, err)
		}
	}
	for i := range rpcSubs + 1 {
		err := client.CallContext(t.Context(), new(string), rpcSubscribe, "events", "ledger.checked")
		if (err != nil) != (i == rpcSubs) {
			t.Errorf("subscription %d: %v", i+1, err)
		}
	}
}

// TestRPCSocket connects as pages, strangers and clients that misbehave.
func TestRPCSocket(t *testing.T) {
	h := start(t, func(c *config.Config) { c.API.PublicRead = false })
	url := strings.Replace(h.base, "http", "ws", 1)
	dial := func(path string, header http.Header) (*websocket.Conn, int) {
		conn, res, err := websocket.Dial(t.Context(), url+path, &websocket.DialOptions{HTTPHeader: header})
		if err != nil {
			if res == nil {
				t.Fatal(err)
			}
			return nil, res.StatusCode
		}
		return conn, 101
	}
	token := h.token("read")
	for _, c := range []struct {
		name, path string
		header     http.Header
		want       int
	}{
		{"nobody", "/rpc", nil, 401},
		{"a forged token", "/rpc?token=a.b.c", nil, 401},
		{"a token", "/rpc?token=" + token, nil, 101},
		{"a token at the root", "/", http.Header{"Authorization": {"Bearer " + token}}, 101},
		{"a page of another host", "/rpc?token=" + token, http.Header{"Origin": {"https://evil.example"}}, 403},
		{"a page of this host", "/rpc?token=" + token, http.Header{"Origin": {h.base}}, 101},
		{"a name that was rebound", "/rpc?token=" + token, http.Header{"Host": {"evil.example"}, "Origin": {"http://evil.example"}}, 403},
	} {
		conn, got := dial(c.path, c.header)
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		if conn != nil {
			_ = conn.CloseNow()
		}
	}
	if got := h.do("GET", "/rpc", token, ""); got.status != 426 {
		t.Errorf("GET without a WebSocket: %d", got.status)
	}
	ask := func(conn *websocket.Conn, text string) string {
		t.Helper()
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		_, b, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	conn, _ := dial("/rpc?token="+token, nil)
	for text, want := range map[string]string{
		`{`: "-32700", `{"id":1,"method":"admin_datadir"}`: "-32001", `[]`: "-32600", `{"id":4,"method":"net_listening"}`: `"id":4,"result":true`,
	} {
		if got := ask(conn, text); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
	if err := conn.Write(t.Context(), websocket.MessageText, bytes.Repeat([]byte(" "), maxRPCBody+1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("a message over the limit: %v", err)
	}
	// The node ends what is open when it stops.
	conn, _ = dial("/rpc?token="+token, nil)
	done := make(chan websocket.StatusCode, 1)
	go func() {
		_, _, err := conn.Read(context.WithoutCancel(t.Context()))
		done <- websocket.CloseStatus(err)
	}()
	h.stop()
	if code := <-done; code != websocket.StatusGoingAway {
		t.Errorf("closed with %d", code)
	}
}

// TestIPC talks to the local socket by hand.
func TestIPC(t *testing.T) {
	h := start(t, nil)
	talk := func(text string) string {
		t.Helper()
		conn, err := net.Dial("unix", parley.IPCPath(h.cfg.DataDir))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			_, _ = conn.Write([]byte(text)) // it may be closed on us
			_ = conn.(*net.UnixConn).CloseWrite()
		}()
		var b bytes.Buffer
		_, _ = b.ReadFrom(conn) // likewise
		return b.String()
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"two in a row":    {`{"id":1,"method":"net_listening"} {"id":2,"method":"admin_datadir"}`, []string{`"id":1,"result":true`, `"id":2,"result":"` + h.cfg.DataDir}},
		"garbage":         {`{"id":1,"method":"net_listening"} hello {"id":2,"method":"net_listening"}`, []string{`"id":1`, "-32700"}},
		"without an end":  {`{"id":1,"method":"` + strings.Repeat("x", 2<<20), []string{"PLY-008"}},
		"nothing":         {"", nil},
		"a batch":         {`[{"id":1,"method":"setban","params":["192.0.2.9","add"]},{"id":2,"method":"isbanned","params":["192.0.2.9"]}]`, []string{`"id":2,"result":true`}},
		"half a message":  {`{"id":1,`, nil},
		"pushes refused":  {`{"id":1,"method":"parley_subscribe","params":["events","["]}`, []string{"-32602"}},
		"text of no call": {`"x"`, []string{"-32600"}},
	} {
		got := talk(c.text)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %.300s, want %s", name, got, want)
			}
		}
		if strings.Count(got, "\n") != len(c.want) && name != "a batch" {
			t.Errorf("%s: %.300s", name, got)
		}
	}
	if bans := h.node.Bans("", "", false); len(bans) != 1 || bans[0].Actor != "local" {
		t.Errorf("%+v", bans)
	}
	path := parley.IPCPath(h.cfg.DataDir)
	h.stop()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// endless is a client that asks without an end and takes no answer.
type endless struct {
	size   int // bytes of a message, at least
	asked  atomic.Int64
	refuse chan struct{} // closed when an answer is written
	once   sync.Once
}

func (e *endless) read(ctx context.Context) ([]byte, error) {
	e.asked.Add(1)
	b := []byte(`{"id":1,"method":"net_listening"}`)
	return append(b, bytes.Repeat([]byte(" "), max(0, e.size-len(b)))...), ctx.Err()
}

func (e *endless) write(ctx context.Context, _ []byte) error {
	e.once.Do(func() { close(e.refuse) })
	<-ctx.Done()
	return ctx.Err()
}

func (e *endless) part(error) {}

func (e *endless) cut() {}

// A client that does not read has no more at work than its share, be its messages
// short or long.
func TestRPCBackPressure(t *testing.T) {
	backPressure(t, 0, rpcWaiting+2) // the one at work, those that wait, and one in hand
	backPressure(t, maxRPCBody/2, 2+2)
}

func backPressure(t *testing.T, size int, want int64) {
	t.Helper()
	s := idleServer(t, nil)
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), callerKey{}, caller{free: true, need: read}))
	e := &endless{size: size, refuse: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serveRPC(ctx, e, rpcAddr(ctx), "")
	}()
	<-e.refuse
	for e.asked.Load() < want {
		runtime.Gosched()
	}
	for range 1000 {
		runtime.Gosched()
	}
	if n := e.asked.Load(); n != want {
		t.Errorf("%d messages of %d bytes were read of a client that takes no answer, want %d", n, size, want)
	}
	cancel()
	<-done
}

// Strangers that fill the hub are not in the operator's way.
func TestOwnerHasAPlace(t *testing.T) {
	h := start(t, func(c *config.Config) { c.API.MaxClients = 1 })
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/rpc", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"id":1,"method":"net_listening"}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, _, err := websocket.Dial(t.Context(), strings.Replace(h.base, "http", "ws", 1)+"/rpc", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := second.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusTryAgainLater {
		t.Errorf("a second client: %v", err)
	}
	client, err := rpc.DialContext(t.Context(), parley.IPCPath(h.cfg.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Subscribe(t.Context(), "parley", make(chan envelope), "events"); err != nil {
		t.Errorf("the local socket: %v", err)
	}
}

// A header that is too large is refused before anything is looked at.
func TestHugeHeader(t *testing.T) {
	h := start(t, nil)
	for _, header := range []string{"Authorization", "Origin", "X-Anything"} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", h.base+"/rpc", strings.NewReader(`{"id":1,"method":"net_version"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(header, strings.Repeat("x", 64<<10))
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			continue // it was closed on us before we had sent all
		}
		if _ = res.Body.Close(); res.StatusCode != 431 {
			t.Errorf("%s: %d", header, res.StatusCode)
		}
	}
	if got := h.do("POST", "/rpc", "", `{"id":1,"method":"net_listening"}`); got.status != 200 {
		t.Errorf("afterwards: %d", got.status)
	}
}
