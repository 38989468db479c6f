package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Check verifies the chain as it stood when Check was called, from the genesis
// to the tip: headers, certificates, bodies, every record's signature and
// rule, every index entry, and that there are no entries beside them. Appends
// go on meanwhile. What it finds is a *CorruptError; otherwise nil or ctx's
// error. progress may be nil; it is called after each block.
func (l *Ledger) Check(ctx context.Context, progress func(done, total uint64)) error {
	return l.check(ctx, 0, progress)
}

// CheckLast is Check of the newest blocks alone, without the count of index
// entries.
func (l *Ledger) CheckLast(ctx context.Context, blocks uint64, progress func(done, total uint64)) error {
	if height := l.Tip().Head.Height; height > blocks {
		return l.check(ctx, height-blocks, progress)
	}
	return l.check(ctx, 0, progress)
}

// check verifies the blocks above base.
func (l *Ledger) check(ctx context.Context, base uint64, progress func(done, total uint64)) error {
	s := l.db.NewSnapshot()
	defer s.Close()
	g, err := readGenesis(s)
	if errors.Is(err, ErrNotFound) {
		return nil // no chain, no fault
	}
	fault := func(height uint64, err error) error { return &CorruptError{Dir: l.dir, Height: height, Err: err} }
	if err != nil {
		return fault(0, err)
	}
	end, err := readTip(s, g)
	if err != nil {
		return fault(end.Head.Height, err)
	}
	tip, err := startAt(s, g, base, end)
	if err != nil {
		return fault(base, err)
	}
	var subtrees uint64
	for height := base + 1; height <= end.Head.Height; height++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := readBlock(s, height)
		if err == nil {
			tip, err = checkBlock(s, tip, b)
		}
		if err != nil {
			return fault(height, err)
		}
		subtrees += uint64(len(b.Body))
		if progress != nil {
			progress(height-base, end.Head.Height-base)
		}
	}
	if tip.Head != end.Head || tip.Config.Epoch != end.Config.Epoch || base == 0 && tip.Records != end.Records {
		return fault(end.Head.Height, fmt.Errorf("the stored tip is %d %s, epoch %d, %d records; the blocks give %d %s, %d, %d",
			end.Head.Height, end.Head.Hash, end.Config.Epoch, end.Records, tip.Head.Height, tip.Head.Hash, tip.Config.Epoch, tip.Records))
	}
	if base > 0 {
		return nil
	}
	err = checkCounts(ctx, s, tip, subtrees)
	if err == nil {
		err = checkJournal(ctx, s)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if stray, ok := errors.AsType[*strayError](err); ok {
			return fault(stray.height, err)
		}
		return fault(end.Head.Height, err)
	}
	return nil
}

// startAt is the tip at base, whose block is taken as it is.
func startAt(r pebble.Reader, g *consortium.Genesis, base uint64, end Tip) (Tip, error) {
	if base == 0 {
		return GenesisTip(g), expect(r, heightKey(keyConfig, 0), binary.BigEndian.AppendUint64(g.Config.Encode(), 0))
	}
	epoch := end.Config.Epoch
	if base < end.Head.Height {
		next, _, err := readHeader(r, base+1)
		if err != nil {
			return Tip{}, err
		}
		epoch = next.Epoch
	}
	return tipAt(r, g, base, epoch)
}

// checkBlock judges a stored block like a new one and compares the indexes.
func checkBlock(r pebble.Reader, tip Tip, b *consortium.Block) (Tip, error) {
	h := b.Header
	if err := CheckHeader(tip, h, b.Certificate); err != nil {
		return Tip{}, err
	}
	ids, err := consortium.OpenBody(h, b.Body)
	if err != nil {
		return Tip{}, err
	}
	entries, config, err := judgeRecords(b, ids, func(rec *consortium.Record, _ chain.Hash) (*consortium.Config, error) {
		return permitted(tip, rec, h.Height, false)
	})
	if err != nil {
		return Tip{}, err
	}
	next, err := tip.After(h, config)
	if err != nil {
		return Tip{}, err
	}
	if err := expect(r, hashKey(keyHash, next.Head.Hash), binary.BigEndian.AppendUint64(nil, h.Height)); err != nil {
		return Tip{}, err
	}
	for i, s := range b.Body {
		if err := expect(r, hashKey(keySubtree, s.ID()), binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, h.Height), uint16(i))); err != nil {
			return Tip{}, err
		}
	}
	for i, e := range entries {
		p := Position{Height: h.Height, Index: uint32(i)}
		err := errors.Join(
			expect(r, hashKey(keyRecord, e.id), appendPlace(nil, p)),
			expect(r, placeKey(subjectPrefix(e.record.Subject), p), e.id[:]),
			expect(r, placeKey(authorPrefix(e.record.Author), p), e.id[:]))
		if err != nil {
			return Tip{}, fmt.Errorf("record %d: %w", i, err)
		}
	}
	if config != nil {
		err = expect(r, heightKey(keyConfig, config.Epoch), binary.BigEndian.AppendUint64(config.Encode(), h.Height))
	}
	return next, err
}

// expect checks one entry of an index.
func expect(r pebble.Reader, key, want []byte) error {
	got, err := get(r, key)
	if err != nil {
		return fmt.Errorf("index %c %x: %w", key[0], key[1:], err)
	}
	if string(got) != string(want) {
		return fmt.Errorf("index %c %x holds %x, want %x", key[0], key[1:], got, want)
	}
	return nil
}

// checkJournal finds journal entries that are no records. An entry of a record
// that is in the chain is no fault: a crash may leave it.
func checkJournal(ctx context.Context, r pebble.Reader) error {
	return scan(r, []byte{keyJournal}, func(rest, raw []byte) error {
		if _, err := consortium.DecodeRecord(raw); err != nil {
			return fmt.Errorf("journal entry %x: %w", rest, err)
		}
		return ctx.Err()
	})
}

// checkCounts finds entries that no block accounts for: with every wanted
// entry there, the counts tell.
func checkCounts(ctx context.Context, r pebble.Reader, tip Tip, subtrees uint64) error {
	for _, c := range []struct {
		kind byte
		want uint64
	}{
		{keyHeader, tip.Head.Height}, {keyCert, tip.Head.Height}, {keyHash, tip.Head.Height},
		{keyBody, subtrees}, {keySubtree, subtrees},
		{keyRecord, tip.Records}, {keySubject, tip.Records}, {keyAuthor, tip.Records},
		{keyConfig, tip.Config.Epoch + 1},
	} {
		var n uint64
		err := scan(r, []byte{c.kind}, func(_, _ []byte) error {
			n++
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		if n != c.want {
			if err := findStray(ctx, r, c.kind, tip); err != nil {
				return err
			}
			return fmt.Errorf("index %c has %d entries, the blocks account for %d", c.kind, n, c.want)
		}
	}
	return checkKinds(ctx, r)
}
