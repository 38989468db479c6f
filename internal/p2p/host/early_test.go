package host

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// pour asks on 32 streams and reads nothing.
func pour(t *testing.T, from, to *Host) {
	t.Helper()
	var all sync.WaitGroup
	defer all.Wait()
	for range 32 {
		s, err := from.NewStream(t.Context(), to.ID(), unreadProtocol)
		if err != nil {
			return // it is cut
		}
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		all.Go(func() { _, _ = s.Write(make([]byte, 200<<10)) })
	}
}

const unreadProtocol = "/parley/unread/1"

// A stranger that opens streams and fills them is cut before it has filled the
// windows of the muxer; who has greeted is not, nor anybody where no peer greets.
func TestStrangersSendLittle(t *testing.T) {
	var told atomic.Value
	var count atomic.Int64
	for listen, websocket := range map[string]bool{"/ip4/127.0.0.1/tcp/0": false, "/ip4/127.0.0.1/tcp/0/ws": true} {
		for _, c := range []struct {
			name            string
			greets, greeted bool
			cut             bool
		}{
			{"a stranger", true, false, true},
			{"one that has greeted", true, true, false},
			{"where nobody greets", false, false, false},
		} {
			t.Run(listen[1:]+" "+c.name, func(t *testing.T) {
				count.Store(0)
				h := newHost(t, Options{Websocket: websocket, Greets: c.greets, Refused: func(_ ma.Multiaddr, why string) {
					told.Store(why)
					count.Add(1)
				}}, listen)
				hold := make(chan struct{})
				t.Cleanup(func() { close(hold) })
				h.SetStreamHandler(unreadProtocol, func(s network.Stream) {
					<-hold
					_ = s.Reset()
				})
				guest := newHost(t, Options{Websocket: websocket})
				c1 := echo(t, guest, h, h.Network().ListenAddresses()[0]) // little is no matter
				if c.greeted {
					h.Greeted(guest.ID())
				}
				pour(t, guest, h)
				wait := 5 * time.Second
				if !c.cut {
					wait = 300 * time.Millisecond
				}
				for end := time.Now().Add(wait); !c1.IsClosed() && time.Now().Before(end); {
					<-time.After(10 * time.Millisecond)
				}
				if got := count.Load(); c.cut && (got != 1 || told.Load() != errEarly.Error()) || !c.cut && got != 0 {
					t.Errorf("%d refusals are told, the last as %v", got, told.Load())
				}
				if c1.IsClosed() != c.cut {
					t.Errorf("the connection is closed: %v", c1.IsClosed())
				}
			})
		}
	}
}

// A read never takes more than may come.
func TestEarlyConnCounts(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	over := 0
	c := &earlyConn{Conn: earlyPipe{b}, left: 1000, over: func() { over++ }}
	go func() {
		_, _ = a.Write(make([]byte, 5000))
		a.Close()
	}()
	n, err := io.Copy(io.Discard, c)
	if n != 1000 || !errors.Is(err, errEarly) || over != 1 {
		t.Errorf("read %d, %v; told %d times", n, err, over)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errEarly) || over != 1 {
		t.Errorf("again: %v; told %d times", err, over)
	}
	c.greeted.Store(true)
	if n, err := io.Copy(io.Discard, c); n != 4000 || err != nil {
		t.Errorf("after its greeting %d, %v", n, err)
	}
}

type earlyPipe struct{ net.Conn }

func (earlyPipe) LocalMultiaddr() ma.Multiaddr  { return nil }
func (earlyPipe) RemoteMultiaddr() ma.Multiaddr { return nil }
