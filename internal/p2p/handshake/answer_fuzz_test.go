package handshake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// memHost opens streams on which the peer says what is given.
type memHost struct {
	host.Host
	conn network.Conn
	says []byte
}

func (h *memHost) NewStream(context.Context, peer.ID, ...protocol.ID) (network.Stream, error) {
	return &memStream{in: bytes.NewReader(h.says), conn: h.conn, id: StatusProtocol}, nil
}

// answered is a handshake whose peers are in memory, and one peer of it.
func answered(f *testing.F) (*Handshake, *memHost, peer.ID) {
	f.Helper()
	real, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = real.Close() })
	bus, log := event.NewBus(16), slog.New(slog.DiscardHandler)
	rep, err := reputation.New(reputation.Config{}, bus, log, nil)
	if err != nil {
		f.Fatal(err)
	}
	id := peer.ID("\x00\x04peer")
	h := &memHost{Host: real, conn: &memConn{peer: id}}
	return New(Config{Name: "n"}, h, rep, &fakeChain{status: statusOf("x", 1)}, bus, log, nil), h, id
}

// FuzzAnswered: whatever a peer answers to our version, it is ready only with
// the status of our network, and wrong bytes are its fault.
func FuzzAnswered(f *testing.F) {
	s, h, id := answered(f)
	good := wire.Version{Protocol: wire.ProtocolVersion, UserAgent: "x/1", Nonce: 7, TimeMS: 1}
	good.SetStatus(statusOf("x", 3))
	other := good
	other.SetStatus(statusOf("y", 3))
	for _, v := range []wire.Verack{{Version: good}, {Version: other}, {Code: wire.NotAllowed, Text: "no\x1b[31m"}, {}} {
		var b bytes.Buffer
		if err := wire.WriteFrame(&b, v.Encode()); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, said []byte) {
		h.says = said
		s.connected(h.conn)
		defer s.disconnected(h.conn)
		ver, err := s.exchange(t.Context(), id)
		if err != nil {
			var bad *chain.InvalidError
			if !errors.As(wire.Fault(err), &bad) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("nobody's fault: %v", err)
			}
			return
		}
		r := s.heard(id, ver)
		if p, ok := s.Peer(id); ok && p.Ready && (r != nil || p.Status.ChainID != "x" && !p.Status.Genesis.IsZero()) {
			t.Fatalf("ready by %x", said)
		}
	})
}

// FuzzClaims: whatever is claimed on our topics is judged, and changes nobody
// but its origin.
func FuzzClaims(f *testing.F) {
	s, h, id := answered(f)
	good := wire.Version{Protocol: wire.ProtocolVersion, UserAgent: "x/1", Nonce: 7, TimeMS: 1}
	good.SetStatus(statusOf("x", 3))
	f.Add(uint8(0), good.Encode())
	f.Add(uint8(1), wire.BestBlock{Height: 9}.Encode())
	f.Add(uint8(2), wire.NodeStatus{BestHeight: 9}.Encode())
	f.Add(uint8(2), []byte{0xff})
	s.connected(h.conn)
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		topic := s.Topics()[int(which)%3]
		if len(data) > topic.MaxBytes {
			return
		}
		before, _ := s.Peer(id)
		if err := topic.Validate(t.Context(), chain.Message{From: id, Origin: "other", Time: time.Now(), Data: data}); err == nil {
			if _, known := s.Peer("other"); known {
				t.Fatal("a peer that is not connected is known")
			}
		}
		if after, _ := s.Peer(id); after.Claimed != before.Claimed {
			t.Fatal("who relays a claim has made it")
		}
		_ = topic.Validate(t.Context(), chain.Message{From: "other", Origin: id, Time: time.Now(), Data: data})
	})
}
