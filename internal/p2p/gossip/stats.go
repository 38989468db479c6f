package gossip

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// TopicStats is how a topic does.
type TopicStats struct {
	Topic      string            // our name
	Name       string            // full name on the wire
	Peers      int               // that take it
	Mesh       int               // that we exchange whole messages with
	Messages   uint64            // accepted, our own included
	Duplicates uint64            // came again
	Rejected   map[string]uint64 // by offence, charged
	Ignored    map[string]uint64 // by cause, charged to nobody
}

// Topics lists the served topics by name, and behind them that of chunks. It asks pubsub's loop and so waits
// for its turn, briefly.
func (g *Gossip) Topics() []TopicStats {
	list := []TopicStats{}
	for _, t := range g.served() {
		s := TopicStats{
			Topic: t.Name, Name: t.wire, Mesh: g.tracer.size(t.wire),
			Messages: t.messages.Load(), Duplicates: t.duplicates.Load(),
		}
		if h := t.handle.Load(); h != nil {
			s.Peers = len(h.ListPeers())
		}
		t.mu.Lock()
		s.Rejected, s.Ignored = maps.Clone(t.rejected), maps.Clone(t.ignored)
		t.mu.Unlock()
		list = append(list, s)
	}
	if r := g.chunks(); r != nil {
		list = append(list, r.inner.Topics()...)
	}
	return list
}

// MeshOf lists the topics, by our names, in whose mesh p is.
func (g *Gossip) MeshOf(p peer.ID) []string {
	names := []string{}
	for _, t := range g.served() {
		if slices.Contains(g.tracer.in(t.wire), p) {
			names = append(names, t.Name)
		}
	}
	if r := g.chunks(); r != nil {
		names = append(names, r.inner.MeshOf(p)...)
	}
	return names
}

// Score is the gossip score of p, at most a second old; 0 for strangers.
func (g *Gossip) Score(p peer.ID) float64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.scores[p].all
}

// score is a peer's gossip score.
type score struct {
	all float64
	own float64 // without its points (P5) and its address (P6): what it did in gossip
}

// keepScores is called by pubsub each second.
func (g *Gossip) keepScores(snaps map[peer.ID]*pubsub.PeerScoreSnapshot) {
	scores := make(map[peer.ID]score, len(snaps))
	for p, s := range snaps {
		scores[p] = score{s.Score, s.Score - s.AppSpecificScore - ipWeight*s.IPColocationFactor}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scores = scores
}

// chargeNoise charges whom gossip alone would shut out, each once a minute; till
// is for how long the charges made hold. The reason is a weak one, so a noisy
// topic disconnects nobody.
func (g *Gossip) chargeNoise(till map[peer.ID]time.Time, now time.Time) {
	g.mu.RLock()
	scores := g.scores
	g.mu.RUnlock()
	maps.DeleteFunc(till, func(_ peer.ID, t time.Time) bool { return !now.Before(t) })
	for p, s := range scores {
		if _, charged := till[p]; s.own < gossipBelow && !charged && g.scope.Network().Connectedness(p) == network.Connected {
			till[p] = now.Add(time.Minute)
			g.rep.Penalize(p, chain.Gossip, fmt.Sprintf("gossip score %.0f", s.own))
		}
	}
}

func (g *Gossip) served() []*topic {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.SortedFunc(maps.Values(g.byName), func(a, b *topic) int { return strings.Compare(a.Name, b.Name) })
}
