package parley

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/wire"
)

func (n *Node) discoveryConfig(c config.P2P) discovery.Config {
	return discovery.Config{
		Discovery: n.cfg.Discovery, Bootstrap: c.BootstrapPeers, Private: n.cfg.P2P.Addresses != config.AddressesPublic,
		File: filepath.Join(n.cfg.DataDir, "dht.json"),
	}
}

// sourceKinds is how many kinds of sources can bring peers: those that are
// asked, and those that dial us.
func (n *Node) sourceKinds(c config.P2P) int { return discovery.Kinds(n.discoveryConfig(c)) + 1 }

// openDiscovery wires the sources of the book. What carries the network's name
// begins when the chain is known.
func (n *Node) openDiscovery() (err error) {
	identity := n.identityOf()
	n.disc, err = discovery.New(n.discoveryConfig(n.cfg.P2P), discovery.Functions{
		Resolve: n.resolver(), Connect: n.visit, Banned: n.bannedAt, ByHand: n.dial.ByHand, Found: n.slots.Found,
		Wanted: n.wanted, Alarms: n.alarms,
		Ready: func(p peer.ID) bool { return n.shake.IsReady(p) && !n.blocksAlone(p) },
		Identity: func(ctx context.Context, hostport string) (peer.AddrInfo, error) {
			who, err := identity(ctx, hostport)
			return peer.AddrInfo{ID: who.ID, Addrs: who.Addrs}, err
		},
		Leave: func(ctx context.Context, p peer.ID) {
			n.shake.Disconnect(ctx, p, wire.GoodbyeShutdown, "asked for other peers")
		},
		Report: func(p peer.ID, o chain.Offence, detail string) { n.rep.Penalize(p, o, detail) },
	}, n.host, n.book, n.bus, n.room("p2p.discovery"), n.env.Registry)
	if err != nil {
		return &StartError{Code: 101, Err: fmt.Errorf("discovery: %w", err)}
	}
	return nil
}

// named reports whether the configuration told us of p as one to ask for others.
func (n *Node) named(p peer.ID) bool {
	e, _ := n.book.Get(p)
	return slices.ContainsFunc(e.Sources, func(s addrbook.Source) bool { return s.Kind == addrbook.Bootstrap || s.Kind == addrbook.DNS })
}

// wanted reports whether a connection with p is for more than asking it.
func (n *Node) wanted(p peer.ID) bool {
	slot, _ := n.slots.SlotOf(p)
	return slot != "" || n.dial.Has(p) || n.dial.Trusted(p) || n.dial.ByHand(p)
}

// slotOf is the slot of p and who told us of it. One to which we connected only
// to ask it is a feeler too: it goes by itself.
func (n *Node) slotOf(p peer.ID) (slot, source string) {
	if slot, source = n.slots.SlotOf(p); slot == "" && n.disc.Visits(p) && !n.dial.ByHand(p) {
		slot = dialer.SlotFeeler
	}
	return slot, source
}

// visit makes a peer connected and ready, and is no slot.
func (n *Node) visit(ctx context.Context, info peer.AddrInfo) error {
	if err := n.host.Connect(ctx, info); err != nil {
		return err
	}
	return n.shake.Greet(ctx, info.ID)
}

// knownAddrs is where the address book has a peer.
func (n *Node) knownAddrs(p peer.ID) []multiaddr.Multiaddr {
	e, _ := n.book.Get(p)
	return e.Addrs
}
