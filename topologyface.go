package parley

import "github.com/libp2p/go-libp2p/core/peer"

// Topology is the network as one node sees it.
type Topology struct {
	Nodes []TopologyNode `json:"nodes"` // this node first
	Links []TopologyLink `json:"links"`
	Scope string         `json:"scope"` // view: what one node sees
}

// TopologyNode is a node of it.
type TopologyNode struct {
	ID     peer.ID `json:"id"`
	Self   bool    `json:"self"`
	Name   string  `json:"name"`
	Group  string  `json:"group"`  // of its address, as the address book groups; "" = it has none
	Height *uint64 `json:"height"` // that it has shown, else claims; null = not known
}

// TopologyLink is a connection of this node.
type TopologyLink struct {
	A         peer.ID  `json:"a"` // this node
	B         peer.ID  `json:"b"`
	Direction string   `json:"direction"`  // inbound | outbound, as A sees it
	LatencyMS *float64 `json:"latency_ms"` // null = not measured yet
	Topics    []string `json:"topics"`     // in whose mesh both are
}

// Topology is this node with its connected peers: of links between others it
// knows nothing.
func (n *Node) Topology() Topology {
	t := Topology{Nodes: []TopologyNode{{ID: n.ID(), Self: true, Name: n.cfg.Node.Name}}, Links: []TopologyLink{}, Scope: "view"}
	if h := n.head(); h != nil {
		t.Nodes[0].Height = &h.Height
	}
	for _, p := range n.Peers() {
		node := TopologyNode{ID: p.ID, Name: p.Name, Group: p.Group}
		switch {
		case p.Validated != nil:
			node.Height = &p.Validated.Height
		case p.Claimed != nil:
			node.Height = &p.Claimed.Height
		}
		link := TopologyLink{A: n.ID(), B: p.ID, Direction: p.Direction, Topics: p.Mesh}
		if p.LatencyMS > 0 {
			link.LatencyMS = &p.LatencyMS
		}
		if link.Topics == nil {
			link.Topics = []string{}
		}
		t.Nodes, t.Links = append(t.Nodes, node), append(t.Links, link)
	}
	return t
}
