package gossip

import (
	"maps"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
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

// Topics lists the served topics by name. It asks pubsub's loop and so waits
// for its turn, briefly.
func (g *Gossip) Topics() []TopicStats {
	list := []TopicStats{}
	for _, t := range g.served() {
		s := TopicStats{
			Topic: t.Name, Name: t.wire, Mesh: len(g.tracer.in(t.wire)),
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
	return names
}

// Score is the gossip score of p, at most a second old; 0 for strangers.
func (g *Gossip) Score(p peer.ID) float64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.scores[p]
}

func (g *Gossip) keepScores(scores map[peer.ID]float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scores = scores
}

func (g *Gossip) served() []*topic {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.SortedFunc(maps.Values(g.byName), func(a, b *topic) int { return strings.Compare(a.Name, b.Name) })
}
