package chainsync

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/wire"
)

// wanted are the ids that a peer was asked for. Each is answered once at most;
// what an id fixes needs no further proof.
type wanted map[chain.Hash]bool

func want(ids []chain.Hash) wanted {
	w := make(wanted, len(ids))
	for _, id := range ids {
		w[id] = true
	}
	return w
}

func (w wanted) answer(what string, id chain.Hash) error {
	open, known := w[id]
	switch {
	case !known:
		return chain.Invalid(chain.InvalidBlock, "%s %s was not asked for", what, id)
	case !open:
		return chain.Invalid(chain.Violation, "%s %s comes twice", what, id)
	}
	w[id] = false
	return nil
}

// fetchRecords asks for records by their ids, at most wire.MaxSyncRecords, and
// returns those that came, in any order, also with an error. height, if not 0,
// is the block that holds them.
func (y *Syncer) fetchRecords(ctx context.Context, p peer.ID, height uint64, ids []chain.Hash) (records [][]byte, took timing, err error) {
	w := want(ids)
	req := wire.SyncRequest{Kind: wire.SyncRecords, From: height, IDs: ids}
	took, err = y.request(ctx, p, req, pullTime, func(frame []byte) error {
		list, err := wire.DecodeRecords(frame)
		if err != nil {
			return wire.Fault(err)
		}
		for _, raw := range list {
			if err := w.answer("record", consortium.RecordID(raw)); err != nil {
				return err
			}
			records = append(records, raw)
		}
		return nil
	})
	return records, took, err
}

// fetchIDs asks for the record ids of subtrees, at most wire.MaxSyncSubtrees.
func (y *Syncer) fetchIDs(ctx context.Context, p peer.ID, height uint64, ids []chain.Hash) (subtrees map[chain.Hash][]chain.Hash, took timing, err error) {
	w, subtrees := want(ids), map[chain.Hash][]chain.Hash{}
	req := wire.SyncRequest{Kind: wire.SyncIDs, From: height, IDs: ids}
	took, err = y.request(ctx, p, req, pullTime, func(frame []byte) error {
		s, err := wire.DecodeSubtree(frame)
		if err != nil {
			return wire.Fault(err)
		}
		id := consortium.SubtreeID(s.Records)
		if err := w.answer("subtree", id); err != nil {
			return err
		}
		subtrees[id] = s.Records
		return nil
	})
	return subtrees, took, err
}

// fetchSubtrees asks for whole subtrees, at most wire.MaxSyncSubtrees.
func (y *Syncer) fetchSubtrees(ctx context.Context, p peer.ID, height uint64, ids []chain.Hash) (subtrees map[chain.Hash][][]byte, took timing, err error) {
	w, subtrees := want(ids), map[chain.Hash][][]byte{}
	req := wire.SyncRequest{Kind: wire.SyncSubtrees, From: height, IDs: ids}
	took, err = y.request(ctx, p, req, pullTime, func(frame []byte) error {
		a, err := wire.DecodeSubtreeAnswer(frame)
		if err != nil {
			return wire.Fault(err)
		}
		if len(a.Records) == 0 {
			return chain.Invalid(chain.Malformed, "subtree %d of block %d is empty", a.Index, a.Height)
		}
		id := consortium.Subtree{Records: a.Records}.ID()
		if err := w.answer("subtree", id); err != nil {
			return err
		}
		subtrees[id] = a.Records
		return nil
	})
	return subtrees, took, err
}
