package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// ErrUnproven means that the bytes on disk do not prove which block a height
// had, because those of the height above are damaged too: repair that first. Or
// the config that it was signed under is damaged.
var ErrUnproven = errors.New("what is on disk does not prove it")

// maxDamaged is how many heights wait to be repaired; each read of a damaged
// block tells of it again.
const maxDamaged = 64

// Damaged yields the heights of blocks that could not be read although the
// chain has them: whoever has peers fetches them and calls Repair.
func (l *Ledger) Damaged() <-chan uint64 { return l.damaged }

// Broken waits for damage that no repair of a block mends: a table of the store
// that cannot be rewritten. It returns a *CorruptError, or ctx's error.
func (l *Ledger) Broken(ctx context.Context) error {
	select {
	case err := <-l.store.broken:
		return &CorruptError{Dir: l.dir, Err: err}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// noteDamage tells of a height whose read failed with err.
func (l *Ledger) noteDamage(height uint64, err error) {
	if err == nil || height == 0 || height > l.Tip().Head.Height {
		return
	}
	l.metrics.damaged.Inc()
	select {
	case l.damaged <- height:
	default:
	}
}

// Repair writes a block that the chain has once more, with all its index
// entries, in place of damaged bytes. Its header is proven by the tip or by the
// header above, and by its certificate. The tip stays as it is. Errors:
//   - chain.ErrOrphan: it is above the tip
//   - ErrUnproven: the header above or the config cannot be read
//   - *chain.InvalidError: forged_block when it is not the block that the chain
//     has at its height, invalid_block when the body does not fit
//
// Anything else is a fault of ours.
func (l *Ledger) Repair(b *consortium.Block) error {
	h := b.Header
	l.writing.Lock()
	defer l.writing.Unlock()
	tip := l.Tip()
	switch {
	case h.Height == 0:
		return chain.Invalid(chain.ForgedBlock, "block 0: the genesis has no block")
	case h.Height > tip.Head.Height:
		return fmt.Errorf("repair block %d on tip %d: %w", h.Height, tip.Head.Height, chain.ErrOrphan)
	}
	if err := l.prove(tip, b); err != nil {
		return err
	}
	ids, err := consortium.OpenBody(h, b.Body)
	if err != nil {
		return chain.Invalid(chain.InvalidBlock, "%v", err)
	}
	// The root fixes every byte of the records, and they were judged once.
	entries, config, err := judgeRecords(b, ids, func(r *consortium.Record, _ chain.Hash) (*consortium.Config, error) {
		if r.Kind != consortium.KindConfig {
			return nil, nil
		}
		change, err := consortium.DecodeConfigChange(r.Body)
		if err != nil {
			return nil, err
		}
		return &change.Config, nil
	})
	if err != nil {
		return err
	}
	body := heightKey(keyBody, h.Height)
	if err := l.db.DeleteRange(body, prefixEnd(body), pebble.NoSync); err != nil { // a cut here leaves what is damaged anyway
		return fmt.Errorf("repair block %d in ledger %s: %w", h.Height, l.dir, err)
	}
	if err := l.commit(tip, b, entries, config); err != nil {
		return fmt.Errorf("repair block %d in ledger %s: %w", h.Height, l.dir, err)
	}
	if err := l.forget(idsOf(entries)); err != nil {
		l.log.Error("journal entries of a block not dropped", "height", h.Height, "err", err)
	}
	l.metrics.repaired.Inc()
	return nil
}

// prove tells whether b's header is the one of the chain.
func (l *Ledger) prove(tip Tip, b *consortium.Block) error {
	h := b.Header
	hash, want := h.Hash(), tip.Head.Hash
	if h.Height < tip.Head.Height {
		above, _, err := readHeader(l.db, h.Height+1)
		if err != nil {
			return fmt.Errorf("repair block %d: %w: %w", h.Height, ErrUnproven, err)
		}
		want = above.Prev
	}
	if hash != want {
		return chain.Invalid(chain.ForgedBlock, "block %d is %s, the chain has %s", h.Height, hash, want)
	}
	config := tip.Config
	if h.Epoch != config.Epoch {
		var err error
		if config, _, err = readConfig(l.db, h.Epoch); err != nil {
			return fmt.Errorf("repair block %d: %w: %w", h.Height, ErrUnproven, err)
		}
	}
	if err := b.Certificate.Verify(h, config.Set()); err != nil {
		return chain.Invalid(chain.ForgedBlock, "block %d: certificate: %v", h.Height, err)
	}
	return nil
}
