package handshake

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// memStream is a stream in memory: what a peer says, and what it is told.
type memStream struct {
	network.Stream // nil: what is not below is not used
	in             io.Reader
	out            bytes.Buffer
	conn           network.Conn
	id             protocol.ID
}

func (s *memStream) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *memStream) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *memStream) Close() error                     { return nil }
func (s *memStream) CloseWrite() error                { return nil }
func (s *memStream) Reset() error                     { return nil }
func (s *memStream) SetDeadline(time.Time) error      { return nil }
func (s *memStream) SetReadDeadline(time.Time) error  { return nil }
func (s *memStream) SetWriteDeadline(time.Time) error { return nil }
func (s *memStream) Protocol() protocol.ID            { return s.id }
func (s *memStream) Conn() network.Conn               { return s.conn }

// memConn is the connection of a peer whose streams are in memory.
type memConn struct {
	network.Conn
	peer peer.ID
}

func (c *memConn) RemotePeer() peer.ID                { return c.peer }
func (c *memConn) RemoteMultiaddr() ma.Multiaddr      { return ma.StringCast("/ip4/203.0.113.7/tcp/9906") }
func (c *memConn) LocalMultiaddr() ma.Multiaddr       { return ma.StringCast("/ip4/203.0.113.8/tcp/9906") }
func (c *memConn) ConnState() network.ConnectionState { return network.ConnectionState{} }
func (c *memConn) Stat() network.ConnStats {
	return network.ConnStats{Stats: network.Stats{Direction: network.DirInbound}}
}
func (c *memConn) ID() string     { return "conn" }
func (c *memConn) IsClosed() bool { return true }
func (c *memConn) Close() error   { return nil }

// FuzzStreams: whatever a peer says on a stream of status or goodbye, it is
// answered with a frame within the limit, charged, or neither, and takes little
// memory.
func FuzzStreams(f *testing.F) {
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = h.Close() })
	log := slog.New(slog.DiscardHandler)
	bus := event.NewBus(16)
	_, key, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		f.Fatal(err)
	}
	good := wire.Version{Protocol: wire.ProtocolVersion, UserAgent: "x/1", Nonce: 7, TimeMS: 1}
	good.SetStatus(statusOf("x", 3))
	other := good
	other.SetStatus(statusOf("y", 3))
	for i, p := range [][]byte{good.Encode(), other.Encode(), wire.Goodbye{Code: wire.GoodbyeBanned, Text: "no"}.Encode(), nil} {
		var b bytes.Buffer
		if err := wire.WriteFrame(&b, p); err != nil {
			f.Fatal(err)
		}
		f.Add(i == 2, b.Bytes())
		f.Add(i == 2, b.Bytes()[:b.Len()/2])
	}
	f.Add(false, []byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, goodbye bool, b []byte) {
		rep, err := reputation.New(reputation.Config{}, bus, log, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Name: "n"}, h, rep, &fakeChain{status: statusOf("x", 1)}, bus, log, nil)
		c := &memConn{peer: id}
		s.connected(c)
		st := &memStream{in: bytes.NewReader(b), conn: c, id: StatusProtocol}
		serve, ctx := s.answer, t.Context()
		if goodbye { // which waits for the peer to close, as long as nobody ends
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx)
			cancel()
			st.id, serve = GoodbyeProtocol, s.hearGoodbye
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = serve(ctx, st)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
			t.Errorf("%d bytes took %d bytes of memory", len(b), n)
		}
		if err != nil {
			s.charge(id, err)
		}
		if st.out.Len() > 0 {
			if p, err := wire.ReadFrame(&st.out, wire.MaxVerack); err != nil {
				t.Fatalf("the answer: %v", err)
			} else if _, err := wire.DecodeVerack(p); err != nil || st.out.Len() > 0 {
				t.Fatalf("the answer: %v, and %d bytes behind it", err, st.out.Len())
			}
		}
		if p, ok := s.Peer(id); ok && p.Ready && (goodbye || p.Status.ChainID != "x" && !p.Status.Genesis.IsZero()) {
			t.Fatalf("ready by %x", b)
		}
	})
}
