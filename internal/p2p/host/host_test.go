package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

const echoProtocol = "/parley/echo/1"

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newHost starts a host that echoes, and closes it at the end of the test.
func newHost(t testing.TB, o Options, listen ...string) *Host {
	t.Helper()
	if o.Key == nil {
		o.Key = newKey(t)
	}
	for _, l := range listen {
		o.Listen = append(o.Listen, ma.StringCast(l))
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	h.SetStreamHandler(echoProtocol, func(s network.Stream) {
		io.Copy(s, s)
		s.Close()
	})
	return h
}

// echo connects a to one address of b and sends a word there and back.
func echo(t testing.TB, a, b *Host, addr ma.Multiaddr) network.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	s, err := a.NewStream(ctx, b.ID(), echoProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write([]byte("parley")); err != nil {
		t.Fatal(err)
	}
	s.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "parley" {
		t.Fatalf("echo %q, %v", got, err)
	}
	return s.Conn()
}

func TestTransports(t *testing.T) {
	for listen, want := range map[string]string{
		"/ip4/127.0.0.1/tcp/0":         "tcp",
		"/ip4/127.0.0.1/udp/0/quic-v1": "quic-v1",
		"/ip4/127.0.0.1/tcp/0/ws":      "ws",
		"/ip6/::1/tcp/0":               "tcp",
		"/ip6/::1/udp/0/quic-v1":       "quic-v1",
	} {
		t.Run(listen[1:], func(t *testing.T) {
			if strings.HasPrefix(listen, "/ip6") {
				l, err := net.Listen("tcp6", "[::1]:0")
				if err != nil {
					t.Skipf("no IPv6 on this machine: %v", err)
				}
				l.Close()
			}
			reg := prometheus.NewPedanticRegistry()
			ws := want == "ws"
			a := newHost(t, Options{Websocket: ws, UserAgent: "parley/test/a"}, listen)
			b := newHost(t, Options{Websocket: ws, UserAgent: "parley/test/b", Registerer: onlyOurs{reg}}, listen)
			c := echo(t, a, b, b.Network().ListenAddresses()[0])
			if got := Transport(c.RemoteMultiaddr()); got != want {
				t.Errorf("transport %s, want %s", got, want)
			}
			if want != "quic-v1" && c.ConnState().Security != "/tls/1.0.0" {
				t.Errorf("security %s, want TLS before Noise", c.ConnState().Security)
			}
			if agent, _ := a.Peerstore().Get(b.ID(), "AgentVersion"); agent != "parley/test/b" {
				t.Errorf("agent %v", agent)
			}
			if v, _ := a.Peerstore().Get(b.ID(), "ProtocolVersion"); v != protocolVersion {
				t.Errorf("protocol version %v", v)
			}
			total, peers := a.Bandwidth()
			if total.In < 6 || total.Out < 6 || peers[b.ID()].In < 6 || peers[b.ID()].Out < 6 {
				t.Errorf("bandwidth %+v, of the peer %+v", total, peers[b.ID()])
			}
			if in, out := b.PeerCount(); in != 1 || out != 0 {
				t.Errorf("%d inbound and %d outbound peers, want 1 and 0", in, out)
			}
			got := gather(t, reg)
			if got["parley_host_peers inbound"] != 1 || got["parley_host_connections_total inbound ok "+want] != 1 || got["parley_host_bytes_total in"] < 6 {
				t.Errorf("metrics %v", got)
			}
		})
	}
}

// A closed host leaves no goroutine, whatever it has spoken.
func TestCloseLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("hosts", func(t *testing.T) {
		api := listenTCP(t)
		a := newHost(t, Options{}, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")
		b := newHost(t, Options{APIListener: api, Registerer: prometheus.NewRegistry()}, "/ip4/127.0.0.1/udp/0/quic-v1")
		for _, addr := range b.Network().ListenAddresses() {
			echo(t, a, b, addr)
			a.Network().ClosePeer(b.ID())
		}
	})
	goleak.VerifyNone(t, before)
}

func TestNothingIsLogged(t *testing.T) {
	var out safeBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	reg := prometheus.NewRegistry()
	api := listenTCP(t)
	a := newHost(t, Options{Log: log, Registerer: reg, MaxPeers: 3}, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")
	b := newHost(t, Options{Log: log, APIListener: api, Registerer: prometheus.NewRegistry()}, "/ip4/0.0.0.0/tcp/0")
	echo(t, a, b, b.Addrs()[0])
	a.Close()
	b.Close()
	if out.String() != "" {
		t.Errorf("logged:\n%s", out.String())
	}
}

// libp2p's own lines are for who debugs.
func TestLibraryLog(t *testing.T) {
	var out safeBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	newHost(t, Options{Log: log})
	slog.New(libraryLog{}.WithAttrs([]slog.Attr{slog.String("logger", "swarm2")}).WithGroup("g")).Error("oh", "peer", 1)
	line, ok := "", false
	for l := range strings.Lines(out.String()) {
		if strings.Contains(l, "msg=oh") {
			line, ok = l, true
		}
	}
	if !ok || !strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "logger=swarm2") || !strings.Contains(line, "peer=1") {
		t.Errorf("logged %q", out.String())
	}
}

// TCP and WebSocket share p2p.port.
func TestWebsocketOnThePortOfTCP(t *testing.T) {
	l := listenTCP(t)
	tcp := "/ip4/127.0.0.1/tcp/" + strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")
	l.Close()
	h := newHost(t, Options{Websocket: true}, tcp, tcp+"/ws")
	for _, addr := range []string{tcp, tcp + "/ws"} {
		echo(t, newHost(t, Options{Websocket: true}), h, ma.StringCast(addr))
	}
}

func TestNewRefuses(t *testing.T) {
	taken := newHost(t, Options{}, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")
	other, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all := taken.Network().ListenAddresses()
	for i, addr := range all {
		other := all[(i+1)%len(all)] // taken as well
		noTransport := ma.StringCast("/ip4/127.0.0.1/tcp/0/ws")
		_, err = New(Options{Key: newKey(t), Listen: []ma.Multiaddr{noTransport, addr, other, ma.StringCast("/ip4/127.0.0.1/tcp/0")}})
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr.String()) || !strings.Contains(err.Error(), "p2p.port") {
			t.Errorf("on a taken port: %v", err)
		} else if strings.Contains(err.Error(), other.String()) || strings.Contains(err.Error(), "/ws") || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("a taken port is more than one error: %v", err)
		}
	}
	api := listenTCP(t)
	ws := ma.StringCast("/ip4/127.0.0.1/tcp/" + strings.TrimPrefix(api.Addr().String(), "127.0.0.1:") + "/ws")
	if _, err = New(Options{Key: newKey(t), Websocket: true, Listen: []ma.Multiaddr{ws}}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("WebSocket on a taken port: %v", err)
	}
	if _, err := New(Options{Key: other, APIListener: api}); err == nil || !strings.Contains(err.Error(), "Ed25519") {
		t.Errorf("with another key: %v", err)
	}
	if _, err := api.Accept(); err == nil {
		t.Error("the API's listener stays open after a failure")
	}
}

// Two hosts as in the swarm tests: QUIC on a simulated network and virtual
// time. The bubble fails by itself when a goroutine stays.
func TestBubble(t *testing.T) {
	for name, extra := range map[string][]libp2p.Option{
		"no limits":  {libp2p.ResourceManager(&network.NullResourceManager{})},
		"our limits": nil,
	} {
		t.Run(name, func(t *testing.T) { testBubble(t, extra) })
	}
}

func testBubble(t *testing.T, extra []libp2p.Option) {
	twoHosts(t, extra, func(t *testing.T, a, b *Host) {
		began := time.Now()
		echo(t, a, b, b.Addrs()[0])
		if d := time.Since(began); d < 80*time.Millisecond || d > time.Second {
			t.Errorf("connecting took %s of virtual time", d)
		}
		time.Sleep(time.Minute)
		if in, _ := b.PeerCount(); in != 1 {
			t.Errorf("%d inbound peers after a minute", in)
		}
	})
}

// twoHosts runs f in a bubble with two hosts that answer echo.
func twoHosts(t *testing.T, extra []libp2p.Option, f func(t *testing.T, a, b *Host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(20 * time.Millisecond)}
		nw.Start()
		link := simnet.LinkSettings{BitsPerSecond: 50_000_000}
		start := func(ip string) *Host {
			h, err := New(Options{
				Key: newKey(t), Listen: []ma.Multiaddr{ma.StringCast("/ip4/" + ip + "/udp/8000/quic-v1")},
				Registerer: prometheus.NewRegistry(), UserAgent: "parley/" + ip,
				Extra: append(extra, simlibp2p.QUICSimnet(nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link})),
			})
			if err != nil {
				t.Fatal(err)
			}
			h.SetStreamHandler(echoProtocol, func(s network.Stream) {
				io.Copy(s, s)
				s.Close()
			})
			return h
		}
		a, b := start("1.1.0.1"), start("1.2.0.1")
		synctest.Wait()
		f(t, a, b)
		a.Close()
		b.Close()
		time.Sleep(time.Minute) // QUIC drains
		nw.Close()
	})
}

// onlyOurs leaves libp2p's metrics out, some of which break the pedantic rules.
type onlyOurs struct{ prometheus.Registerer }

func (r onlyOurs) Register(c prometheus.Collector) error {
	if _, ok := c.(*metrics); ok {
		return r.Registerer.Register(c)
	}
	return nil
}

// gather returns each series under its name and labels.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
