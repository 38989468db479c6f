package parley

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	firstByte      = 10 * time.Second // for a peer to begin its request
	defaultStreams = 4                // of one protocol, at once, by one peer
)

// services is the p2p wing as a network sees it.
type services struct {
	*Node
	unborn bool // the chain was not known at the start

	mu       sync.Mutex // guards below
	joined   bool       // the rooms that wait for <net> have it
	served   map[protocol.ID]struct{}
	ended    bool
	requests sync.WaitGroup // served now; grows only while ended is false
}

// end takes no more requests and waits for those that are served.
func (s *services) end() {
	s.mu.Lock()
	s.ended = true
	for p := range s.served {
		s.host.RemoveStreamHandler(p)
	}
	s.mu.Unlock()
	s.requests.Wait()
}

// enter counts a request; a node that ends takes none.
func (s *services) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.requests.Add(1)
	}
	return !s.ended
}

var _ chain.Services = (*services)(nil)

func (s *services) Self() peer.ID { return s.host.ID() }

func (s *services) Serve(ctx context.Context, topics []chain.Topic, protocols []chain.Protocol) error {
	s.log.Debug("serving the chain", "chain", s.network.Status().ChainID, "topics", len(topics), "protocols", len(protocols))
	s.mu.Lock()
	if s.served == nil {
		s.served = map[protocol.ID]struct{}{}
	}
	first := !s.joined
	s.joined = true
	s.mu.Unlock()
	for _, p := range protocols {
		s.host.SetStreamHandler(protocol.ID(p.ID), s.handler(ctx, p))
		s.mu.Lock()
		s.served[protocol.ID(p.ID)] = struct{}{}
		s.mu.Unlock()
	}
	err := s.serveTopics(first, topics)
	if err != nil {
		s.endProtocols(ids(protocols))
	}
	return err
}

func ids(protocols []chain.Protocol) []string {
	list := make([]string, len(protocols))
	for i, p := range protocols {
		list[i] = p.ID
	}
	return list
}

// serveTopics serves the first ones together with all that waits for the
// chain.
func (s *services) serveTopics(first bool, topics []chain.Topic) error {
	net := s.network.ID().Net
	if !first {
		return s.gossip.Serve(net, topics)
	}
	if err := s.writeMeta(); err != nil {
		return err
	}
	if err := s.book.Start(net); err != nil {
		return err
	}
	if err := s.disc.Start(net); err != nil {
		return err
	}
	if err := s.gossip.Serve(net, append(topics, s.shake.Topics()...)); err != nil {
		return err
	}
	if s.unborn { // else every greeting told of it, and another one would be too many
		s.shake.ChainKnown()
	}
	return nil
}

func (s *services) Withdraw(topics, protocols []string) error {
	s.endProtocols(protocols)
	var errs []error
	for _, t := range topics {
		errs = append(errs, s.gossip.Leave(t))
	}
	return errors.Join(errs...)
}

func (s *services) endProtocols(ids []string) {
	for _, p := range ids {
		s.host.RemoveStreamHandler(protocol.ID(p))
		s.mu.Lock()
		delete(s.served, protocol.ID(p))
		s.mu.Unlock()
	}
}

func (s *services) Greet() { s.shake.ChainKnown() }

// handler serves one protocol to ready peers, a few streams of each at once.
func (s *services) handler(ctx context.Context, p chain.Protocol) network.StreamHandler {
	guests := newVisitors(p.MaxStreams)
	return func(st network.Stream) {
		from := st.Conn().RemotePeer()
		if !s.enter() {
			_ = st.Reset()
			return
		}
		defer s.requests.Done()
		if ctx.Err() != nil || !s.shake.IsReady(from) {
			_ = st.Reset()
			return
		}
		ok, spam := guests.enter(from)
		if !ok {
			_ = st.Reset()
			if spam {
				s.Report(from, chain.Spam, p.ID+": more streams than anybody needs")
			}
			return
		}
		defer guests.leave(from)
		s.serve(ctx, p, stream{st})
	}
}

func (s *services) serve(ctx context.Context, p chain.Protocol, st stream) {
	unhook := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer unhook()
	_ = st.SetReadDeadline(time.Now().Add(firstByte))
	err := p.Handle(ctx, st)
	if err == nil {
		_ = st.Close()
		return
	}
	_ = st.Reset()
	if bad, ok := errors.AsType[*chain.InvalidError](err); ok {
		s.Report(st.Peer(), bad.Offence, p.ID+": "+bad.Detail)
		return
	}
	s.log.Debug("request not served", "peer", st.Peer(), "protocol", p.ID, "err", err)
}

func (s *services) Publish(ctx context.Context, topic string, data []byte) error {
	return s.gossip.Publish(ctx, topic, data)
}

func (s *services) PublishAll(ctx context.Context, topic string, all iter.Seq[[]byte]) (int, error) {
	return s.gossip.PublishAll(ctx, topic, all)
}

func (s *services) Open(ctx context.Context, p peer.ID, proto string) (chain.Stream, error) {
	if !s.shake.IsReady(p) {
		return nil, fmt.Errorf("open %s to %s: not a ready peer", proto, p)
	}
	st, err := s.host.NewStream(network.WithNoDial(ctx, "networks use ready peers"), p, protocol.ID(proto))
	if err != nil {
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, err)
	}
	return stream{st}, nil
}

func (s *services) Peers() []chain.Peer {
	peers := s.shake.Ready()
	joining := s.network.ID().Net == ""
	for i := range peers {
		p := &peers[i]
		p.Kept, p.Services = s.dial.Has(p.ID), s.servicesOf(p.ID, p.Services)
		p.Named = joining && s.named(p.ID)
		p.Group = s.groupOf(p.ID)
	}
	return peers
}

// groupOf is the group of the public address that p is connected from, or "".
func (s *services) groupOf(p peer.ID) string {
	for _, c := range s.host.Network().ConnsToPeer(p) {
		if ip := addrbook.IP(c.RemoteMultiaddr()); addrbook.Public(ip) {
			return s.book.GroupOf(ip)
		}
	}
	return ""
}

func (s *services) Keep(members []peer.AddrInfo) { s.dial.Keep(members) }

func (s *services) Validated(p peer.ID, h chain.Head) { s.shake.Validated(p, h) }

// Report charges p, and closes its connections where that was too much.
func (s *services) Report(p peer.ID, o chain.Offence, detail string) {
	s.rep.Penalize(p, o, detail)
}

func (s *services) Credit(p peer.ID, c chain.Credit) { s.rep.Credit(p, c) }

// stream makes a libp2p stream one of the seam.
type stream struct{ network.Stream }

func (s stream) Peer() peer.ID { return s.Conn().RemotePeer() }
func (s stream) Reset() error  { return s.Stream.Reset() }
