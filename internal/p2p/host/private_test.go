package host

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	libhost "github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ws "github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
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
	a.Peerstore().AddAddr(b.ID(), addr, peerstore.PermanentAddrTTL) // identify takes those of Connect away when it hears late that the connection before is closed
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
			return nets[i].SetKeys(sharedKeys(t, keys...))
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
	private.SetKeys(sharedKeys(t, pskB, pskA))
	if err := try(t, behind, ours, ours.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	a := sharedKeys(t, pskA)[0]
	old := ours.OldKeyPeers()
	if len(old) != 2 || !slices.Contains(old, OldKeyPeer{stays.ID(), a, false}) || !slices.Contains(old, OldKeyPeer{behind.ID(), a, true}) {
		t.Errorf("on the old key: %+v", old)
	}
	if n := private.SetKeys(sharedKeys(t, pskB)); n != 2 {
		t.Errorf("closed %d connections, want 2", n)
	}
	wait(t, "both are gone", func() bool { return len(ours.Network().Peers()) == 0 })
	if err := try(t, behind, ours, ours.Addrs()[0]); err == nil {
		t.Error("a removed key still enters")
	}
	private.SetKeys(nil) // a private network has a key
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
