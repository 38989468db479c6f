package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// door opens inbound connections at the limits alone.
type door struct {
	t testing.TB
	network.ResourceManager
}

func newDoor(t testing.TB, maxPeers int) *door {
	t.Helper()
	m, err := newLimits(maxPeers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &door{t, m}
}

// come opens connections from addresses until one is refused, and tells how
// many came. With known, they finish their handshake.
func (d *door) come(known bool, quic bool, addr func(i int) string, most int) int {
	d.t.Helper()
	for i := range most {
		a := ma.StringCast(addr(i) + "/tcp/1")
		if quic {
			a = ma.StringCast(addr(i) + "/udp/1/quic-v1")
		}
		s, err := d.OpenConnection(network.DirInbound, !quic, a)
		if err != nil {
			return i
		}
		if !known {
			continue
		}
		if err := s.SetPeer(peer.ID(fmt.Sprint("peer of ", addr(i), i))); err != nil {
			s.Done()
			return i
		}
	}
	return most
}

// far are addresses each in a part of the network of its own.
func far(i int) string { return fmt.Sprintf("/ip4/%d.%d.1.1", 20+i/250, i%250) }

func near(i int) string { return fmt.Sprintf("/ip4/10.%d.1.1", i) }

// Each limit of connections is the only one that these addresses meet.
func TestConnectionLimits(t *testing.T) {
	for name, x := range map[string]struct {
		peers int
		known bool
		quic  bool
		addr  func(i int) string
		want  int
	}{
		"one /32":           {known: true, addr: func(int) string { return "/ip4/20.1.1.1" }, want: 8},
		"one /56":           {known: true, addr: func(i int) string { return fmt.Sprintf("/ip6/2606::%x", i+1) }, want: 8},
		"one of a site":     {known: true, addr: func(int) string { return "/ip4/10.1.1.1" }, want: 32},
		"all":               {peers: 10, known: true, addr: near, want: 202},
		"QUIC in handshake": {quic: true, addr: far, want: 32},
		"QUIC of one /16":   {quic: true, addr: func(i int) string { return fmt.Sprintf("/ip4/20.1.%d.1", i) }, want: 8},
		"QUIC, all":         {peers: 10, known: true, quic: true, addr: near, want: 202},
		"TCP in handshake":  {addr: near, want: 160},
		"one /16, a second": {known: true, addr: func(i int) string { return fmt.Sprintf("/ip4/20.1.%d.1", i) }, want: partBurst},
		"one /32 of IPv6":   {known: true, addr: func(i int) string { return fmt.Sprintf("/ip6/2606:0:%x::1", i+1) }, want: partBurst},
		"all, a second":     {peers: 500, known: true, addr: far, want: newConnsAtOnce + freshAtOnce},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if x.peers == 0 {
					x.peers = 100
				}
				d := newDoor(t, x.peers)
				defer d.Close()
				if got := d.come(x.known, x.quic, x.addr, 700); got != x.want {
					t.Errorf("%d came, want %d", got, x.want)
				}
			})
		})
	}
}

// The network of one /24 has 32 places and of one /48 64, however slowly they
// come.
func TestOneSite(t *testing.T) {
	for want, addr := range map[int]string{32: "/ip4/20.1.1.%d", 64: "/ip6/2606:0:0:%x00::1"} {
		synctest.Test(t, func(t *testing.T) {
			d := newDoor(t, 500)
			defer d.Close()
			n := 0
			for ; n < 100; n++ {
				time.Sleep(2 * time.Second)
				if d.come(true, false, func(int) string { return fmt.Sprintf(addr, n) }, 1) == 0 {
					break
				}
			}
			if n != want {
				t.Errorf("%d connections like "+addr+", want %d", n, 1, want)
			}
		})
	}
}

// A flood from 32 parts of the network takes nothing from the others, and what
// is remembered of it is bounded.
func TestFloodLeavesArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, start := newArrivals(), time.Now()
		flood, let := 0, 0
		for time.Since(start) < time.Minute {
			for range 20 { // 2,000 a second
				ip := netip.AddrFrom4([4]byte{20, byte(flood % 32), byte(flood >> 13), byte(flood >> 5)})
				if a.allow(ip, time.Now()) == nil {
					let++
				}
				flood++
			}
			time.Sleep(10 * time.Millisecond)
			if since := time.Since(start); since > 30*time.Second && since%time.Second == 0 {
				if err := a.allow(netip.AddrFrom4([4]byte{30, byte(since / time.Second), 1, 1}), time.Now()); err != nil {
					t.Fatalf("an honest one after %s: %v", since, err)
				}
			}
		}
		if most := 32 * (partBurst + 61*newConnsPerPart); let > most {
			t.Errorf("%d of %d got in, want at most %d", let, flood, most)
		}
	})
}

// A flood from so many parts that all arrivals are its own leaves a reserve to
// those from where nobody has come lately.
func TestFloodFromManyPartsLeavesArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, start := newArrivals(), time.Now()
		flood, let := 0, 0
		for time.Since(start) < 3*time.Minute {
			for range 20 { // 2,000 a second
				ip := netip.AddrFrom4([4]byte{byte(20 + flood%1024/256), byte(flood % 256), byte(flood >> 18), byte(flood >> 10)})
				if a.allow(ip, time.Now()) == nil {
					let++
				}
				flood++
			}
			time.Sleep(10 * time.Millisecond)
			if since := time.Since(start); since > 30*time.Second && since%time.Second == 0 {
				if err := a.allow(netip.AddrFrom4([4]byte{30, byte(since / time.Second), 1, 1}), time.Now()); err != nil {
					t.Fatalf("an honest one after %s: %v", since, err)
				}
			}
		}
		if most := newConnsAtOnce + freshAtOnce + 181*newConnsPerSec; let > most {
			t.Errorf("%d of %d got in, want at most %d", let, flood, most)
		}
		if len(a.came) > 1024+200 {
			t.Errorf("%d parts are remembered", len(a.came))
		}
		for i := range 2 * maxParts {
			a.first(netip.PrefixFrom(netip.AddrFrom4([4]byte{40, byte(i >> 16), byte(i >> 8), byte(i)}), 32), time.Now())
		}
		if len(a.came) != maxParts {
			t.Errorf("%d parts are remembered, want at most %d", len(a.came), maxParts)
		}
	})
}

// Under load an address of QUIC must prove itself, also one that is new.
func TestSourceIsVerified(t *testing.T) {
	udp := func(i int) net.Addr { return &net.UDPAddr{IP: net.IPv4(40, byte(i), 1, 1), Port: 1} }
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, 100)
		defer d.Close()
		if d.VerifySourceAddress(udp(0)) {
			t.Error("asked for a proof without need")
		}
		d.come(false, true, far, askSource)
		if !d.VerifySourceAddress(udp(1)) {
			t.Error("no proof with many handshakes under way")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, 500)
		defer d.Close()
		d.come(true, false, far, newConnsAtOnce)
		if !d.VerifySourceAddress(udp(1)) {
			t.Error("no proof after many arrivals")
		}
		time.Sleep(10 * time.Second)
		if d.VerifySourceAddress(udp(2)) {
			t.Error("asked for a proof when the flood is over")
		}
	})
}

// One peer has 256 inbound streams and 12 MiB, and what is left of the whole is
// enough for all others.
func TestStreamLimits(t *testing.T) {
	d := newDoor(t, 4)
	defer d.Close()
	streams := func(p peer.ID) (n int) {
		for ; n <= peerStreams; n++ {
			if _, err := d.OpenStream(p, network.DirInbound); err != nil {
				break
			}
		}
		return n
	}
	memory := func(p peer.ID) (n int) {
		err := d.ViewPeer(p, func(s network.PeerScope) error {
			for ; s.ReserveMemory(256<<10, network.ReservationPriorityAlways) == nil; n++ {
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 4 + hardCapSlack {
		p := peer.ID(fmt.Sprint(i))
		if n := streams(p); n != peerStreams {
			t.Errorf("peer %d: %d streams, want %d", i, n, peerStreams)
		}
		if n := memory(p); n != peerMemory/(256<<10) {
			t.Errorf("peer %d: %d windows, want %d", i, n, peerMemory/(256<<10))
		}
	}
}

func parted(ip string) *fakeConn { return &fakeConn{ip: net.ParseIP(ip)} }

type fakeConn struct {
	net.Conn
	ip net.IP
}

func (c *fakeConn) addr() netip.Addr { return addrOf(c.RemoteAddr()) }

func (c *fakeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.ip, Port: 1} }

// Of a full crowd the oldest of the largest part goes; one part of its own
// stays.
func TestCrowd(t *testing.T) {
	c := newCrowd(6)
	alone, first := parted("30.1.1.1"), parted("20.1.1.1")
	c.add(alone)
	place, _ := c.add(first)
	for i := range 4 {
		c.add(parted(fmt.Sprintf("20.1.%d.2", i)))
	}
	if _, out := c.add(parted("20.1.9.9")); out != first {
		t.Errorf("%v goes, want the oldest of the largest part", out)
	}
	c.remove(place) // it went already
	if c.list.Len() != 6 {
		t.Errorf("%d members, want 6", c.list.Len())
	}
	for i := range 100 {
		if _, out := c.add(parted(fmt.Sprintf("20.1.8.%d", i))); out == alone {
			t.Fatal("the one from elsewhere goes")
		}
	}
	for e := c.list.Front(); e != nil; e = c.list.Front() {
		c.remove(e)
	}
	if c.failed.Of(partOf(first.addr())) == 0 || len(c.parts) != 0 {
		t.Errorf("the part that failed is forgotten, or parts are left: %v", c.parts)
	}
	one := newCrowd(2) // behind one private network each address is a part
	one.add(parted("10.0.0.1"))
	one.add(parted("10.0.0.2"))
	if _, out := one.add(parted("10.0.0.2")); out.(*fakeConn).ip.String() != "10.0.0.1" {
		t.Errorf("%v goes, want the oldest", out)
	}
}

// A flood of one connection each from many parts is told from one that is here
// for the first time, by those that it lost before.
func TestCrowdOfManyParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(6)
		flood := func(n int) (out []net.Conn) {
			for i := range n {
				_, o := c.add(parted(fmt.Sprintf("20.%d.1.1", i%40)))
				out = append(out, o)
				time.Sleep(10 * time.Millisecond)
			}
			return out
		}
		flood(80)
		alone := parted("30.1.1.1")
		place, _ := c.add(alone)
		if slices.Contains(flood(200), net.Conn(alone)) {
			t.Error("the one that is here for the first time goes")
		}
		if !c.remove(place) || c.remove(place) {
			t.Error("it is removed never, or twice")
		}
		for range 3 {
			flood(maxFailed)
		}
		if c.failed.Len() > maxFailed {
			t.Errorf("%d failures are kept", c.failed.Len())
		}
		time.Sleep(failedFor + time.Second)
		if flood(1); c.failed.Len() > 1 {
			t.Errorf("%d failures are kept for ever", c.failed.Len())
		}
	})
}

// Strangers that begin no handshake are closed when others come, and after
// lobbyTime, and an honest host comes in at once.
func TestSlowHandshakes(t *testing.T) {
	var told atomic.Int64
	h := newHost(t, Options{Refused: func(ma.Multiaddr, string) { told.Add(1) }}, "/ip4/127.0.0.1/tcp/0")
	addr := h.Network().ListenAddresses()[0]
	tcp, err := manet.ToNetAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		c, err := net.Dial(tcp.Network(), tcp.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	start := time.Now()
	var slow []net.Conn
	for range maxLobby + 40 {
		slow = append(slow, dial())
	}
	echo(t, newHost(t, Options{}), h, addr)
	if took := time.Since(start); took > lobbyTime-time.Second {
		t.Skipf("the machine is too slow for this test: %s", took)
	}
	for i, c := range slow[:40] {
		_ = c.SetReadDeadline(start.Add(lobbyTime - 500*time.Millisecond))
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Fatalf("connection %d still holds a place", i)
		}
	}
	for i, c := range slow[40:] {
		_ = c.SetReadDeadline(start.Add(lobbyTime + 5*time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Fatalf("connection %d is not closed in time", 40+i)
		}
	}
	if took := time.Since(start); took < lobbyTime-500*time.Millisecond {
		t.Errorf("all were closed after %s, want %s", took, lobbyTime)
	}
	if n := told.Load(); n != maxLobby+40 {
		t.Errorf("told of %d, want of all %d", n, maxLobby+40)
	}
	// Who came in has no place in the lobby any more.
	guest := newHost(t, Options{})
	c := echo(t, guest, h, addr)
	select {
	case <-time.After(lobbyTime + 200*time.Millisecond):
	case <-t.Context().Done():
	}
	if c.IsClosed() {
		t.Error("a connection that finished its handshake was closed as a slow one")
	}
}

// One that does not finish must not be served, whatever its first bytes are.
func TestHalfHandshake(t *testing.T) {
	h := newHost(t, Options{Websocket: true}, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
	for _, addr := range h.Network().ListenAddresses() {
		tcp, err := manet.ToNetAddr(addr.Decapsulate(ma.StringCast("/ws")))
		if err != nil {
			tcp, err = manet.ToNetAddr(addr)
		}
		if err != nil {
			t.Fatal(err)
		}
		d := net.Dialer{}
		c, err := d.DialContext(context.Background(), tcp.Network(), tcp.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("\x13/multistream/1.0.0\n")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = c.SetReadDeadline(start.Add(3 * lobbyTime))
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Errorf("%s: a half handshake is open after %s", addr, time.Since(start))
		}
		if took := time.Since(start); took > lobbyTime+3*time.Second {
			t.Errorf("%s: a half handshake was closed after %s, want %s", addr, took, lobbyTime)
		}
	}
}
