//go:build attack

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	libnetwork "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	mss "github.com/multiformats/go-multistream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

func init() {
	roles["e8-stock"], roles["e8-flood"], roles["e8-honest"], roles["e8-beside"] = stock, flood, honest, beside
}

func decode[T any](arg string) (v T, err error) {
	err = json.Unmarshal([]byte(arg), &v)
	return v, err
}

func untilKilled() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:govet // it lives as long as the process
	return ctx
}

// stockOrder is a libp2p host that is the victim: B0, or B1 with 32 connections
// per /24.
type stockOrder struct {
	At      string
	Limited bool
}

// stock runs it until the process is killed, and prints its id.
func stock(arg string) error {
	o, err := decode[stockOrder](arg)
	if err != nil {
		return err
	}
	opts := []libp2p.Option{libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/tcp/%d", o.At, p2pPort), fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", o.At, p2pPort))}
	if o.Limited {
		limits := rcmgr.DefaultLimits
		libp2p.SetDefaultServiceLimits(&limits)
		m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()), rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 24, ConnCount: 32}}, []rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: 32}}))
		if err != nil {
			return err
		}
		opts = append(opts, libp2p.ResourceManager(m))
	}
	h, err := libp2p.New(opts...)
	if err != nil {
		return err
	}
	ctx := untilKilled()
	if _, err := dht.New(h); err != nil {
		return err
	}
	if _, err := pubsub.NewGossipSub(ctx, h); err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	go func() {
		_ = http.ListenAndServe(e8Ops, promhttp.HandlerFor(reg, promhttp.HandlerOpts{})) //nolint:gosec // a lab
	}()
	fmt.Println(h.ID())
	<-ctx.Done()
	return nil
}

// Ports of what nobody attacks: it is as fast as the machine is under the flood.
const (
	echoPort   = 7001
	besidePort = 7002
)

// besideOrder is a bare echo over TCP and a stock host, in the victim's space.
type besideOrder struct{ At string }

// beside runs both until the process is killed, and prints the host's id.
func beside(arg string) error {
	o, err := decode[besideOrder](arg)
	if err != nil {
		return err
	}
	h, err := libp2p.New(libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/tcp/%d", o.At, besidePort)), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", o.At, echoPort)) //nolint:noctx // it ends with the process
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	fmt.Println(h.ID())
	<-untilKilled().Done()
	return nil
}

// The ways of a slow peer.
const (
	halfOpen  = "half-open"           // connects and says nothing
	slowly    = "slow handshake"      // a byte a second
	unread    = "slow reader"         // asks on 32 streams and reads no answer
	unreadOur = "greeted slow reader" // the same, after our handshake
)

// floodOrder is a number of slow sockets from addresses in groups.
type floodOrder struct {
	Habit   string
	Sockets int
	Groups  int // /16
	Victim  string
	ID      peer.ID
	Status  chain.Status
}

// floodTotals is what it prints at its end.
type floodTotals struct{ Connects, Failed, Closed, Most int64 }

// from is the address of one socket: groups are filled in turn, each with
// as many addresses as it takes.
func (o floodOrder) from(i int) net.IP {
	group, host := i%o.Groups, i/o.Groups
	return net.IPv4(byte(20+group/256), byte(group%256), byte(host/200), byte(1+host%200))
}

// flood holds the sockets until its input ends. One that is closed comes back
// after 2 to 8 s.
func flood(arg string) error {
	o, err := decode[floodOrder](arg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(untilKilled())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var n floodTotals
	var open atomic.Int64
	var wg sync.WaitGroup
	for i := range o.Sockets {
		wg.Go(func() {
			pause(ctx, time.Duration(mrand.Int64N(int64(2*time.Second))))
			for ctx.Err() == nil {
				c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: o.from(i)}, Timeout: 10 * time.Second}).DialContext(ctx, "tcp", o.Victim)
				if err != nil {
					atomic.AddInt64(&n.Failed, 1)
				} else {
					atomic.AddInt64(&n.Connects, 1)
					now := open.Add(1)
					for most := atomic.LoadInt64(&n.Most); now > most && !atomic.CompareAndSwapInt64(&n.Most, most, now); {
						most = atomic.LoadInt64(&n.Most)
					}
					stop := context.AfterFunc(ctx, func() { c.Close() })
					o.hold(ctx, c)
					stop()
					c.Close()
					open.Add(-1)
					atomic.AddInt64(&n.Closed, 1)
				}
				pause(ctx, 2*time.Second+time.Duration(mrand.Int64N(int64(6*time.Second))))
			}
		})
	}
	<-ctx.Done()
	n.Closed = atomic.LoadInt64(&n.Closed)
	err = json.NewEncoder(os.Stdout).Encode(n)
	wg.Wait()
	return err
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// hold does what the habit says until the other side closes.
func (o floodOrder) hold(ctx context.Context, c net.Conn) {
	switch o.Habit {
	case halfOpen:
		_, _ = io.Copy(io.Discard, c)
	case slowly:
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, c)
		}()
		words := []byte("\x13/multistream/1.0.0\n\x07/noise\n\xff\xff")
		for i := 0; ; i++ {
			b := byte(0)
			if i < len(words) {
				b = words[i]
			}
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			select {
			case <-gone:
				return
			case <-time.After(time.Second):
			}
		}
	default:
		if m, err := manet.WrapNetConn(c); err == nil {
			o.holdUnread(ctx, &gatedConn{Conn: m, open: make(chan struct{})})
		}
	}
}

// gatedConn reads nothing once it is shut.
type gatedConn struct {
	manet.Conn
	shut atomic.Bool
	open chan struct{} // closed by Close
	once sync.Once
}

func (g *gatedConn) Read(b []byte) (int, error) {
	if g.shut.Load() {
		<-g.open
		return 0, net.ErrClosed
	}
	return g.Conn.Read(b)
}

func (g *gatedConn) Close() error {
	g.once.Do(func() { close(g.open) })
	return g.Conn.Close()
}

// holdUnread finishes the handshake of the transport, and then asks on many
// streams without reading.
func (o floodOrder) holdUnread(ctx context.Context, g *gatedConn) {
	defer g.Close()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return
	}
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	secure, err := noise.New(noise.ID, key, muxers)
	if err != nil {
		return
	}
	u, err := upgrader.New([]sec.SecureTransport{secure}, muxers, nil, nil, nil)
	if err != nil {
		return
	}
	t, err := tcp.NewTCPTransport(u, nil, nil)
	if err != nil {
		return
	}
	up, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := u.Upgrade(up, t, g, libnetwork.DirOutbound, o.ID, &libnetwork.NullScope{})
	if err != nil {
		return
	}
	defer conn.Close()
	if o.Habit == unreadOur && !o.greet(up, conn) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 32 {
		st, err := conn.OpenStream(ctx)
		if err != nil {
			return
		}
		if i == 31 {
			g.shut.Store(true)
		}
		wg.Go(func() {
			_ = st.SetDeadline(time.Now().Add(time.Minute))
			_, err := st.Write([]byte("\x13/multistream/1.0.0\n\x11" + ping.ID + "\n"))
			for b := make([]byte, 32<<10); err == nil; {
				_, err = st.Write(b)
			}
		})
	}
	for !conn.IsClosed() && ctx.Err() == nil {
		pause(ctx, 100*time.Millisecond) // its writes tell of the end, for nothing is read
	}
	_ = conn.Close()
}

// greet makes the connection one of a peer.
func (o floodOrder) greet(ctx context.Context, conn transport.CapableConn) bool {
	st, err := conn.OpenStream(ctx)
	if err != nil {
		return false
	}
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(10 * time.Second))
	if err := mss.SelectProtoOrFail(statusProtocol, st); err != nil {
		return false
	}
	v := wire.Version{Protocol: wire.ProtocolVersion, UserAgent: "flood/1", TimeMS: uint64(time.Now().UnixMilli()), Nonce: mrand.Uint64()}
	v.SetStatus(o.Status)
	if err := wire.WriteFrame(st, v.Encode()); err != nil {
		return false
	}
	b, err := wire.ReadFrame(st, wire.MaxVerack)
	if err != nil {
		return false
	}
	ver, err := wire.DecodeVerack(b)
	return err == nil && ver.Code == wire.VerackOK
}

// honestOrder is a number of newcomers, each with an id and in a group of its
// own, one after the other.
type honestOrder struct {
	Victim string // multiaddr with id
	Beside string // the same of the host that nobody attacks
	Echo   string
	Each   time.Duration
	Count  int
}

// came is how long one newcomer took, 0 = it gave up, and how often the victim
// cut it before.
type came struct {
	Victim, Beside, Echo time.Duration
	Cut                  int
}

// patience is how long a newcomer tries; it begins anew as often as it is cut.
const patience = 15 * time.Second

// honest prints how long each took to its first answered ping, and how long the
// same takes where nobody attacks.
func honest(arg string) error {
	o, err := decode[honestOrder](arg)
	if err != nil {
		return err
	}
	victim, err := peer.AddrInfoFromString(o.Victim)
	if err != nil {
		return err
	}
	other, err := peer.AddrInfoFromString(o.Beside)
	if err != nil {
		return err
	}
	took := make([]came, o.Count)
	var wg sync.WaitGroup
	for i := range took {
		wg.Go(func() {
			from := net.IPv4(24, byte(i), 1, 1)
			c := came{Echo: bareEcho(o.Echo, from)}
			c.Beside, _ = newcomer(*other, from)
			c.Victim, c.Cut = newcomer(*victim, from)
			took[i] = c
		})
		time.Sleep(o.Each) //nolint:forbidigo // a real clock: this is another process
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(took)
}

// bareEcho is how long a connection and one byte there and back take.
func bareEcho(to string, from net.IP) time.Duration {
	start := time.Now()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: patience}
	c, err := d.Dial("tcp", to) //nolint:noctx // it has a timeout
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(start.Add(patience))
	if _, err := c.Write([]byte{1}); err != nil {
		return 0
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return 0
	}
	return time.Since(start)
}

func newcomer(to peer.AddrInfo, from net.IP) (took time.Duration, cut int) {
	dialer := func(ma.Multiaddr) (tcp.ContextDialer, error) {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}, nil
	}
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.ResourceManager(&libnetwork.NullResourceManager{}), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.Transport(tcp.NewTCPTransport, tcp.WithDialerForAddr(dialer)))
	if err != nil {
		return 0, 0
	}
	defer h.Close()
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for ctx.Err() == nil {
		err := h.Connect(libnetwork.WithForceDirectDial(ctx, "honest"), to)
		if err == nil {
			one, stop := context.WithCancel(ctx)
			r, ok := <-ping.Ping(one, h, to.ID)
			stop()
			if ok && r.Error == nil {
				return time.Since(start), cut
			}
		}
		cut++
		pause(ctx, 200*time.Millisecond)
		_ = h.Network().ClosePeer(to.ID)
		h.Network().(*swarm.Swarm).Backoff().Clear(to.ID) // five seconds of it would be measured too
	}
	return 0, cut
}
