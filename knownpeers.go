package parley

import (
	"cmp"
	"maps"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// absent is what is known of a peer that is not connected.
func (n *Node) absent(id peer.ID) Peer {
	score := n.rep.Score(id)
	return Peer{
		ID: id, State: "known", Name: n.history.Name(id), Services: []string{}, Mesh: []string{}, Static: n.dial.Has(id), Trusted: n.dial.Trusted(id),
		Score: score.Score, Points: score.Points, Standing: string(score.Standing),
	}
}

// KnownPeers lists peers that are known and not connected, in the order of
// their ids: static peers, members of the network, and those of the address
// book that are not banned. It begins behind the id after, and gives at most
// limit of those that keep takes; more = there are others behind these.
func (n *Node) KnownPeers(after peer.ID, limit int, keep func(Peer) bool) (list []Peer, more bool) {
	const chunk = 1024 // of the book at once
	list = []Peer{}
	away := func(id peer.ID) bool {
		_, connected := n.shake.Peer(id)
		return !connected
	}
	kept := map[peer.ID]dialer.StaticPeer{}
	for _, s := range n.dial.Static() {
		if s.ID != "" {
			kept[s.ID] = s
		}
	}
	for end := false; !end; {
		entries := n.book.PageByID(after, chunk)
		upTo := peer.ID("")
		if end = len(entries) < chunk; !end {
			upTo = entries[chunk-1].ID
		}
		views := map[peer.ID]func() Peer{}
		for _, e := range entries {
			if !n.book.Banned(e) {
				views[e.ID] = func() Peer { return n.viewKnown(e) }
			}
		}
		for id, s := range kept {
			if id > after && (end || id <= upTo) {
				views[id] = func() Peer { return n.viewStatic(s) }
			}
		}
		for _, id := range slices.Sorted(maps.Keys(views)) {
			if !away(id) {
				continue
			}
			p := views[id]()
			switch {
			case !keep(p):
			case len(list) == limit:
				return list, true
			default:
				list = append(list, p)
			}
		}
		after = upTo
	}
	return list, false
}

// KeptPeers lists the static peers, connected or not, as they are now. Those of
// whom nobody knows yet who they are have no id.
func (n *Node) KeptPeers() []Peer {
	list := []Peer{}
	for _, s := range n.dial.Static() {
		if s.Origin == dialer.OriginMember {
			continue
		}
		p, connected := n.Peer(s.ID)
		if !connected {
			p = n.viewStatic(s)
		}
		list = append(list, p)
	}
	return list
}

// RefusedPeers lists the peers that are kept away for what they did, in the
// order of their ids.
func (n *Node) RefusedPeers() []Peer {
	list := []Peer{}
	for _, id := range n.rep.AllRefused() {
		list = append(list, n.noted(id, "").Peer)
	}
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// known is what is known of a peer that is not connected, be it only how it
// behaved. It reports false where that is nothing.
func (n *Node) known(id peer.ID) (Peer, bool) {
	static := n.dial.Static()
	if i := slices.IndexFunc(static, func(s dialer.StaticPeer) bool { return s.ID == id }); i >= 0 {
		return n.viewStatic(static[i]), true
	}
	if e, ok := n.book.Get(id); ok {
		return n.viewKnown(e), true
	}
	return n.absent(id), n.dial.Trusted(id) || n.judged(id)
}

// judged reports whether there is a story to tell of how id behaved.
func (n *Node) judged(id peer.ID) bool {
	s := n.rep.Score(id)
	return s.Standing == reputation.Banned || len(s.Reasons) > 0
}

func (n *Node) viewStatic(s dialer.StaticPeer) Peer {
	p := n.absent(s.ID)
	if e, ok := n.book.Get(s.ID); ok {
		p = n.viewKnown(e)
	}
	p.Source, p.Address = "static", s.Item
	if s.Origin == dialer.OriginMember {
		p.Source, p.Address = dialer.OriginMember, ""
	}
	if len(s.Addresses) > 0 {
		p.Addr = s.Addresses[0].String()
		p.Group = n.book.Group(s.Addresses[0])
		p.ASN = asnOf(p.Group)
	}
	return p
}

// viewKnown is a peer of the address book.
func (n *Node) viewKnown(e addrbook.Entry) Peer {
	p := n.absent(e.ID)
	p.Source, p.Group, p.ASN, p.LastSeen = sourceOfEntry(e), e.Group, asnOf(e.Group), e.LastSeen
	if len(e.Addrs) > 0 {
		p.Address, p.Addr = hostPort(e.Addrs[0]), e.Addrs[0].String()
	}
	return p
}

// sourceOfEntry is who told of a peer first, or that it is an anchor.
func sourceOfEntry(e addrbook.Entry) string {
	switch {
	case e.Anchor:
		return "anchor"
	case len(e.Sources) > 0:
		return string(e.Sources[0].Kind)
	}
	return ""
}
