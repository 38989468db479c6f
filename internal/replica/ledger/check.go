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

// checkNote is how many blocks of a backup CheckOn verifies between two notes
// of how far it is: as many may be verified twice, and a snapshot is open for
// no more of them.
const checkNote = 256

// CheckOn is Check that goes on where an earlier CheckOn ended early, in this
// run or an earlier one, until SetVerified; done counts from the genesis. What
// came on top of a backup it verifies up to the tip of when it gets there.
func (l *Ledger) CheckOn(ctx context.Context, progress func(done, total uint64)) error {
	for {
		if end, err := l.checkSome(ctx, progress); end || err != nil {
			return err
		}
	}
}

// checkSome verifies the next blocks and notes it; end is true behind the last.
func (l *Ledger) checkSome(ctx context.Context, progress func(done, total uint64)) (end bool, err error) {
	c := l.newCheck()
	defer c.s.Close()
	if err := c.load(); err != nil || c.genesis == nil {
		return true, err
	}
	if err := c.resume(); err != nil {
		return true, err
	}
	to := c.end.Head.Height
	if trusted, err := readUint64(c.s, keyUnverified); err == nil && c.tip.Head.Height < trusted {
		to = min(c.tip.Head.Height+checkNote, to)
	} else if err != nil && !errors.Is(err, ErrNotFound) {
		return true, fmt.Errorf("read ledger %s: %w", l.dir, err)
	}
	if err := c.blocks(ctx, to, progress); err != nil {
		return true, err
	}
	if to == c.end.Head.Height {
		return true, c.whole(ctx)
	}
	stored := storedTip{head: c.tip.Head, epoch: c.tip.Config.Epoch, records: c.tip.Records}
	if err := l.db.Set(keyVerified, binary.BigEndian.AppendUint64(stored.encode(), c.subtrees), pebble.Sync); err != nil {
		return true, fmt.Errorf("write to ledger %s: %w", l.dir, err)
	}
	return false, nil
}

// check verifies the blocks above base.
func (l *Ledger) check(ctx context.Context, base uint64, progress func(done, total uint64)) (err error) {
	c := l.newCheck()
	defer c.s.Close()
	if err := c.load(); err != nil || c.genesis == nil {
		return err
	}
	if c.tip, err = startAt(c.s, c.genesis, base, c.end); err != nil {
		return c.fault(base, err)
	}
	err = c.blocks(ctx, c.end.Head.Height, func(done, total uint64) {
		if progress != nil {
			progress(done-base, total-base)
		}
	})
	switch {
	case err != nil:
		return err
	case base > 0:
		return c.sameTip(false)
	}
	return c.whole(ctx)
}

// checking is a check of the store as it stood at one moment.
type checking struct {
	s        *pebble.Snapshot
	dir      string
	genesis  *consortium.Genesis // nil: there is no chain
	end      Tip                 // as it is stored
	tip      Tip                 // as the blocks that are verified give it
	subtrees uint64              // in them
}

// newCheck takes the snapshot, which the caller MUST close.
func (l *Ledger) newCheck() *checking { return &checking{s: l.db.NewSnapshot(), dir: l.dir} }

func (c *checking) fault(height uint64, err error) error {
	return &CorruptError{Dir: c.dir, Height: height, Err: err}
}

// load reads genesis and tip. Where there is no chain there is no fault.
func (c *checking) load() error {
	g, err := readGenesis(c.s)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return c.fault(0, err)
	}
	if c.end, err = readTip(c.s, g); err != nil {
		return c.fault(c.end.Head.Height, err)
	}
	c.genesis = g
	return nil
}

// resume goes on from what CheckOn noted, if that is still what the store
// holds, else from the genesis.
func (c *checking) resume() error {
	v, err := get(c.s, keyVerified)
	if n := len(v) - 8; err == nil && n > 0 {
		tip, err := restoreTip(c.s, c.genesis, v[:n])
		if err == nil && tip.Head.Height <= c.end.Head.Height {
			c.tip, c.subtrees = tip, binary.BigEndian.Uint64(v[n:])
			return nil
		}
	}
	if c.tip, err = startAt(c.s, c.genesis, 0, c.end); err != nil {
		return c.fault(0, err)
	}
	return nil
}

// blocks verifies those above the tip, up to height to.
func (c *checking) blocks(ctx context.Context, to uint64, progress func(done, total uint64)) error {
	for height := c.tip.Head.Height + 1; height <= to; height++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := readBlock(c.s, height)
		if err == nil {
			c.tip, err = checkBlock(c.s, c.tip, b)
		}
		if err != nil {
			return c.fault(height, err)
		}
		c.subtrees += uint64(len(b.Body))
		if progress != nil {
			progress(height, c.end.Head.Height)
		}
	}
	return nil
}

// sameTip compares the stored tip with that of the blocks; records, with how
// many they hold in all.
func (c *checking) sameTip(records bool) error {
	tip, end := c.tip, c.end
	if tip.Head == end.Head && tip.Config.Epoch == end.Config.Epoch && (!records || tip.Records == end.Records) {
		return nil
	}
	return c.fault(end.Head.Height, fmt.Errorf("the stored tip is %d %s, epoch %d, %d records; the blocks give %d %s, %d, %d",
		end.Head.Height, end.Head.Hash, end.Config.Epoch, end.Records, tip.Head.Height, tip.Head.Hash, tip.Config.Epoch, tip.Records))
}

// whole verifies what is not of one block, with all blocks from the genesis
// verified: that there is nothing beside them.
func (c *checking) whole(ctx context.Context) error {
	if err := c.sameTip(true); err != nil {
		return err
	}
	err := checkCounts(ctx, c.s, c.tip, c.subtrees)
	if err == nil {
		err = checkJournal(ctx, c.s)
	}
	switch stray, ok := errors.AsType[*strayError](err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case ok:
		return c.fault(stray.height, err)
	}
	return c.fault(c.end.Head.Height, err)
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
