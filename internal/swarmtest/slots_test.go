package swarmtest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// knows writes an address book with the nodes into n's data directory, as an
// earlier life would have left it.
func (n *Node) knows(nodes ...*Node) {
	t := n.swarm.T
	t.Helper()
	b, err := n.bookOf(nodes)
	for errors.Is(err, addrbook.ErrFull) { // two fell on one place of it; they do by a secret of the book
		b, err = n.bookOf(nodes)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ctx); err != nil { // saves
		t.Fatal(err)
	}
}

// bookOf is a new book in n's data directory, not saved yet.
func (n *Node) bookOf(nodes []*Node) (*addrbook.Book, error) {
	b, err := addrbook.Open(addrbook.Config{Dir: filepath.Join(n.cfg.DataDir, "addrbook"), Private: true}, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	for _, o := range nodes {
		id, err := o.PublicKey().PeerID()
		if err != nil {
			return nil, err
		}
		a, err := multiaddr.NewMultiaddr("/ip4/" + o.ip + "/udp/9906/quic-v1")
		if err != nil {
			return nil, err
		}
		if err := b.AddBare(addrbook.Source{Kind: addrbook.Operator}, peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{a}}); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// inSlots counts the ready peers in a slot.
func (n *Node) inSlots(slot string) int {
	all := 0
	for _, p := range n.Peers() {
		if p.Ready && p.Slot == slot {
			all++
		}
	}
	return all
}

// A node without static peers finds its way by its address book, also after an
// outage of its own and a restart; the peers see it as inbound.
func TestSlotsFromTheBook(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Alone) // who dials n by himself would be no outbound peer of n
		s.Genesis("slots", a)
		var others []*Node
		for range 5 {
			others = append(others, s.Add(Peers(a.Addr()), Alone))
		}
		n := s.Add(Alone)
		n.cfg.Consortium.GenesisFile = a.cfg.Consortium.GenesisFile
		n.cfg.P2P.TargetPeers = 4
		n.Start()
		n.Stop()
		n.knows(others...)
		a.Start()
		for _, o := range others {
			o.Start()
		}
		n.Start()
		s.Until("the slots are filled", 20*time.Second, func() bool { return n.inSlots("outbound") == 4 && n.inSlots("block_only") == 1 })
		a.Submit("x", `{}`, parley.Committed)
		s.Agree(10*time.Second, append(others, n)...)
		for _, p := range n.Peers() {
			if p.Slot != "static" && p.Source != "operator" {
				t.Errorf("%s in slot %s comes from %s", p.Name, p.Slot, p.Source)
			}
		}
		id := n.ID()
		in := 0
		for _, o := range others {
			if p, ok := o.Peer(id); ok && p.Slot == "inbound" && p.Source == "inbound" {
				in++
			}
		}
		if in != 5 {
			t.Errorf("%d peers see it as inbound, want 5", in)
		}

		s.Partition(n)
		time.Sleep(5 * time.Minute)
		if c := n.PeerCount(); c.Connected != 0 {
			t.Errorf("%d peers while it is cut off", c.Connected)
		}
		s.Heal()
		// Who filled a slot meanwhile leaves for the one who had it, and is left alone for ten minutes.
		s.Until("the slots are filled after the outage", 12*time.Minute, func() bool {
			return n.inSlots("outbound") == 4 && n.inSlots("block_only")+n.inSlots("inbound") >= 1 // the fifth may be the one who dials
		})
		n.Stop()
		n.Start()
		s.Until("the slots are filled after a restart", 30*time.Second, func() bool { return n.inSlots("outbound") == 4 })
	})
}
