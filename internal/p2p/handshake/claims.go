package handshake

import (
	"context"
	"math/rand/v2"
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
	announceAfter = time.Second             // from the start, for the mesh to stand
	announceEvery = 10 * time.Minute        // of our version
	bestBlockGap  = 1100 * time.Millisecond // others drop more than one claim a second
	manyNodes     = 50                      // above it node_status gets rarer in proportion
	maxInterval   = 5 * time.Minute         // of node_status
)

// Topics are the claims by which nodes tell of themselves beyond their peers.
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
	s.note(m.Origin, v.Status().Head)
	return nil
}

func (s *Handshake) claimedBest(_ context.Context, m chain.Message) error {
	b, err := wire.DecodeBestBlock(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	s.note(m.Origin, chain.Head{Height: b.Height, Hash: b.Hash})
	return nil
}

func (s *Handshake) claimedStatus(_ context.Context, m chain.Message) error {
	v, err := wire.DecodeNodeStatus(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	s.note(m.Origin, chain.Head{Height: v.BestHeight, Hash: v.BestBlockHash})
	if m.Origin != s.host.ID() && !s.rep.Refused(m.Origin) {
		v.BaseURL = publicURL(v.BaseURL)
		s.told.add(HeardStatus{Peer: m.Origin, At: m.Time, Status: v}, s.tellerOf(m.Origin, m.From), time.Now())
	}
	return nil
}

// note keeps the head that origin claims, which may be a lower one, where it is
// a peer of ours.
func (s *Handshake) note(origin peer.ID, head chain.Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.peers[origin]; e != nil {
		e.peer.Claimed, e.peer.LastSeen = head, time.Now()
	}
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

// sampleInterval is StatusInterval ± 10 %, stretched where there are many
// peers. Ready ones alone count: ids that gossip names cost a stranger nothing.
func (s *Handshake) sampleInterval() time.Duration {
	nodes := len(s.readyIDs()) + 1
	d := s.cfg.StatusInterval
	if nodes > manyNodes {
		d = max(d, min(d*time.Duration(nodes)/manyNodes, maxInterval))
	}
	return d*9/10 + rand.N(d/5+1)
}
