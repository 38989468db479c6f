package discovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

const maxAnswer = 512 << 10 // bytes: 128 providers or 20 peers with their addresses fit

// sender carries the questions of the DHT, one stream each, to peers that are
// connected: it never dials.
type sender struct {
	host   host.Host
	proto  protocol.ID
	report func(p peer.ID, o chain.Offence, detail string)
}

// SendRequest implements [pb.MessageSender].
func (s *sender) SendRequest(ctx context.Context, p peer.ID, m *pb.Message) (*pb.Message, error) {
	st, done, err := s.send(ctx, p, m)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := wire.ReadFrame(st, maxAnswer)
	if err != nil {
		if errors.Is(err, wire.ErrTooLarge) {
			s.report(p, chain.Oversize, "DHT: "+err.Error())
		}
		return nil, fmt.Errorf("answer of %s: %w", p, err)
	}
	answer := new(pb.Message)
	if err := proto.Unmarshal(b, answer); err != nil {
		s.report(p, chain.Malformed, "DHT: the answer does not decode")
		return nil, fmt.Errorf("answer of %s: %w", p, err)
	}
	return answer, nil
}

// SendMessage implements [pb.MessageSender].
func (s *sender) SendMessage(ctx context.Context, p peer.ID, m *pb.Message) error {
	st, done, err := s.send(ctx, p, m)
	if err != nil {
		return err
	}
	defer done()
	_, _ = st.Read(make([]byte, 1)) // it closes when it has read, or resets when it refuses
	return nil
}

// send writes m. done MUST be called in the end.
func (s *sender) send(ctx context.Context, p peer.ID, m *pb.Message) (st network.Stream, done func(), err error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, nil, err
	}
	st, err = s.host.NewStream(network.WithNoDial(ctx, "dht"), p, s.proto)
	if err != nil {
		return nil, nil, fmt.Errorf("ask %s: %w", p, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	done = func() {
		stop()
		_ = st.Reset()
	}
	_ = st.SetDeadline(time.Now().Add(reachTimeout))
	if err := wire.WriteFrame(st, b); err != nil {
		done()
		return nil, nil, fmt.Errorf("ask %s: %w", p, err)
	}
	_ = st.CloseWrite()
	return st, done, nil
}

// OnDisconnect implements [pb.MessageSenderWithDisconnect]: nothing is kept.
func (*sender) OnDisconnect(context.Context, peer.ID) {}
