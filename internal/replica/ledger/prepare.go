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
	signed  bool  // the signatures were checked
	err     error // of a record
}

// Block is what was prepared; it MUST NOT be changed.
func (p *Prepared) Block() *consortium.Block { return p.block }

// Prepare does the costly part of Append ahead of the block's turn, for many
// blocks at once and in any order. It is an *InvalidError when the body does
// not fit the header; a record that breaks the rules is for AppendPrepared to
// tell. The header is taken as it is.
func (l *Ledger) Prepare(b *consortium.Block) (*Prepared, error) {
	ids, err := consortium.OpenBody(b.Header, b.Body)
	if err != nil {
		return nil, chain.Invalid(chain.InvalidBlock, "%v", err)
	}
	genesis := l.Tip().genesis
	p := &Prepared{block: b, signed: true}
	p.entries, _, p.err = judgeRecords(b, ids, func(r *consortium.Record, id chain.Hash) (*consortium.Config, error) {
		if l.verified(id) {
			return nil, nil
		}
		return nil, r.Verify(genesis)
	})
	return p, nil
}

// Opened is b as it is after Prepare, for whoever opened and decoded it before:
// ids MUST be those of [consortium.OpenBody] for header and body, and records
// those of the body, decoded. AppendPrepared asks for each signature.
func Opened(b *consortium.Block, ids []chain.Hash, records []*consortium.Record) *Prepared {
	p := &Prepared{block: b, entries: make([]entry, 0, len(ids))}
	for _, s := range b.Body {
		for _, raw := range s.Records {
			i := len(p.entries)
			p.entries = append(p.entries, entry{id: ids[i], record: records[i], size: len(raw)})
		}
	}
	p.err = judgeTogether(b.Header.Height, p.entries)
	return p
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
		e := &p.entries[i]
		configs[i], errs[i] = l.fresh(tip, e.record, e.id, height, p.signed || l.verified(e.id))
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
