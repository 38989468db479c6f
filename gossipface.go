package parley

import (
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// GossipTopic is how a topic of gossip does.
type GossipTopic struct {
	Topic      string            `json:"topic"` // such as block
	Name       string            `json:"name"`  // on the wire
	Peers      int               `json:"peers"` // that take it
	Mesh       int               `json:"mesh"`  // peers with whom whole messages are exchanged
	MessagesS  float64           `json:"messages_s"`
	Messages   uint64            `json:"messages"`   // accepted since the start, our own included
	Duplicates uint64            `json:"duplicates"` // came again
	Rejected   map[string]uint64 `json:"rejected"`   // by offence
	Ignored    map[string]uint64 `json:"ignored"`    // by cause
}

// MeshPeer is a peer in the mesh of a topic.
type MeshPeer struct {
	Topic string  `json:"topic"`
	Peer  peer.ID `json:"peer"`
	Name  string  `json:"name"`
	Score float64 `json:"score"` // of its gossip
}

// GossipTopics lists the topics by name; none until the chain is known.
func (n *Node) GossipTopics() []GossipTopic {
	list := []GossipTopic{}
	last := n.lastStats.Load()
	for _, t := range n.gossip.Topics() {
		g := GossipTopic{
			Topic: t.Topic, Name: t.Name, Peers: t.Peers, Mesh: t.Mesh, Messages: t.Messages, Duplicates: t.Duplicates,
			Rejected: t.Rejected, Ignored: t.Ignored,
		}
		if last != nil {
			g.MessagesS = last.MessagesS[t.Topic]
		}
		list = append(list, g)
	}
	return list
}

// GossipMesh lists the peers in the mesh of a topic, "" = of each, by topic.
func (n *Node) GossipMesh(topic string) ([]MeshPeer, error) {
	list, peers, known := []MeshPeer{}, n.Peers(), topic == ""
	for _, t := range n.gossip.Topics() {
		if topic != "" && t.Topic != topic {
			continue
		}
		known = true
		for _, p := range peers {
			if slices.Contains(p.Mesh, t.Topic) {
				list = append(list, MeshPeer{Topic: t.Topic, Peer: p.ID, Name: p.Name, Score: p.GossipScore})
			}
		}
	}
	if !known {
		return nil, fmt.Errorf("%w: this node serves no topic %.64q: see gossip topics", ErrNotFound, topic)
	}
	return list, nil
}
