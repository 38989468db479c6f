package parley

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// bannedAt tells the address book and discovery whom to leave out.
func (n *Node) bannedAt(p peer.ID, a netip.Addr) bool {
	return n.bans.Banned("", a) || n.rep.Refused(p)
}

// loadASMap comes before anything is made: a fault of the file leaves no trace.
func (n *Node) loadASMap() (err error) {
	if n.asMap, err = addrbook.LoadASMap(n.cfg.Path(n.cfg.P2P.ASMapFile)); err != nil {
		return &StartError{Code: 101, Err: fmt.Errorf("p2p.as_map_file: %w: name a file of routes, one PREFIX AS-NUMBER a line, or leave it empty", err)}
	}
	return nil
}

// openBook opens the address book. Its network is told later where the chain is
// not known yet.
func (n *Node) openBook() (err error) {
	n.book, err = addrbook.Open(addrbook.Config{
		Dir: filepath.Join(n.cfg.DataDir, "addrbook"), Net: n.network.ID().Net, Private: n.cfg.P2P.Addresses != config.AddressesPublic,
		ASMap: n.asMap, Sources: n.sourceKinds(n.cfg.P2P), Banned: n.bannedAt, Self: n.host.ID(),
	}, n.bus, n.room("p2p.addrbook"), n.env.Registry)
	if err != nil {
		return &StartError{Code: 104, Err: err}
	}
	return nil
}

// openSlots wires the slots that are filled from the book.
func (n *Node) openSlots() (err error) {
	fns := dialer.SlotsFunctions{
		Peers: n.slotPeers, Head: func() chain.Head { return n.network.Status().Head },
		Syncing: func() bool { return n.syncState().State == "syncing" }, Gave: n.gossip.Gave, Disconnect: n.shake.Disconnect,
		Need: func() { n.disc.Need() }, Refused: n.rep.Refusals, Alarms: n.alarms, Reachable: n.listensInPublic, Renew: n.gossip.Renew,
	}
	if c, ok := n.network.(chain.Clocked); ok {
		fns.Interval = c.Interval
	}
	cfg := dialer.Places(n.cfg.P2P.TargetPeers, n.cfg.P2P.MaxPeers)
	cfg.Kinds = n.sourceKinds(n.cfg.P2P)
	n.slots, err = dialer.NewSlots(cfg, fns, n.dial, n.book, n.bus, n.room("p2p.slots"), n.env.Registry)
	return err
}

// listensInPublic reports whether a public address is told to others.
func (n *Node) listensInPublic() bool {
	return n.cfg.P2P.Addresses != config.AddressesPrivate && slices.ContainsFunc(n.host.Addrs(), func(a multiaddr.Multiaddr) bool {
		ip := addrbook.IP(a)
		return ip.IsValid() && addrbook.Public(ip)
	})
}

// slotPeers is the table of peers as the slots see it.
func (n *Node) slotPeers() []dialer.Peer {
	table := n.shake.Peers()
	list := make([]dialer.Peer, len(table))
	for i, p := range table {
		list[i] = dialer.Peer{
			ID: p.ID, Ready: p.Ready, Inbound: p.Direction == "inbound", Addr: p.Addr, ConnectedAt: p.ConnectedAt,
			MinRTT: p.MinRTT, Leaving: p.Leaving, Ahead: p.Ahead, Claimed: p.Claimed, Validated: p.Validated,
		}
	}
	return list
}

// takes says which topics a peer is sent: one that is there for blocks alone
// gets no records, so that it does not show which ones are ours.
func (n *Node) takes(p peer.ID, topic string) bool {
	return topic != "record" && topic != "rejected_tx" || n.replica == nil || !n.blocksAlone(p)
}

func (n *Node) blocksAlone(p peer.ID) bool {
	slot, _ := n.slots.SlotOf(p)
	return slot == dialer.SlotBlockOnly
}
