package host

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	refusedFor = 10 * time.Minute // that a refusal is remembered
	maxRefused = 1000             // remembered
)

// PrivateNetwork holds the shared keys of a network that nobody enters without
// one of them, and the connections that were made under each. The first key
// dials, every key is accepted. It is safe for concurrent use, and serves one
// host.
type PrivateNetwork struct {
	told func(remote ma.Multiaddr, why string) // set by build; may be nil

	mu      sync.Mutex               // guards what follows
	keys    []SharedKey              // never empty
	since   time.Time                // from when on the first key is the first
	conns   map[*fencedConn]struct{} // that proved a key and stand
	refused []Refusal                // newest last, at most maxRefused
}

// Refusal is a connection that was closed because it proved no shared key.
type Refusal struct {
	At     time.Time
	Remote ma.Multiaddr
	Why    string
}

// NewPrivateNetwork takes one to four keys, none twice.
func NewPrivateNetwork(keys []SharedKey) (*PrivateNetwork, error) {
	if len(keys) == 0 || len(keys) > maxSharedKeys {
		return nil, errors.New("a private network has one to four shared keys")
	}
	return &PrivateNetwork{keys: slices.Clone(keys), since: time.Now(), conns: map[*fencedConn]struct{}{}}, nil
}

// Keys are the keys of now. The caller owns the list.
func (n *PrivateNetwork) Keys() []SharedKey {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.keys)
}

func (n *PrivateNetwork) dialKey() SharedKey {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.keys[0]
}

// SetKeys replaces the keys by others, and closes the connections that were made
// under one that is no more; it tells how many. No other connection notices.
// They MUST be as [ParseSharedKeys] gives them, one to four: none = they stay.
func (n *PrivateNetwork) SetKeys(keys []SharedKey) (closed int) {
	if len(keys) == 0 {
		return 0
	}
	n.mu.Lock()
	if keys[0] != n.keys[0] {
		n.since = time.Now()
	}
	n.keys = slices.Clone(keys)
	var gone []*fencedConn
	for c := range n.conns {
		if !slices.Contains(n.keys, c.key) {
			gone = append(gone, c)
		}
	}
	n.mu.Unlock()
	for _, c := range gone {
		_ = c.Close() // the swarm's side ends by that
	}
	return len(gone)
}

// enter notes a connection that proved its key, unless the key is no more.
func (n *PrivateNetwork) enter(c *fencedConn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	ok := slices.Contains(n.keys, c.key)
	if ok {
		n.conns[c] = struct{}{}
	}
	return ok
}

func (n *PrivateNetwork) leave(c *fencedConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

func (n *PrivateNetwork) refuse(remote ma.Multiaddr, why string) {
	n.mu.Lock()
	if len(n.refused) == maxRefused {
		n.refused = slices.Delete(n.refused, 0, 1)
	}
	n.refused = append(n.refused, Refusal{time.Now(), remote, why})
	n.mu.Unlock()
	if n.told != nil {
		n.told(remote, why)
	}
}

// Refused lists who was turned away in the last ten minutes, newest last, at
// most 1,000.
func (n *PrivateNetwork) Refused() []Refusal {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := time.Now().Add(-refusedFor)
	for len(n.refused) > 0 && n.refused[0].At.Before(old) {
		n.refused = n.refused[1:]
	}
	return slices.Clone(n.refused)
}

// OldKeyPeer is a connected peer below another key than the first one.
type OldKeyPeer struct {
	Peer peer.ID
	Key  SharedKey
	// Dials means that the peer dialled after the first key became the first:
	// it dials with the old one still. Else the connection is older than that.
	Dials bool
}

// OldKeyPeers lists the connections of the host that are not below the first
// key, one a peer.
func (h *Host) OldKeyPeers() []OldKeyPeer {
	if h.private == nil {
		return nil
	}
	return h.peersOutside(h.private.Keys()[:1], false)
}

// PeersWithout lists the peers that would lose their last connection if keys
// were the keys of the network.
func (h *Host) PeersWithout(keys []SharedKey) []OldKeyPeer {
	if h.private == nil {
		return nil
	}
	return h.peersOutside(keys, true)
}

// peersOutside lists the connections that are below none of keys, one a peer;
// with lost only those of peers that have no other.
func (h *Host) peersOutside(keys []SharedKey, lost bool) []OldKeyPeer {
	outside, since := h.private.outside(keys)
	if len(outside) == 0 {
		return nil
	}
	var list []OldKeyPeer
	stay := map[peer.ID]bool{}
	for _, c := range h.Network().Conns() {
		f, ok := outside[endsOf(c)]
		if !ok {
			stay[c.RemotePeer()] = true
			continue
		}
		p := OldKeyPeer{Peer: c.RemotePeer(), Key: f.key, Dials: f.inbound && f.opened.After(since)}
		i := slices.IndexFunc(list, func(o OldKeyPeer) bool { return o.Peer == p.Peer })
		switch {
		case i < 0:
			list = append(list, p)
		case p.Dials:
			list[i] = p
		}
	}
	if lost {
		list = slices.DeleteFunc(list, func(o OldKeyPeer) bool { return stay[o.Peer] })
	}
	return list
}

// outside are the connections that are below none of keys.
func (n *PrivateNetwork) outside(keys []SharedKey) (conns map[ends]*fencedConn, since time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	conns = map[ends]*fencedConn{}
	for c := range n.conns {
		if !slices.Contains(keys, c.key) {
			conns[endsOf(c)] = c
		}
	}
	return conns, n.since
}

// ends name a connection as the swarm knows it, too.
type ends struct{ local, remote string }

func endsOf(c network.ConnMultiaddrs) ends {
	return ends{c.LocalMultiaddr().String(), c.RemoteMultiaddr().String()}
}
