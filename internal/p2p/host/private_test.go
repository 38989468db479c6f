package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/davidlazar/go-crypto/salsa20"
	"github.com/libp2p/go-libp2p"
	libhost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	libpnet "github.com/libp2p/go-libp2p/p2p/net/pnet"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ws "github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func newPrivate(t testing.TB, keys ...string) *PrivateNetwork {
	t.Helper()
	n, err := NewPrivateNetwork(sharedKeys(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// newStock starts libp2p as it comes, with its own private network of one key;
// without one where psk is empty.
func newStock(t testing.TB, psk string, listen ...string) libhost.Host {
	t.Helper()
	opts := []libp2p.Option{libp2p.ListenAddrStrings(listen...), libp2p.Transport(tcp.NewTCPTransport), libp2p.Transport(ws.New), libp2p.DisableRelay()}
	if psk != "" {
		k := sharedKeys(t, psk)[0]
		opts = append(opts, libp2p.PrivateNetwork(pnet.PSK(k[:])))
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler(echoProtocol, func(s network.Stream) {
		io.Copy(s, s)
		s.Close()
	})
	return h
}

// try connects a to b at addr anew and sends a word there and back.
func try(t testing.TB, a, b libhost.Host, addr ma.Multiaddr) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a.Network().ClosePeer(b.ID())
	a.Peerstore().ClearAddrs(b.ID())
	a.Network().(*swarm.Swarm).Backoff().Clear(b.ID())
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		return err
	}
	s, err := a.NewStream(ctx, b.ID(), echoProtocol)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Write([]byte("parley")); err != nil {
		return err
	}
	s.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "parley" {
		return errors.Join(errors.New("no echo"), err)
	}
	return nil
}

// Stock nodes with the old or the new key meet ours, both ways, on TCP, on the
// port of the API and on WebSocket; and no others do.
func TestPrivateNetworkWithStockNodes(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	api := listenTCP(t)
	told := make(chan struct{}, 16)
	private := newPrivate(t, pskB, pskA)
	ours := newHost(t, Options{Private: private, Websocket: true, APIListener: api, Registerer: onlyOurs{reg}, Keyless: func(ma.Multiaddr, string) { told <- struct{}{} }},
		"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
	addrs := ours.Network().ListenAddresses()
	if len(addrs) != 3 {
		t.Fatalf("listening on %s", addrs)
	}
	listen := []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"}
	old, fresh := newStock(t, pskA, listen...), newStock(t, pskB, listen...)
	for _, addr := range addrs {
		for name, stock := range map[string]libhost.Host{"old": old, "new": fresh} {
			if err := try(t, stock, ours, addr); err != nil {
				t.Errorf("with the %s key to %s: %v", name, addr, err)
			}
			stock.Network().ClosePeer(ours.ID())
		}
	}
	for _, addr := range fresh.Network().ListenAddresses() {
		if err := try(t, ours, fresh, addr); err != nil {
			t.Errorf("to the new key at %s: %v", addr, err)
		}
		ours.Network().ClosePeer(fresh.ID())
	}
	if err := try(t, ours, old, old.Network().ListenAddresses()[0]); !errors.Is(err, errWrongKey) {
		t.Errorf("the first key dials, but to a node with the other one: %v", err)
	}
	other := "2222222222222222222222222222222222222222222222222222222222222222"
	for name, stock := range map[string]libhost.Host{"a wrong key": newStock(t, other), "no key": newStock(t, "")} {
		for _, addr := range addrs {
			if err := try(t, stock, ours, addr); err == nil {
				t.Errorf("with %s to %s: connected", name, addr)
			}
		}
	}
	if in, out := ours.PeerCount(); in != 0 || out != 0 {
		t.Errorf("%d and %d peers", in, out)
	}
	for i := range 6 { // the dialler may know before we do
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of 6 refused connections were told", i)
		}
	}
	got := gather(t, reg)
	if tcp, ws := got["parley_host_connections_total inbound keyless tcp"], got["parley_host_connections_total inbound keyless ws"]; tcp != 4 || ws != 2 || len(told) != 0 {
		t.Errorf("%v and %v refused connections are counted and %d more told, want 4, 2, 0", tcp, ws, len(told))
	}
	var whys []string
	for _, r := range private.Refused() {
		whys = append(whys, r.Why)
	}
	slices.Sort(whys)
	if want := append(slices.Repeat([]string{string(errWrongKey)}, 3), slices.Repeat([]string{string(errNoKey)}, 3)...); !slices.Equal(whys, want) {
		t.Errorf("refused: %q", whys)
	}
}

// A dial that meets another network tells so.
func TestPrivateNetworkDials(t *testing.T) {
	ours := newHost(t, Options{Private: newPrivate(t, pskA)})
	theirs := newHost(t, Options{Private: newPrivate(t, pskB)}, "/ip4/127.0.0.1/tcp/0")
	if err := try(t, ours, theirs, theirs.Addrs()[0]); !errors.Is(err, errSilent) {
		t.Errorf("to a node of ours with another key: %v", err)
	}
	open := newHost(t, Options{}, "/ip4/127.0.0.1/tcp/0")
	err := try(t, ours, open, open.Addrs()[0])
	if err == nil {
		t.Error("connected to an open node")
	}
}

// The three steps of a rotation, one node after the other: at each moment each
// node can dial each other one, and no connection that stands is cut before its
// key is gone.
func TestKeyRotation(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("steps", func(t *testing.T) {
		var nets []*PrivateNetwork
		var hosts []*Host
		for range 3 {
			n := newPrivate(t, pskA)
			nets = append(nets, n)
			hosts = append(hosts, newHost(t, Options{Private: n}, "/ip4/127.0.0.1/tcp/0"))
		}
		all := func(when string) {
			t.Helper()
			for i, a := range hosts {
				for j, b := range hosts {
					if i == j {
						continue
					}
					if err := try(t, a, b, b.Addrs()[0]); err != nil {
						t.Errorf("%s: %d to %d: %v", when, i, j, err)
					}
				}
			}
		}
		set := func(i int, keys ...string) int {
			t.Helper()
			closed, err := nets[i].SetKeys(sharedKeys(t, keys...))
			if err != nil {
				t.Fatal(err)
			}
			return closed
		}
		all("before")
		stands := echo(t, hosts[0], hosts[1], hosts[1].Addrs()[0])
		for i := range hosts {
			if n := set(i, pskA, pskB); n != 0 {
				t.Errorf("step 1 closed %d connections", n)
			}
			if stands.IsClosed() {
				t.Error("step 1 cut a connection")
			}
			all("step 1")
			stands = echo(t, hosts[0], hosts[1], hosts[1].Addrs()[0])
		}
		for i := range hosts {
			if n := set(i, pskB, pskA); n != 0 {
				t.Errorf("step 2 closed %d connections", n)
			}
			if stands.IsClosed() {
				t.Error("step 2 cut a connection")
			}
			all("step 2")
			stands = echo(t, hosts[0], hosts[1], hosts[1].Addrs()[0])
		}
		for i := range hosts {
			if n := set(i, pskB); n != 0 {
				t.Errorf("step 3 closed %d connections, and all were made anew under the new key", n)
			}
			all("step 3")
		}
	})
	goleak.VerifyNone(t, before)
}

// Who is on an old key is told, and whether it still dials with it; its removal
// closes the connection.
func TestOldKeys(t *testing.T) {
	private := newPrivate(t, pskA, pskB)
	ours := newHost(t, Options{Private: private}, "/ip4/127.0.0.1/tcp/0")
	stays, behind := newHost(t, Options{Private: newPrivate(t, pskA, pskB)}), newStock(t, pskA)
	if err := try(t, stays, ours, ours.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	if old := ours.OldKeyPeers(); len(old) != 0 {
		t.Errorf("on an old key: %v", old)
	}
	if _, err := private.SetKeys(sharedKeys(t, pskB, pskA)); err != nil {
		t.Fatal(err)
	}
	if err := try(t, behind, ours, ours.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	a := sharedKeys(t, pskA)[0]
	old := ours.OldKeyPeers()
	if len(old) != 2 || !slices.Contains(old, OldKeyPeer{stays.ID(), a, false}) || !slices.Contains(old, OldKeyPeer{behind.ID(), a, true}) {
		t.Errorf("on the old key: %+v", old)
	}
	if n, err := private.SetKeys(sharedKeys(t, pskB)); n != 2 || err != nil {
		t.Errorf("closed %d connections, %v; want 2", n, err)
	}
	wait(t, "both are gone", func() bool { return len(ours.Network().Peers()) == 0 })
	if err := try(t, behind, ours, ours.Addrs()[0]); err == nil {
		t.Error("a removed key still enters")
	}
	if _, err := private.SetKeys(nil); err == nil {
		t.Error("a private network without a key")
	}
	if keys := private.Keys(); !slices.Equal(keys, sharedKeys(t, pskB)) {
		t.Errorf("keys %s", keys)
	}
	private.mu.Lock()
	defer private.mu.Unlock()
	if len(private.conns) != 0 {
		t.Errorf("%d connections are still noted", len(private.conns))
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// The API answers on the shared port as ever, beside peers whose first bytes
// are noise.
func TestPrivateNetworkOnTheAPIPort(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		api := listenTCP(t)
		h := newHost(t, Options{APIListener: api, Private: newPrivate(t, pskA)})
		serveAPI(t, h, useTLS)
		a := newHost(t, Options{Private: newPrivate(t, pskA)})
		for range 20 {
			if err := try(t, a, h, h.Network().ListenAddresses()[0]); err != nil {
				t.Fatal(err)
			}
		}
		protocols, scheme := []string{"http", "h2c"}, "http://"
		if useTLS {
			protocols, scheme = []string{"tls"}, "https://"
		}
		for _, protocol := range protocols {
			if got, err := request(scheme+api.Addr().String(), protocol); err != nil || !strings.HasSuffix(got, " POST body") {
				t.Errorf("%s: %q, %v", protocol, got, err)
			}
		}
	}
}

// Nothing is written to who proves no key: neither to noise nor to silence,
// which ends after five seconds.
func TestFenceIsSilent(t *testing.T) {
	for name, c := range map[string]struct {
		send string
		want error
		end  time.Duration
	}{
		"noise":         {strings.Repeat("x", 100), errWrongKey, 0},
		"plain":         {greeting + "\x0b/tls/1.0.0\n", errNoKey, 0},
		"half a proof":  {strings.Repeat("x", probeSize-1), errLate, probeTime},
		"a plain begin": {greeting[:10], errLate, probeTime},
		"silence":       {"", errLate, probeTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				n := newPrivate(t, pskA)
				f := n.wrap(pipeConn{here}, network.DirInbound)
				began := time.Now()
				errs := make(chan error, 2)
				go func() {
					_, err := f.Read(make([]byte, 1))
					errs <- err
				}()
				go func() {
					_, err := f.Write([]byte("secret"))
					errs <- err
				}()
				go there.Write([]byte(c.send))
				got, _ := io.ReadAll(there)
				if len(got) != 0 || time.Since(began) != c.end {
					t.Errorf("%q was written, closed after %s; want nothing after %s", got, time.Since(began), c.end)
				}
				for range 2 {
					if err := <-errs; !errors.Is(err, c.want) {
						t.Errorf("%v, want %v", err, c.want)
					}
				}
				if r := n.Refused(); len(r) != 1 || r[0].Why != c.want.Error() {
					t.Errorf("refused: %v", r)
				}
				time.Sleep(refusedFor + time.Second)
				if r := n.Refused(); len(r) != 0 {
					t.Errorf("still remembered: %v", r)
				}
				there.Close()
			})
		})
	}
}

// Both sides understand libp2p's own cipher, in pieces of any size.
func TestFenceSpeaksPNet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := sharedKeys(t, pskB)[0]
		for _, dir := range []network.Direction{network.DirInbound, network.DirOutbound} {
			here, there := net.Pipe()
			f := newPrivate(t, pskB).wrap(pipeConn{here}, dir)
			stock, err := libpnet.NewProtectedConn(key[:], there)
			if err != nil {
				t.Fatal(err)
			}
			text := greeting + strings.Repeat("0123456789", 10_000)
			go func() {
				for b := range slices.Chunk([]byte(text), 7) {
					stock.Write(b)
				}
			}()
			got := make([]byte, len(text))
			if _, err := io.ReadFull(f, got); err != nil || string(got) != text {
				t.Errorf("%s: read %d bytes, %v", dir, len(got), err)
			}
			go func() {
				for b := range slices.Chunk([]byte(text), 40_000) { // more than a buffer
					kept := bytes.Clone(b)
					if n, err := f.Write(b); n != len(b) || err != nil || !bytes.Equal(b, kept) {
						t.Errorf("%s: wrote %d bytes of %d, %v", dir, n, len(b), err)
					}
				}
			}()
			if _, err := io.ReadFull(stock, got); err != nil || string(got) != text {
				t.Errorf("%s: the other side read %v", dir, err)
			}
			f.Close()
			there.Close()
		}
	})
}

// pipeConn is a net.Pipe with addresses.
type pipeConn struct{ net.Conn }

var pipeAddr = ma.StringCast("/ip4/192.0.2.1/tcp/1")

func (pipeConn) LocalMultiaddr() ma.Multiaddr  { return pipeAddr }
func (pipeConn) RemoteMultiaddr() ma.Multiaddr { return pipeAddr }

// What libp2p asks of a TCP connection, it can ask of one below a key.
func TestFencePassesOn(t *testing.T) {
	l := listenTCP(t)
	defer l.Close()
	c, err := manet.Dial(ma.StringCast("/ip4/127.0.0.1/tcp/" + strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := newPrivate(t, pskA)
	f := n.wrap(c, network.DirOutbound)
	if err := errors.Join(f.SetKeepAlive(true), f.SetKeepAlivePeriod(time.Minute), f.SetLinger(0)); err != nil {
		t.Error(err)
	}
	var _ network.ConnStat = f
	bare := n.wrap(pipeConn{c}, network.DirOutbound)
	if !errors.Is(bare.SetLinger(0), errors.ErrUnsupported) || bare.Stat().Direction != network.DirUnknown {
		t.Error("a connection that has no such knob turned it")
	}
	var _ transport.Upgrader = &fence{}
}

// A node of a private network logs nothing by itself either.
func TestPrivateNetworkLogsNothing(t *testing.T) {
	var out safeBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a := newHost(t, Options{Log: log, Private: newPrivate(t, pskA)})
	b := newHost(t, Options{Log: log, Private: newPrivate(t, pskA), APIListener: listenTCP(t)}, "/ip4/127.0.0.1/tcp/0")
	for _, addr := range b.Network().ListenAddresses() {
		if err := try(t, a, b, addr); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	b.Close()
	for l := range strings.Lines(out.String()) {
		if strings.Contains(l, "keepalive") || strings.Contains(l, "linger") || strings.Contains(l, "level=INFO") || strings.Contains(l, "level=WARN") || strings.Contains(l, "level=ERROR") {
			t.Error(l)
		}
	}
}

// The environment's demand for a private network is met by our key, which the
// library does not see.
func TestForcedPrivateNetwork(t *testing.T) {
	pnet.ForcePrivateNetwork = true
	defer func() { pnet.ForcePrivateNetwork = false }()
	if _, err := New(Options{Key: newKey(t)}); !errors.Is(err, ErrForcedPrivate) {
		t.Errorf("without a key: %v", err)
	}
	a := newHost(t, Options{Private: newPrivate(t, pskA)})
	b := newHost(t, Options{Private: newPrivate(t, pskA)}, "/ip4/127.0.0.1/tcp/0")
	if err := try(t, a, b, b.Addrs()[0]); err != nil {
		t.Error(err)
	}
}

// Noise goes to libp2p; nonces of ours are never among the few that begin as
// HTTP or TLS do.
func TestNonces(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	s := &sorter{http: newQueue(nil), p2p: []*p2pListener{{queue: newQueue(nil)}}}
	for range 10_000 {
		if b := newNonce(); s.queue(here, [3]byte(b[:3])) != s.p2p[0].queue {
			t.Fatalf("%x is taken for the API's", b[:3])
		}
	}
	for _, head := range []string{"GET", "PRI", "\x16\x03\x01"} {
		if !looksLikeAPI([]byte(head+"xxx")) || s.queue(here, [3]byte([]byte(head))) != s.http {
			t.Errorf("%q goes to libp2p", head)
		}
	}
}

func FuzzProbe(f *testing.F) {
	good := make([]byte, probeSize)
	copy(good[nonceSize:], greeting)
	k := sharedKeys(f, pskB)[0]
	salsa20.New((*[32]byte)(&k), good[:nonceSize]).XORKeyStream(good[nonceSize:], good[nonceSize:])
	f.Add(good)
	f.Add([]byte(greeting + "\x0b/tls/1.0.0\n/////////////"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := newPrivate(t, pskA, pskB)
		c := n.wrap(pipeConn{replay{bytes.NewReader(b)}}, network.DirInbound)
		got := make([]byte, len(greeting))
		_, err := io.ReadFull(c, got)
		proven := false // to the library
		for _, k := range n.Keys() {
			plain, perr := libpnet.NewProtectedConn(k[:], replay{bytes.NewReader(b)})
			if perr != nil {
				t.Fatal(perr)
			}
			text := make([]byte, len(greeting))
			_, perr = io.ReadFull(plain, text)
			proven = proven || perr == nil && string(text) == greeting
		}
		if (err == nil) != proven || proven && string(got) != greeting {
			t.Fatalf("%x: %q, %v; proven to the library: %v", b, got, err, proven)
		}
		c.Close()
	})
}

func BenchmarkFence(b *testing.B) {
	n := newPrivate(b, pskA)
	c := n.wrap(pipeConn{discard{}}, network.DirOutbound)
	p := make([]byte, 16<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// discard is a connection that takes everything.
type discard struct{ replay }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// replay is a connection that only reads.
type replay struct{ io.Reader }

func (replay) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (replay) Close() error                     { return nil }
func (replay) LocalAddr() net.Addr              { return nil }
func (replay) RemoteAddr() net.Addr             { return nil }
func (replay) SetDeadline(time.Time) error      { return nil }
func (replay) SetReadDeadline(time.Time) error  { return nil }
func (replay) SetWriteDeadline(time.Time) error { return nil }
