package discovery

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/wire"
)

// memStream is a stream in memory: what a peer says, and what it is told.
type memStream struct {
	network.Stream // nil: what is not below is not used
	in             io.Reader
	out            bytes.Buffer
	conn           network.Conn
}

func (s *memStream) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *memStream) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *memStream) Close() error                { return nil }
func (s *memStream) Reset() error                { return nil }
func (s *memStream) SetDeadline(time.Time) error { return nil }
func (s *memStream) Conn() network.Conn          { return s.conn }

// memConn is the connection of a peer whose streams are in memory.
type memConn struct {
	network.Conn
	peer peer.ID
}

func (c *memConn) RemotePeer() peer.ID           { return c.peer }
func (c *memConn) RemoteMultiaddr() ma.Multiaddr { return ma.StringCast("/ip4/203.0.113.7/tcp/9906") }
func (c *memConn) ID() string                    { return "conn" }
func (c *memConn) IsClosed() bool                { return false }

// fuzzed is discovery that no peer can reach but in memory. Every peer is ready.
func fuzzed(f *testing.F, charged *[]chain.Offence) *Discovery {
	f.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = h.Close() })
	log, bus := slog.New(slog.DiscardHandler), event.NewBus(16)
	book, err := addrbook.Open(addrbook.Config{Net: testNet, Self: h.ID(), Sources: Kinds(onlyPEX)}, bus, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	d, err := New(publicDHT, Functions{
		Ready:  func(peer.ID) bool { return true },
		Report: func(_ peer.ID, o chain.Offence, _ string) { *charged = append(*charged, o) },
	}, h, book, bus, log, nil)
	if err != nil {
		f.Fatal(err)
	}
	return d
}

// bounded fails where f takes more than limit bytes of memory.
func bounded(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Errorf("%d bytes of memory were taken, limit %d", n, limit)
	}
}

// FuzzServePEX: whatever a peer says on a stream of peer exchange, it gets one
// answer within the limit, or none.
func FuzzServePEX(f *testing.F) {
	var charged []chain.Offence
	x := newPEX(fuzzed(f, &charged), testNet)
	id := idOf(f, newKey(f))
	for _, p := range [][]byte{wire.PEXRequest{}.Encode(), wire.PEXRequest{Max: 3}.Encode(), {0xff}} {
		var b bytes.Buffer
		if err := wire.WriteFrame(&b, p); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		clear(x.conns)
		charged = charged[:0]
		st := &memStream{in: bytes.NewReader(b), conn: &memConn{peer: id}}
		bounded(t, 256<<10, func() { x.handle(st) })
		if len(x.guests) > 0 {
			t.Fatal("a place is still taken")
		}
		if st.out.Len() == 0 {
			return
		}
		p, err := wire.ReadFrame(&st.out, wire.MaxPEXAnswer)
		if err != nil || st.out.Len() > 0 {
			t.Fatalf("the answer: %v, and %d bytes behind it", err, st.out.Len())
		}
		if _, err := wire.DecodePEXAnswer(p); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzTakeRecord: of whatever a peer tells of others, what is taken is signed,
// and the book stays small.
func FuzzTakeRecord(f *testing.F) {
	var charged []chain.Offence
	x := newPEX(fuzzed(f, &charged), testNet)
	src := addrbook.Source{Kind: addrbook.PEX, Peer: idOf(f, newKey(f)), IP: netip.MustParseAddr("203.0.113.7")}
	good := signedRecord(f, newKey(f), "/ip4/198.18.0.1/udp/9906/quic-v1")
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(signedRecord(f, newKey(f), "/ip4/10.0.0.1/tcp/1"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > wire.MaxPEXRecord {
			return
		}
		// A book of its own: else what came before would decide the way through
		// the code, and no input would be the same twice.
		book, err := addrbook.Open(addrbook.Config{Net: testNet, Self: x.d.host.ID(), Sources: Kinds(onlyPEX)}, x.d.bus, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		x.d.intake.book, charged = book, charged[:0]
		book.Asked(src.Peer)
		bounded(t, uint64(1<<20+64*len(b)), func() { x.take(src, [][]byte{b}) })
		list := book.Entries()
		if len(list) > 1 || len(list)+len(charged) > 1 {
			t.Fatalf("one record made %d peers of the book, and cost %v", len(list), charged)
		}
		for _, e := range list {
			if id, err := signer(b); err != nil || id != e.ID || e.Record == nil || !bytes.Equal(e.Record.Envelope, b) {
				t.Fatalf("%s is in the book, and %s signed the record: %v", e.ID, id, err)
			}
		}
	})
}

// FuzzServeDHT: whatever a peer says on a stream of the DHT, the library gets
// whole requests within the limit alone.
func FuzzServeDHT(f *testing.F) {
	var charged []chain.Offence
	k, err := newKad(fuzzed(f, &charged), testNet)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = k.close() })
	key := newKey(f)
	id := idOf(f, key)
	at := Key("note", id)
	for _, p := range [][]byte{
		encode(f, &pb.Message{Type: pb.Message_FIND_NODE, Key: []byte(id)}),
		putMessage(f, at, sealAs(f, testNet, key, "note", 1, time.Now(), []byte("x"))),
		putMessage(f, at, []byte("no envelope")),
		encode(f, &pb.Message{Type: pb.Message_ADD_PROVIDER, Key: []byte("key"), ProviderPeers: []*pb.Message_Peer{{Id: []byte(id)}, {Id: []byte("x")}}}),
		{0xff},
	} {
		var b bytes.Buffer
		if err := wire.WriteFrame(&b, p); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		clear(k.scope.askers)
		charged = charged[:0]
		st := &memStream{in: bytes.NewReader(b), conn: &memConn{peer: id}}
		bounded(t, uint64(256<<10+64*len(b)), func() {
			k.scope.serve(st, func(st network.Stream) {
				for range peerBurst / 2 { // more of them would wait
					p, err := wire.ReadFrame(st, maxRequest)
					if err != nil {
						return
					}
					var m pb.Message
					if proto.Unmarshal(p, &m) != nil {
						t.Fatalf("a request that does not decode was let through: %x", p)
					}
				}
			})
		})
		if a := k.scope.askers[id]; a == nil || a.streams != 0 || len(k.scope.held) != 0 {
			t.Fatal("a stream is still held")
		}
	})
}
