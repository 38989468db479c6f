package host

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// pingStream is a stream on which a peer has said all that it will.
type pingStream struct {
	network.Stream
	in  io.Reader
	out bytes.Buffer
}

type pingConn struct{ network.Conn }

func (pingConn) RemotePeer() peer.ID { return "peer" }

func (s *pingStream) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *pingStream) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *pingStream) Reset() error                { return nil }
func (s *pingStream) SetDeadline(time.Time) error { return nil }
func (s *pingStream) Conn() network.Conn          { return pingConn{} }

// FuzzPing: whatever a peer says on a stream of pings, it hears the whole ones
// of it, no byte more, and its place is free after it.
func FuzzPing(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte("ping"), ping.PingSize/4))
	f.Add(bytes.Repeat([]byte("p"), 3*ping.PingSize+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 100*ping.PingSize { // four a second
			b = b[:100*ping.PingSize]
		}
		synctest.Test(t, func(t *testing.T) {
			p := &pinger{busy: map[peer.ID]struct{}{}}
			st := &pingStream{in: bytes.NewReader(b)}
			p.handle(st)
			if want := b[:len(b)-len(b)%ping.PingSize]; !bytes.Equal(st.out.Bytes(), want) {
				t.Fatalf("%d bytes are answered by %d", len(b), st.out.Len())
			}
			if len(p.busy) > 0 {
				t.Fatal("the peer is busy for ever")
			}
		})
	})
}

// FuzzSorter: whatever comes to the shared port goes to one of the two sides
// whole, or is closed where it is too short to tell.
func FuzzSorter(f *testing.F) {
	for _, s := range []string{"", "GE", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0", "\x16\x03\x01\x02", "\x13/multistream/1.0.0\n", "\x00\x00\x00\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:8080"))
			s, err := newSorter(fixedListener{addr}, func() {}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			here, there := net.Pipe()
			s.start(here)
			sorted := make(chan struct{})
			go func() {
				_, _ = there.Write(b)
				<-sorted // a pipe that is closed takes no deadline
				_ = there.Close()
			}()
			time.Sleep(sortTime + time.Second)
			close(sorted)
			var sides []net.Conn
			for _, q := range []*queue{s.http, s.p2p[0].queue} {
				select {
				case c := <-q.ch:
					sides = append(sides, c)
				default:
				}
			}
			if len(sides) != min(1, len(b)/3) {
				t.Fatalf("%x went to %d sides", b, len(sides))
			}
			for _, c := range sides {
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, b) {
					t.Fatalf("%x became %x, %v", b, got, err)
				}
				_ = c.Close()
			}
			_ = here.Close()
			_ = there.Close()
		})
	})
}

// fixedListener has an address and no connections.
type fixedListener struct{ addr net.Addr }

func (fixedListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (fixedListener) Close() error              { return nil }
func (l fixedListener) Addr() net.Addr          { return l.addr }
