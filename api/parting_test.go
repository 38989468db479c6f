package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
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
	until := time.Now().Add(4 * time.Second).Truncate(time.Second) // whole seconds: so are those of a token
	short := func(h *house) string {
		return sign(t, jwt.SigningMethodHS256, h.live.Load().secrets[0], jwt.MapClaims{"scope": "admin", "exp": until.Add(-tokenLeeway).Unix()})
	}
	// each begins a stream, and returns what waits for its last word
	socket := func(path string) func(*testing.T) func() string {
		return func(t *testing.T) func() string {
			conn, res, err := websocket.Dial(ctx, strings.Replace(h.base, "http", "ws", 1)+path+"?token="+short(h), nil)
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
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+path+"?token="+short(h), nil)
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
	defer client.CloseIdleConnections()
	ends := map[string]func() string{}
	for name, begin := range map[string]func(*testing.T) func() string{
		"WebSocket": socket("/api/v1/ws"), "Teranode": socket("/p2p-ws"), "JSON-RPC": socket("/rpc"), "events": lines("/api/v1/events"), "logs": lines("/api/v1/logs"),
		"gRPC": func(t *testing.T) func() string {
			s, err := parleyv1connect.NewNodeServiceClient(client, h.base, connect.WithGRPC(), bearer(short(h))).WatchEvents(ctx, connect.NewRequest(&pb.WatchEventsRequest{}))
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
			st := attach(ctx, t, parleyv1connect.NewSidecarServiceClient(client, program.base, connect.WithGRPC(), bearer(short(program))), programHello())
			return func() string {
				_, err := st.Receive()
				return remote(t, err)
			}
		},
	} {
		ends[name] = begin(t)
	}
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
