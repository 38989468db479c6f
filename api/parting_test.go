package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/api/proto/parley/v1/parleyv1connect"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// TestStreamsEndWithTheirToken: what began with a token that holds is ended when
// it no longer does, and each client is told why; another stream goes on.
func TestStreamsEndWithTheirToken(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *config.Config) { c.API.PublicRead = false })
	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	program := start(t, func(c *config.Config) { c.Network = "sidecar" })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	lasting := h.dial(t, "?types=peer.*&token="+h.token("read"))
	readHello(t, lasting.next())
	until := time.Now().Add(15 * time.Second).Truncate(time.Second) // whole seconds: so are those of a token
	short := func(h *house) string {
		return sign(t, jwt.SigningMethodHS256, h.live.Load().secrets[0], jwt.MapClaims{"scope": "admin", "exp": until.Add(-tokenLeeway).Unix()})
	}
	ends := begun(ctx, t, map[*house]string{h: short(h), program: short(program)}, h, program)
	for name, end := range ends {
		if why := end(); !strings.Contains(why, errExpired.Error()) {
			t.Errorf("%s: the last word is %q", name, why)
		}
		if time.Now().Before(until) {
			t.Errorf("%s ended %s too early", name, time.Until(until))
		}
	}
	h.node.Events().Publish(event.PeerUnbanned{Target: "192.0.2.1"})
	lasting.until("peer.unbanned")
}

// begun begins a stream of each kind, and returns what waits for the last word of
// each.
func begun(ctx context.Context, t *testing.T, tokens map[*house]string, h, program *house) (ends map[string]func() string) {
	t.Helper()
	socket := func(path string) func(*testing.T) func() string {
		return func(t *testing.T) func() string {
			conn, res, err := websocket.Dial(ctx, strings.Replace(h.base, "http", "ws", 1)+path+"?token="+tokens[h], nil)
			if err != nil {
				t.Fatalf("%v %v", err, res)
			}
			conn.SetReadLimit(1 << 20)
			return func() string {
				for {
					if _, _, err := conn.Read(ctx); err != nil {
						if code := websocket.CloseStatus(err); code != closeExpired {
							t.Errorf("closed with %d", code)
						}
						return err.Error()
					}
				}
			}
		}
	}
	lines := func(path string) func(*testing.T) func() string {
		return func(t *testing.T) func() string {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+path+"?token="+tokens[h], nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = res.Body.Close() })
			return func() string {
				b, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("%d %v", res.StatusCode, err)
				}
				all := strings.TrimSpace(string(b))
				return all[strings.LastIndexByte(all, '\n')+1:]
			}
		}
	}
	remote := func(t *testing.T, err error) string {
		if connect.CodeOf(err) != connect.CodeUnauthenticated || plyCode(err) != unauthenticated.code {
			t.Errorf("ended by %v", err)
		}
		return err.Error()
	}
	client := h2c(nil)
	t.Cleanup(client.CloseIdleConnections)
	ends = map[string]func() string{}
	for name, begin := range map[string]func(*testing.T) func() string{
		"WebSocket": socket("/api/v1/ws"), "Teranode": socket("/p2p-ws"), "JSON-RPC": socket("/rpc"), "events": lines("/api/v1/events"), "logs": lines("/api/v1/logs"),
		"gRPC": func(t *testing.T) func() string {
			s, err := parleyv1connect.NewNodeServiceClient(client, h.base, connect.WithGRPC(), bearer(tokens[h])).WatchEvents(ctx, connect.NewRequest(&pb.WatchEventsRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			return func() string {
				for s.Receive() {
				}
				return remote(t, s.Err())
			}
		},
		"a program": func(t *testing.T) func() string {
			st := attach(ctx, t, parleyv1connect.NewSidecarServiceClient(client, program.base, connect.WithGRPC(), bearer(tokens[program])), programHello())
			return func() string {
				_, err := st.Receive()
				return remote(t, err)
			}
		},
	} {
		ends[name] = begin(t)
	}
	return ends
}

// secretOf replaces the secrets of a house, and reads them again.
func secretOf(t *testing.T, h *house, c config.Config, secrets string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.DataDir, c.API.JWTSecretFile), []byte(secrets), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != http.StatusOK {
		t.Fatalf("reload: %d %s", got.status, got.body)
	}
}

// TestStreamsEndWithTheirSecret: a reload ends the streams of those who may not
// have them any longer, and no others.
func TestStreamsEndWithTheirSecret(t *testing.T) {
	t.Parallel()
	c, other := labConfig(t), labConfig(t)
	other.Network = "sidecar"
	h, next := reloader(t, c)
	program, _ := reloader(t, other)
	h.waitFor("the chain", func() bool { _, err := h.node.Chain(); return err == nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	second := strings.Repeat("5e", 32) + "\n"
	old := map[*house]string{h: h.token("admin"), program: program.token("admin")}
	for x, c := range map[*house]config.Config{h: c, program: other} {
		first, err := os.ReadFile(filepath.Join(c.DataDir, c.API.JWTSecretFile))
		if err != nil {
			t.Fatal(err)
		}
		secretOf(t, x, c, second+string(first))
	}
	ends := begun(ctx, t, old, h, program)
	fresh := h.dial(t, "?types=peer.*&token="+h.token("read"))
	readHello(t, fresh.next())
	local, _, err := websocket.Dial(ctx, "ws://localhost/api/v1/ws?types=peer.*", &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.unix)
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	local.SetReadLimit(1 << 20)
	own := &socket{local, t}
	defer local.CloseNow() //nolint:errcheck // it is over

	anonymous := h.dial(t, "")
	readHello(t, anonymous.next())
	res, err := http.Get(h.base + "/api/v1/events?types=peer.*")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	c.API.PublicRead = false
	next.Store(&config.Loaded{Config: c})
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != http.StatusOK {
		t.Fatalf("reload: %d %s", got.status, got.body)
	}
	for err = nil; err == nil; {
		_, _, err = anonymous.Read(ctx)
	}
	if websocket.CloseStatus(err) != closeExpired || !strings.Contains(err.Error(), errShut.Error()) {
		t.Errorf("without a token: %v", err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || !strings.HasSuffix(string(b), "\n: "+errShut.Error()+"\n\n") {
		t.Errorf("without a token: %v %s", err, b)
	}
	h.waitFor("those with a token go on, and the local one", func() bool { return len(h.stays.list()) == len(ends)-1+2 })

	secretOf(t, h, c, second)
	secretOf(t, program, other, second)
	for name, end := range ends {
		if why := end(); !strings.Contains(why, errRevoked.Error()) {
			t.Errorf("%s: the last word is %q", name, why)
		}
	}
	h.waitFor("two streams that go on", func() bool { return len(h.stays.list()) == 2 })
	h.node.Events().Publish(event.PeerBanned{Target: "192.0.2.1"})
	fresh.until("peer.banned")
	own.until("peer.banned")
}

// TestTurnedAwayIsWaitedFor: a client that there is no place for, and that is
// slow to go, is no goroutine that outlives the server.
func TestTurnedAwayIsWaitedFor(t *testing.T) {
	for _, path := range []string{"/api/v1/ws", "/ws", "/rpc"} {
		h := start(t, func(c *config.Config) { c.API.MaxClients = 1 })
		only := h.dial(t, "")
		readHello(t, only.next())
		go only.closed() // and answers
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(h.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		in := bufio.NewReader(conn)
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %v %v", path, res, err)
		}
		if head, err := in.Peek(4); err != nil || head[0] != 0x88 || int(head[2])<<8|int(head[3]) != int(websocket.StatusTryAgainLater) {
			t.Fatalf("%s: % x %v", path, head, err)
		}
		go func() { // it answers only when the server is at its end
			<-h.hub.stopCh
			time.AfterFunc(300*time.Millisecond, func() { _ = conn.Close() })
		}()
		h.stop()
		stacks := make([]byte, 4<<20)
		if stacks = stacks[:runtime.Stack(stacks, true)]; strings.Contains(string(stacks), "api.(*Server).accept") {
			t.Errorf("%s: the client that was turned away is still served", path)
		}
		if got := call(h.Server, parley.Listener{}, "127.0.0.1:1", "GET", path, "", "Upgrade", "websocket"); got.status != http.StatusServiceUnavailable {
			t.Errorf("%s of a server that ended: %d", path, got.status)
		}
	}
}
