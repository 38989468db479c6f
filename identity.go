package parley

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/host"
)

// identity reads the node's key, or makes one. A key that was given by value is
// kept in the file, and a node that has another one does not start.
func (n *Node) identity() (key crypto.PrivKey, created bool, err error) {
	if n.cfg.Node.Key != "" {
		key, created, err = n.givenKey()
	} else {
		key, created, err = host.LoadOrCreateKey(n.keyPath())
	}
	if errors.Is(err, host.ErrKeyMode) && key != nil && filepath.IsAbs(n.cfg.Node.KeyFile) {
		n.log.Warn("others may read the key", "file", n.keyPath(), "err", err) // a mounted secret has the mode it has
		err = nil
	}
	if start := (*StartError)(nil); errors.As(err, &start) {
		return nil, false, err
	}
	if err != nil {
		return nil, false, &StartError{Code: 104, Err: err}
	}
	if created {
		n.log.Info("identity made", "file", n.keyPath())
	}
	return key, created, n.checkID(key)
}

func (n *Node) givenKey() (key crypto.PrivKey, created bool, err error) {
	given, err := host.ImportKey([]byte(n.cfg.Node.Key), "")
	if err != nil {
		return nil, false, &StartError{Code: 101, Err: fmt.Errorf("p2p_private_key: %w", err)} // it shows nothing of the key
	}
	if err := n.checkID(given); err != nil {
		return nil, false, err
	}
	key, err = host.LoadKey(n.keyPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = host.SaveKey(n.keyPath(), given, false)
		return given, err == nil, err
	case key != nil && !key.Equals(given):
		return nil, false, &StartError{Code: 101, Err: fmt.Errorf("p2p_private_key is another identity than that of %s: unset it, or move the file away", n.keyPath())}
	}
	return key, false, err
}

// checkID refuses to run as somebody else than node.peer_id says.
func (n *Node) checkID(key crypto.PrivKey) error {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return &StartError{Code: 104, Err: fmt.Errorf("peer id of %s: %w", n.keyPath(), err)}
	}
	if want := n.cfg.Node.PeerID; want != "" && want != id.String() {
		return &StartError{Code: 101, Err: fmt.Errorf("node.peer_id (p2p_peer_id) is %s, and the key in %s makes %s: correct it, or put that node's key there", want, n.keyPath(), id)}
	}
	return nil
}
