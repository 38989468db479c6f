package parley

import (
	"errors"
	"fmt"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// Proof shows that a record is in the chain to somebody who has no node and
// knows nothing but the genesis hash: see [consortium.VerifyProof]. A record
// that waits or was rejected is an ErrNotFound that says so.
func (n *Node) Proof(id chain.Hash) (*consortium.Proof, error) {
	if _, err := n.embedded(); err != nil {
		return nil, err
	}
	p, err := n.replica.Ledger().Proof(id)
	if !errors.Is(err, ledger.ErrNotFound) {
		return p, err
	}
	r, err := n.Record(id)
	switch {
	case err != nil:
		return nil, err
	case r.Status == "rejected":
		return nil, fmt.Errorf("record %s: %w in any block: it was rejected for good: %s", id, ErrNotFound, *r.Reason)
	case r.Status == "pending":
		return nil, fmt.Errorf("record %s: %w in a block yet: ask again once it is committed", id, ErrNotFound)
	}
	return n.replica.Ledger().Proof(id) // committed this moment
}
