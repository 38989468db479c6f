package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
)

// Else the library reads one packet at a time, and neither segments nor ECN.
var (
	_ quic.OOBCapablePacketConn = (*udpSocket)(nil)
	_ interface {
		ReadBatch(ms []ipv4.Message, flags int) (int, error)
		SetWriteBuffer(n int) error
	} = (*udpSocket)(nil)
)

// outlaws are the addresses that a host bans.
type outlaws struct {
	mu   sync.Mutex
	ips  map[netip.Addr]bool
	told []string
}

func (o *outlaws) set(ip string, banned bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ips[netip.MustParseAddr(ip)] = banned
}

func (o *outlaws) is(ip netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ips[ip]
}

func (o *outlaws) refuse(remote ma.Multiaddr) bool {
	if !o.is(remoteIP(remote)) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, remoteIP(remote).String())
	return true
}

func (o *outlaws) refusals() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.told)
}

func (o *outlaws) turnstile() *turnstile {
	return newTurnstile(o.is, o.refuse, prometheus.NewCounter(prometheus.CounterOpts{}))
}

func (o *outlaws) options() Options { return Options{Banned: o.refuse, BannedIP: o.is} }

// knockAt tries a bare QUIC handshake.
func knockAt(t *testing.T, from string, at ma.Multiaddr) error {
	t.Helper()
	ip, _ := at.ValueForProtocol(ma.P_IP4)
	if ip == "" {
		ip, _ = at.ValueForProtocol(ma.P_IP6)
	}
	port, _ := at.ValueForProtocol(ma.P_UDP)
	to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(ip, port))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := quic.Dial(ctx, conn, to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"libp2p"}}, nil)
	if err == nil {
		_ = c.CloseWithError(0, "")
	}
	return err
}

func isRefused(err error) bool {
	e, ok := errors.AsType[*quic.TransportError](err)
	return ok && e.Remote && e.ErrorCode == quic.ConnectionRefused
}

// A banned address is refused over real sockets of both families, on a wildcard
// too, with one refusal told for each attempt, and is let in at once afterwards.
func TestBannedOverQUIC(t *testing.T) {
	for _, tt := range []struct{ listen, at, from string }{
		{"127.0.0.1", "127.0.0.1", "127.0.0.2"},
		{"0.0.0.0", "127.0.0.9", "127.0.0.2"},
		{"::1", "::1", "::1"},
		{"::", "::1", "::1"},
	} {
		family := "ip4"
		if netip.MustParseAddr(tt.at).Is6() {
			family = "ip6"
			if l, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
				t.Logf("no IPv6: %v", err)
				continue
			} else {
				l.Close()
			}
		}
		o, reg := &outlaws{ips: map[netip.Addr]bool{}}, prometheus.NewRegistry()
		with := o.options()
		with.Registerer = reg
		h := newHost(t, with, fmt.Sprintf("/%s/%s/udp/0/quic-v1", family, tt.listen))
		port, _ := h.Network().ListenAddresses()[0].ValueForProtocol(ma.P_UDP)
		at := ma.StringCast(fmt.Sprintf("/%s/%s/udp/%s/quic-v1", family, tt.at, port))
		o.set(tt.from, true)
		for n := range 3 {
			if err := knockAt(t, tt.from, at); !isRefused(err) {
				t.Errorf("%s on %s: %v, want a refusal", tt.from, tt.listen, err)
			}
			if got := o.refusals(); got != n+1 {
				t.Errorf("%s on %s: %d refusals are told after %d attempts", tt.from, tt.listen, got, n+1)
			}
		}
		counts := gather(t, reg)
		if n := counts["parley_host_connections_total inbound refused quic-v1"]; n != 3 {
			t.Errorf("%s on %s: %v refused connections are counted after 3 attempts", tt.from, tt.listen, n)
		}
		if n := counts["parley_host_unread_packets_total"]; n < 3 {
			t.Errorf("%s on %s: %v unread packets are counted after 3 attempts", tt.from, tt.listen, n)
		}
		o.set(tt.from, false)
		if err := knockAt(t, tt.from, at); isRefused(err) {
			t.Errorf("%s on %s, when the ban is lifted: %v", tt.from, tt.listen, err)
		}
		if got := o.refusals(); got != 3 {
			t.Errorf("%s on %s: %d refusals are told, 3 before", tt.from, tt.listen, got)
		}
	}
}

// The packets of a banned address between those of others, in one batch: the
// others' come out whole and in order, each with its own control messages.
func TestBatchWithBanned(t *testing.T) {
	o := &outlaws{ips: map[netip.Addr]bool{netip.MustParseAddr("127.0.0.2"): true}}
	inner, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	s := o.turnstile().socket(inner).(*udpSocket)
	defer s.Close()
	if err := s.batch.SetControlMessage(ipv4.FlagDst, true); err != nil {
		t.Skipf("no control messages here: %v", err)
	}
	socketAt := func(ip string) *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(ip)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	banned, other := socketAt("127.0.0.2"), socketAt("127.0.0.3")
	port := s.LocalAddr().(*net.UDPAddr).Port
	send := func(c *net.UDPConn, to byte, text string) {
		if _, err := c.WriteTo([]byte(text), &net.UDPAddr{IP: net.IPv4(127, 0, 0, to), Port: port}); err != nil {
			t.Fatal(err)
		}
	}
	const rounds = 50
	for n := range rounds {
		send(banned, 7, "an outlaw's, and longer than the other one")
		send(banned, 7, "")
		send(other, byte(10+n%3), fmt.Sprint("honest ", n))
	}
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1500)}, make([]byte, 128)
	}
	for got := 0; got < rounds; {
		_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := s.ReadBatch(ms, 0)
		if err != nil || n == 0 {
			t.Fatalf("%d of %d come out: %d, %v", got, rounds, n, err)
		}
		for _, m := range ms[:n] {
			var c ipv4.ControlMessage
			if err := c.Parse(m.OOB[:m.NN]); err != nil {
				t.Fatal(err)
			}
			text, from := string(m.Buffers[0][:m.N]), m.Addr.(*net.UDPAddr).IP.String()
			if text != fmt.Sprint("honest ", got) || from != "127.0.0.3" || !c.Dst.Equal(net.IPv4(127, 0, 0, byte(10+got%3))) {
				t.Fatalf("%q from %s to %s at place %d", text, from, c.Dst, got)
			}
			got++
		}
	}
	if o.refusals() != 0 {
		t.Errorf("%d refusals are told of packets that ask for nothing", o.refusals())
	}
	var p [64]byte
	send(banned, 7, "x")
	send(other, 7, "y")
	if n, _, err := s.ReadFrom(p[:]); err != nil || string(p[:n]) != "y" {
		t.Errorf("ReadFrom: %q, %v", p[:n], err)
	}
}

// An answer leaves from the address that was asked.
func TestAnswerComesFromWhereItWasAsked(t *testing.T) {
	o := &outlaws{ips: map[netip.Addr]bool{netip.MustParseAddr("127.0.0.2"): true}}
	h := newHost(t, o.options(), "/ip4/0.0.0.0/udp/0/quic-v1")
	port := h.Network().ListenAddresses()[0]
	text, _ := port.ValueForProtocol(ma.P_UDP)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to, _ := net.ResolveUDPAddr("udp4", "127.0.0.77:"+text)
	if _, err := c.WriteTo(clientInitial(8, 4), to); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1500)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, from, err := c.ReadFrom(p); err != nil || from.String() != to.String() {
		t.Errorf("the answer comes from %v, %v; want %s", from, err, to)
	}
}

// Who is banned while it is connected can be told why, hears the close though
// its first copy is lost, and then nothing; all of it as before when the ban is
// lifted. A peer that we dialled is no exception.
func TestBannedWhileConnected(t *testing.T) {
	for _, dials := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { testBannedWhileConnected(t, dials) })
	}
}

func testBannedWhileConnected(t *testing.T, weDial bool) {
	const outlaw = "1.2.0.1"
	nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(20 * time.Millisecond)}
	nw.Start()
	link := simnet.LinkSettings{BitsPerSecond: 50_000_000}
	var deaf atomic.Bool // a's packets are lost
	start := func(ip string, o Options) *Host {
		o.Key, o.Listen, o.QUICOnly = newKey(t), []ma.Multiaddr{ma.StringCast("/ip4/" + ip + "/udp/8000/quic-v1")}, true
		o.ListenUDP = func(_ string, at *net.UDPAddr) (net.PacketConn, error) {
			c := nw.NewEndpoint(at, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link})
			if ip == outlaw {
				return c, nil
			}
			return &lossy{c, &deaf}, nil
		}
		h, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		h.SetStreamHandler(echoProtocol, func(s network.Stream) {
			io.Copy(s, s)
			s.Close()
		})
		return h
	}
	o := &outlaws{ips: map[netip.Addr]bool{}}
	a, b := start("1.1.0.1", o.options()), start(outlaw, Options{})
	synctest.Wait()
	if weDial {
		echo(t, a, b, b.Addrs()[0])
	} else {
		echo(t, b, a, a.Addrs()[0])
	}
	o.set(outlaw, true)
	echo(t, a, b, b.Addrs()[0]) // the connection stands
	if o.refusals() != 0 {
		t.Error("a connection that stands is refused")
	}

	deaf.Store(true)
	if err := a.Network().ClosePeer(b.ID()); err != nil {
		t.Fatal(err)
	}
	deaf.Store(false)
	send := func() error { // one packet of b, if it has a connection
		s, err := b.NewStream(network.WithNoDial(t.Context(), "test"), a.ID(), echoProtocol)
		if err == nil {
			_, err = s.Write([]byte("x"))
			_ = s.Reset()
		}
		return err
	}
	if err := send(); err != nil {
		t.Fatalf("the close was to be lost: %v", err)
	}
	time.Sleep(time.Second)
	if n := len(b.Network().ConnsToPeer(a.ID())); n != 0 {
		t.Errorf("%d connections stand a second after the second close", n)
	}
	time.Sleep(lingers)
	comes := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return b.Connect(network.WithForceDirectDial(ctx, "test"), peer.AddrInfo{ID: a.ID(), Addrs: a.Addrs()})
	}
	begin := time.Now()
	if err := comes(); err == nil || o.refusals() == 0 || time.Since(begin) > time.Second {
		t.Errorf("it comes again: %v, %d refusals are told, after %s", err, o.refusals(), time.Since(begin))
	}
	o.set(outlaw, false)
	if err := comes(); err != nil {
		t.Errorf("the ban is lifted: %v", err)
	}
	a.Close()
	b.Close()
	time.Sleep(time.Minute) // QUIC drains
	nw.Close()
}

// lossy is a socket that sends nothing while deaf is set.
type lossy struct {
	*simnet.SimConn
	deaf *atomic.Bool
}

func (l *lossy) WriteTo(p []byte, to net.Addr) (int, error) {
	if l.deaf.Load() {
		return len(p), nil
	}
	return l.SimConn.WriteTo(p, to)
}

// A flood from a banned address hears a bounded number of answers, and each
// attempt of it is told.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &outlaws{ips: map[netip.Addr]bool{netip.MustParseAddr("1.2.0.1"): true}}
		d := o.turnstile()
		from := &net.UDPAddr{IP: net.IPv4(1, 2, 0, 1), Port: 1}
		answers := 0
		attempt := func(n int) {
			p := clientInitial(8, 4)
			p[6], p[7] = byte(n), byte(n>>8)
			for range 2 { // a client hello takes two packets
				if d.refuse(p, from) != nil {
					answers++
				}
			}
		}
		for n := range 5 * maxAnswers {
			attempt(n)
		}
		if answers != maxAnswers || o.refusals() != 5*maxAnswers {
			t.Errorf("%d answers and %d refusals, want %d and %d", answers, o.refusals(), maxAnswers, 5*maxAnswers)
		}
		time.Sleep(10 * time.Second)
		for n := range 3 { // one attempt goes on: its answer was lost
			attempt(0)
			time.Sleep(oneAttempt)
			if answers != maxAnswers+n+1 {
				t.Errorf("%d answers, want %d", answers, maxAnswers+n+1)
			}
		}
	})
}

// What each packet of everybody pays takes no memory.
func TestPacketsOfOthersCostNothing(t *testing.T) {
	d := (&outlaws{}).turnstile()
	var from net.Addr = &net.UDPAddr{IP: net.IPv4(1, 2, 0, 1), Port: 1}
	if n := testing.AllocsPerRun(1000, func() {
		if d.shut(from) {
			t.Error("shut to somebody who is not banned")
		}
	}); n != 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

// BenchmarkQUICStream is one stream over loopback, read from bare sockets and
// through the turnstile.
func BenchmarkQUICStream(b *testing.B) {
	for _, name := range []string{"bare", "turnstile"} {
		b.Run(name, func(b *testing.B) {
			var o Options
			if name == "turnstile" {
				o = (&outlaws{ips: map[netip.Addr]bool{}}).options()
				o.BannedIP = func(ip netip.Addr) bool { return !ip.IsValid() }
			}
			from, to := newHost(b, o, "/ip4/127.0.0.1/udp/0/quic-v1"), newHost(b, o, "/ip4/127.0.0.1/udp/0/quic-v1")
			read := make(chan int64)
			to.SetStreamHandler(echoProtocol, func(s network.Stream) {
				n, _ := io.Copy(io.Discard, s)
				s.Close()
				read <- n
			})
			if err := from.Connect(b.Context(), peer.AddrInfo{ID: to.ID(), Addrs: to.Addrs()}); err != nil {
				b.Fatal(err)
			}
			piece := bytes.Repeat([]byte("parley.."), 1<<13)
			const pieces = 512
			b.SetBytes(int64(len(piece) * pieces))
			for b.Loop() {
				s, err := from.NewStream(b.Context(), to.ID(), echoProtocol)
				if err != nil {
					b.Fatal(err)
				}
				for range pieces {
					if _, err := s.Write(piece); err != nil {
						b.Fatal(err)
					}
				}
				s.CloseWrite()
				if n := <-read; n != int64(len(piece)*pieces) {
					b.Fatalf("%d bytes came", n)
				}
			}
		})
	}
}
