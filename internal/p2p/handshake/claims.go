package handshake

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// Plain names of this room's topics.
const (
	TopicHandshake  = "handshake"
	TopicBestBlock  = "best_block"
	TopicNodeStatus = "node_status"
)

const (
	maxNodes      = 1000                    // nodes whose claims are kept; the oldest makes room
	announceAfter = time.Second             // from the start, for the mesh to stand
	announceEvery = 10 * time.Minute        // of our version
	bestBlockGap  = 1100 * time.Millisecond // others drop more than one claim a second
	manyNodes     = 50                      // above it node_status gets rarer in proportion
	maxInterval   = 5 * time.Minute         // of node_status
)

// Node is what a node of the network, neighbour or not, claimed by gossip.
type Node struct {
	ID     peer.ID
	At     time.Time // of its last claim, by our clock
	Name   string
	Head   chain.Head
	Status *wire.NodeStatus // nil = none came yet; not to be changed
}

// Topics are the claims by which nodes that are not neighbours know of each
// other.
func (s *Handshake) Topics() []chain.Topic {
	return []chain.Topic{
		{Name: TopicHandshake, MaxBytes: wire.MaxVersion, Claim: true, Validate: s.claimedVersion},
		{Name: TopicBestBlock, MaxBytes: wire.MaxBestBlock, Claim: true, Validate: s.claimedBest},
		{Name: TopicNodeStatus, MaxBytes: wire.MaxNodeStatus, Claim: true, Validate: s.claimedStatus},
	}
}

func (s *Handshake) claimedVersion(_ context.Context, m chain.Message) error {
	v, err := wire.DecodeVersion(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	if err := s.net.CheckStatus(v.Status()); err != nil {
		return err // dropped: the network's own topics carry no other network
	}
	s.note(m.Origin, v.Status().Head, func(n *Node) { n.Name = v.Name })
	return nil
}

func (s *Handshake) claimedBest(_ context.Context, m chain.Message) error {
	b, err := wire.DecodeBestBlock(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	s.note(m.Origin, chain.Head{Height: b.Height, Hash: b.Hash}, func(*Node) {})
	return nil
}

func (s *Handshake) claimedStatus(_ context.Context, m chain.Message) error {
	v, err := wire.DecodeNodeStatus(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	v.BaseURL = publicURL(v.BaseURL)
	s.note(m.Origin, chain.Head{Height: v.BestHeight, Hash: v.BestBlockHash}, func(n *Node) {
		n.Name, n.Status = v.ClientName, &v
	})
	return nil
}

// note keeps a claim of origin.
func (s *Handshake) note(origin peer.ID, head chain.Head, more func(*Node)) {
	if origin == s.host.ID() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	n := s.nodes[origin]
	if n == nil {
		if len(s.nodes) >= maxNodes {
			s.forgetOldest()
		}
		n = &Node{ID: origin}
		s.nodes[origin] = n
	}
	n.At, n.Head = now, head
	more(n)
	if e := s.peers[origin]; e != nil {
		e.peer.Claimed, e.peer.LastSeen = head, now
	}
}

func (s *Handshake) forgetOldest() { // mu held
	var oldest *Node
	for _, n := range s.nodes {
		if oldest == nil || n.At.Before(oldest.At) {
			oldest = n
		}
	}
	delete(s.nodes, oldest.ID)
}

// NodeStatuses lists what nodes claimed by gossip, at most 1,000 of them, in
// the order of their ids. We are not among them.
func (s *Handshake) NodeStatuses() []Node {
	s.mu.Lock()
	list := make([]Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		list = append(list, *n)
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Announce publishes our own claims until ctx ends: our version at the start
// and every 10 minutes, our head at the start and whenever it moves, and what
// status returns each StatusInterval. It is started once the topics are joined.
func (s *Handshake) Announce(ctx context.Context, publish func(ctx context.Context, topic string, body []byte) error, status func() wire.NodeStatus) error {
	send := func(topic string, body []byte) {
		if err := publish(ctx, topic, body); err != nil && ctx.Err() == nil {
			s.log.Debug("claim not published", "topic", topic, "err", err)
		}
	}
	sub := s.bus.Subscribe()
	defer sub.Close()
	version := time.NewTimer(announceAfter)
	defer version.Stop()
	best := time.NewTimer(announceAfter)
	defer best.Stop()
	sample := time.NewTimer(announceAfter)
	defer sample.Stop()
	var bestAt time.Time // of the last claim
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-version.C:
			send(TopicHandshake, s.version().Encode())
			version.Reset(announceEvery)
		case <-sample.C:
			send(TopicNodeStatus, status().Encode())
			sample.Reset(s.sampleInterval())
		case <-best.C:
			if h := s.net.Status().Head; !h.Hash.IsZero() {
				send(TopicBestBlock, wire.BestBlock{Hash: h.Hash, Height: h.Height}.Encode())
				bestAt = time.Now()
			}
		case <-sub.Wake():
			if headChanged(sub) {
				best.Reset(max(0, bestBlockGap-time.Since(bestAt)))
			}
		}
	}
}

// headChanged drains a part of sub; lost events count as changes.
func headChanged(sub *event.Subscription) bool {
	envelopes, lost := sub.Take(256)
	changed := lost > 0
	for _, e := range envelopes {
		if _, ok := e.Data.(event.HeadChanged); ok {
			changed = true
		}
	}
	return changed
}

// sampleInterval is StatusInterval ± 10 %, stretched in large networks.
func (s *Handshake) sampleInterval() time.Duration {
	s.mu.Lock()
	nodes := len(s.nodes) + 1
	s.mu.Unlock()
	d := s.cfg.StatusInterval
	if nodes > manyNodes {
		d = max(d, min(d*time.Duration(nodes)/manyNodes, maxInterval))
	}
	return d*9/10 + rand.N(d/5+1)
}
