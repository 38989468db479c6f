package parley

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	allowKey   = "p2p.allow_peers"
	importKey  = "bans.import"
	partAtOnce = 16 // peers with whom a reload parts
)

// taker judges the new value of a key: an error refuses the reload, else act
// takes it over, once all is known to be good. It runs as part of t.
type taker func(cfg config.Config, t *takeover) (act func(), err error)

// takers are those of the keys that the node's rooms take over.
func (n *Node) takers() map[string]taker {
	return map[string]taker{
		"bans.duration":       n.takeBanDuration,
		importKey:             n.takeImport,
		"bans.threshold":      n.takeThreshold,
		"p2p.advertise":       n.takeAdvertise,
		allowKey:              n.takeAllowed,
		"p2p.bootstrap_peers": n.takeBootstrap,
		"p2p.host_dns":        n.takeAdvertise,
		"p2p.host_ip":         n.takeAdvertise,
		"p2p.static_peers":    n.takeStatic,
		"p2p.trusted_peers":   n.takeTrusted,
	}
}

func (n *Node) takeBanDuration(cfg config.Config, _ *takeover) (func(), error) {
	return func() { n.bans.SetDuration(cfg.Bans.Duration) }, nil
}

func (n *Node) takeThreshold(cfg config.Config, _ *takeover) (func(), error) {
	return func() { n.rep.SetThreshold(cfg.Bans.Threshold) }, nil
}

// takeImport leaves the rest to the end, when it is known who is protected.
func (n *Node) takeImport(_ config.Config, t *takeover) (func(), error) {
	t.lists = true
	return func() {}, nil
}

func (n *Node) takeAllowed(cfg config.Config, t *takeover) (func(), error) {
	t.peers = true
	return func() { n.rep.Allow(allowed(cfg.P2P, n.host.ID())) }, nil
}

func (n *Node) takeBootstrap(cfg config.Config, t *takeover) (func(), error) {
	t.peers = true
	return func() {
		if err := n.disc.SetBootstrap(cfg.P2P.BootstrapPeers); err != nil {
			n.log.Error("bootstrap peers stay as they are", "err", err) // they were judged before
			return
		}
		kinds := n.sourceKinds(cfg.P2P)
		n.book.SetSources(kinds)
		n.slots.SetKinds(kinds)
		n.rep.Allow(allowed(cfg.P2P, n.host.ID()))
	}, discovery.CheckBootstrap(cfg.P2P.BootstrapPeers)
}

func (n *Node) takeStatic(cfg config.Config, t *takeover) (func(), error) {
	t.peers = true
	return func() {
		r, err := n.dial.SetStatic(cfg.P2P.StaticPeers)
		if err != nil {
			n.log.Error("static peers stay as they are", "err", err) // they were judged before
		}
		t.former = r.Peers
	}, dialer.CheckStatic(cfg.P2P.StaticPeers)
}

func (n *Node) takeTrusted(cfg config.Config, t *takeover) (func(), error) {
	t.peers = true
	ids, err := trustedPeers(cfg.P2P)
	return func() { n.dial.SetTrusted(ids) }, err
}

// trustedPeers reads p2p.trusted_peers.
func trustedPeers(p config.P2P) ([]peer.ID, error) {
	ids := make([]peer.ID, len(p.TrustedPeers))
	for i, text := range p.TrustedPeers {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, fmt.Errorf("p2p.trusted_peers: %q: %w", text, err)
		}
		ids[i] = id
	}
	return ids, nil
}

// part closes what a reload has left no reason for: connections that this node
// held with former static peers, and those with who may not connect any more.
func (n *Node) part(ctx context.Context, former []peer.ID) (unallowed int) {
	var g errgroup.Group
	g.SetLimit(partAtOnce)
	for _, p := range n.host.Network().Peers() {
		switch {
		case !n.rep.Allows(p):
			unallowed++
			g.Go(func() error {
				n.shake.Disconnect(ctx, p, wire.GoodbyeBanned, handshake.NotAllowed)
				return nil
			})
		case slices.Contains(former, p) && !n.wanted(p):
			if t, ok := n.shake.Peer(p); ok && t.Direction == "inbound" {
				continue // it is the other's to hold
			}
			g.Go(func() error {
				n.leave(ctx, p, "no static peer any more")
				return nil
			})
		}
	}
	_ = g.Wait() // none fails
	return unallowed
}

// checkImport finds out whether the files of bans.import can be read.
func checkImport(cfg config.Config) error {
	for _, name := range cfg.Bans.Import {
		f, err := os.Open(cfg.Path(name))
		if err != nil {
			return fmt.Errorf("bans.import: %w", err)
		}
		if err := errors.Join(reputation.CheckImport(f), f.Close()); err != nil {
			return fmt.Errorf("bans.import: %s: %w", name, err)
		}
	}
	return nil
}
