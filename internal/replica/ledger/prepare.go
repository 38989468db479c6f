package ledger

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Prepared is a block whose body fits its header, with all judged that needs
// no tip: its records are decoded and their signatures checked, once.
type Prepared struct {
	block   *consortium.Block
	entries []entry
	err     error // of a record
}

// Block is what was prepared; it MUST NOT be changed.
func (p *Prepared) Block() *consortium.Block { return p.block }

// Prepare does the costly part of Append ahead of the block's turn, for many
// blocks at once and in any order. It is an *InvalidError when the body does
// not fit the header; a record that breaks the rules is for AppendPrepared to
// tell. The header is taken as it is.
func (l *Ledger) Prepare(b *consortium.Block) (*Prepared, error) {
	if err := consortium.CheckBody(b.Header, b.Body); err != nil {
		return nil, chain.Invalid(chain.InvalidBlock, "%v", err)
	}
	genesis := l.Tip().genesis
	p := &Prepared{block: b}
	p.entries, _, p.err = judgeRecords(b, func(r *consortium.Record, id chain.Hash) (*consortium.Config, error) {
		if l.verified(id) {
			return nil, nil
		}
		return nil, r.Verify(genesis)
	})
	return p, nil
}

// AppendPrepared is Append of a block that was prepared by this ledger.
func (l *Ledger) AppendPrepared(p *Prepared, source string, from peer.ID) error {
	return l.append(p.block, source, from, func(tip Tip) ([]entry, *consortium.Config, error) {
		if p.err != nil {
			return nil, nil, p.err
		}
		config, err := l.judgePrepared(tip, p)
		return p.entries, config, err
	})
}

// judgePrepared judges by the tip what is left to be judged.
func (l *Ledger) judgePrepared(tip Tip, p *Prepared) (config *consortium.Config, err error) {
	height := p.block.Header.Height
	configs := make([]*consortium.Config, len(p.entries))
	errs := make([]error, len(p.entries))
	parallel(len(p.entries), func(i int) bool {
		configs[i], errs[i] = l.fresh(tip, p.entries[i].record, p.entries[i].id, height, true)
		return errs[i] == nil
	})
	for i, err := range errs {
		if bad, ok := errors.AsType[*consortium.RecordError](err); ok {
			return nil, chain.Invalid(chain.InvalidBlock, "block %d: record %d: %v", height, i, bad)
		}
		if err != nil {
			return nil, fmt.Errorf("block %d: record %d: %w", height, i, err)
		}
		if configs[i] != nil {
			config = configs[i]
		}
	}
	return config, nil
}
