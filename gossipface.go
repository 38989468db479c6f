package parley

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/gossip"
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

// GossipMessage is a message of gossip that came by, or that is ours.
type GossipMessage struct {
	ID        string    `json:"message_id"`
	Topic     string    `json:"topic"`
	SizeBytes int       `json:"size_bytes"` // with the envelope of a claim
	Own       bool      `json:"own"`
	At        time.Time `json:"at"`         // of its first arrival
	Verdict   string    `json:"verdict"`    // pending | accept | ignore | reject | dropped
	Reason    string    `json:"reason"`     // of a verdict that is not accept
	VerdictMS float64   `json:"verdict_ms"` // from the arrival to the verdict
}

// GossipTrace is the way of a message through this node.
type GossipTrace struct {
	GossipMessage
	Hops []GossipHop `json:"hops"` // in their order
	More int         `json:"more"` // hops that are not kept
}

// GossipHop is one coming or going of a message.
type GossipHop struct {
	Peer    peer.ID   `json:"peer"`
	Name    string    `json:"name"` // "" = it is gone
	What    string    `json:"what"` // first | duplicate | sent
	At      time.Time `json:"at"`
	AfterMS float64   `json:"after_ms"` // the arrival
}

// TailedMessage is a message that was judged. One without an ID is none: it tells
// how many were left out while no other came.
type TailedMessage struct {
	GossipMessage
	From peer.ID `json:"from"` // who brought it first
	Lost uint64  `json:"lost"` // messages left out before it, since nobody took them in time
	Data []byte  `json:"data"` // of an accepted one, where it was asked for; MUST NOT be changed
}

// GossipTrace tells the way of one of the newest messages by its id, 40 hex
// digits.
func (n *Node) GossipTrace(id string) (GossipTrace, error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != 20 {
		return GossipTrace{}, fmt.Errorf("%w: %.64q is no id of a message, which has 40 hex digits", ErrBadRef, id)
	}
	s, ok := n.gossip.Trace(string(raw))
	if !ok {
		return GossipTrace{}, fmt.Errorf("%w: message %s is not among the newest that this node heard of", ErrNotFound, id)
	}
	t := GossipTrace{GossipMessage: messageView(s), Hops: []GossipHop{}, More: s.More}
	names := map[peer.ID]string{}
	for _, p := range n.Peers() {
		names[p.ID] = p.Name
	}
	for _, h := range s.Hops {
		t.Hops = append(t.Hops, GossipHop{Peer: h.Peer, Name: names[h.Peer], What: h.What, At: inMS(h.At), AfterMS: inMSF(h.At.Sub(s.At))})
	}
	return t, nil
}

func messageView(s gossip.Seen) GossipMessage {
	m := GossipMessage{ID: hex.EncodeToString([]byte(s.ID)), Topic: s.Topic, SizeBytes: s.Size, Own: s.Own, At: inMS(s.At), Verdict: s.Verdict, Reason: strings.ToValidUTF8(s.Reason, "")}
	if !s.Judged.IsZero() {
		m.VerdictMS = inMSF(s.Judged.Sub(s.At))
	}
	return m
}

// GossipTail follows messages as they are judged. Its methods are for one
// goroutine.
type GossipTail struct{ tail *gossip.Tail }

// TailGossip begins with what is judged next of topics, which need not be
// served yet; of all where none is named. The caller MUST Close it.
func (n *Node) TailGossip(topics []string, data bool) GossipTail {
	return GossipTail{n.gossip.Follow(topics, data)}
}

// Wake yields when there is something to Take.
func (t GossipTail) Wake() <-chan struct{} { return t.tail.Wake() }

// Take returns what was judged since, and last how much of it was left out.
func (t GossipTail) Take() []TailedMessage {
	judged := t.tail.Take()
	list := make([]TailedMessage, len(judged))
	for i, j := range judged {
		list[i].Lost = uint64(j.Lost)
		if j.ID != "" {
			list[i] = TailedMessage{GossipMessage: messageView(j.Seen), From: j.From, Lost: uint64(j.Lost), Data: j.Data}
		}
	}
	return list
}

// Close ends it.
func (t GossipTail) Close() { t.tail.Close() }
