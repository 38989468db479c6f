package chainsync

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// FuzzParts: whatever a peer answers, nothing is taken that was not asked for.
func FuzzParts(f *testing.F) {
	c := ledgertest.New(f, 1)
	records := someRecords(c, 3, 20)
	b := c.Next(records...)
	f.Add(byte(0), wire.EncodeRecords(records))
	f.Add(byte(1), hintsOf(b)[0].Encode())
	f.Add(byte(2), wire.SubtreeAnswer{Height: 1, Records: records}.Encode())
	f.Fuzz(func(t *testing.T, kind byte, answer []byte) {
		n := &lan{tb: t}
		asker, src := n.join(c, nil), n.join(c, nil)
		src.handle = func(_ context.Context, st chain.Stream) error {
			if _, err := readRequest(st); err != nil {
				return err
			}
			return wire.WriteFrame(st, answer)
		}
		ids, subtrees := b.Body[0].IDs(), b.Body.SubtreeIDs()
		var err error
		switch kind % 3 {
		case 0:
			var got [][]byte
			got, _, err = asker.fetchRecords(t.Context(), src.id, 1, ids)
			for _, raw := range got {
				if !slices.Contains(ids, consortium.RecordID(raw)) {
					t.Errorf("record %x was taken", raw)
				}
			}
		case 1:
			var got map[chain.Hash][]chain.Hash
			got, _, err = asker.fetchIDs(t.Context(), src.id, 1, subtrees)
			for id, list := range got {
				if id != subtrees[0] || !slices.Equal(list, ids) {
					t.Errorf("subtree %s with %d records was taken", id, len(list))
				}
			}
		case 2:
			var got map[chain.Hash][][]byte
			got, _, err = asker.fetchSubtrees(t.Context(), src.id, 1, subtrees)
			for id, list := range got {
				if id != subtrees[0] || (consortium.Subtree{Records: list}).ID() != id {
					t.Errorf("subtree %s was taken", id)
				}
			}
		}
		var bad *chain.InvalidError
		if err != nil && !errors.As(err, &bad) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
		n.wg.Wait()
	})
}
