package parley

import (
	"errors"
	"fmt"
	"os"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/replica"
	"github.com/parley-p2p/parley/internal/replica/mempool"
	"github.com/parley-p2p/parley/internal/sidecar"
)

// ErrOtherNetwork means that what was asked for is not there on a node of this
// kind of network.
var ErrOtherNetwork = errors.New("not on this network")

var (
	_ chain.Network = (*replica.Replica)(nil)
	_ chain.Network = (*sidecar.Sidecar)(nil)
)

// openNetwork makes the network that the configuration names.
func (n *Node) openNetwork(key crypto.PrivKey, created bool) (err error) {
	if n.cfg.Network == config.NetworkSidecar {
		n.sidecar, err = sidecar.New(sidecar.Config{
			Sidecar: n.cfg.Sidecar, NetworkName: n.cfg.NetworkName, Reserved: n.cfg.Gossip.Topics.ReservedTopics(),
		}, n.bus, n.room("sidecar"), n.env.Registry)
		n.network = n.sidecar
		return err
	}
	n.replica, err = replica.New(replica.Config{
		Chain: n.cfg.Consortium, NetworkName: n.cfg.NetworkName, Name: n.cfg.Node.Name, Host: hostName(),
		Key: host.RawEd25519(key), NewKey: created, DataDir: n.cfg.DataDir, Static: len(n.cfg.P2P.StaticPeers), Seeds: len(n.cfg.P2P.BootstrapPeers) + len(n.cfg.Discovery.DNS),
		SoleValidator: n.cfg.Consortium.SoleValidator, Addresses: n.fullAddrs, LedgerFS: n.env.LedgerFS, MemoryWAL: n.env.MemoryWAL, Outgoing: n.env.Outgoing,
		Clock: n.env.Clock, End: n.env.End, Tracer: n.env.Tracer,
	}, n.bus, n.log, n.env.Registry)
	if err != nil {
		return err
	}
	n.network = n.replica
	sweepCheckpoints(n.cfg.DataDir) // the store is locked: no other node makes one
	return nil
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// topicNames are the names on the wire of the topics that the configuration
// can rename. A program names its own.
func (n *Node) topicNames() map[string]string {
	t := n.cfg.Gossip.Topics
	names := map[string]string{"best_block": t.BestBlock, "node_status": t.NodeStatus, "handshake": t.Handshake}
	if n.replica != nil {
		names["block"], names["subtree"], names["record"], names["mining_on"], names["rejected_tx"] = t.Block, t.Subtree, t.Record, t.MiningOn, t.RejectedTx
	}
	return names
}

// embedded is the embedded chain, or ErrOtherNetwork.
func (n *Node) embedded() (*replica.Replica, error) {
	if n.replica == nil {
		return nil, fmt.Errorf("%w: this is a node of a %s network, and only %s has that", ErrOtherNetwork, n.cfg.Network, config.NetworkConsortium)
	}
	return n.replica, nil
}

// genesis is that of the embedded chain, or ErrOtherNetwork or ErrNoChain.
func (n *Node) genesis() (*consortium.Genesis, error) {
	r, err := n.embedded()
	if err != nil {
		return nil, err
	}
	if g := r.Genesis(); g != nil {
		return g, nil
	}
	return nil, ErrNoChain
}

// role is what the embedded chain makes of this node, and on a sidecar network
// whether there is a program.
func (n *Node) role() string {
	if n.sidecar == nil {
		return n.replica.Role()
	}
	if _, ok := n.sidecar.Attached(); ok {
		return RoleAttached
	}
	return RoleDetached
}

// pool is nil where there is none.
func (n *Node) pool() *mempool.Pool {
	if n.replica == nil {
		return nil
	}
	return n.replica.Pool()
}

func (n *Node) verification() (v replica.Verification) {
	if n.replica == nil {
		return v
	}
	return n.replica.Verification()
}

// networkRoom is the room of the network, for logs.
func (n *Node) networkRoom() string {
	if n.sidecar != nil {
		return "sidecar"
	}
	return "replica"
}
