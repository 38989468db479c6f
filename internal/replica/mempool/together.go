package mempool

import (
	"errors"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// AddAll is Add for records that a peer handed over together: errs[i] is that
// of raws[i]. Their signatures are verified together, which costs less, and who
// waits for records is woken once. So a bad one costs the checks of all: hand
// over some dozens at once.
func (p *Pool) AddAll(raws [][]byte, from peer.ID) (errs []error) {
	errs = make([]error, len(raws))
	read := make([]arrival, len(raws))
	var open []*arrival // of read: with a signature to be verified
	for i, raw := range raws {
		a := &read[i]
		if errs[i] = checkSize(raw); errs[i] != nil {
			continue
		}
		a.id = consortium.RecordID(raw)
		if a.entry, a.record, errs[i] = p.read(a.id, raw, from); errs[i] != nil {
			continue
		}
		var unchecked bool
		if unchecked, errs[i] = p.unchecked(a.entry, true); unchecked {
			a.err = &errs[i]
			open = append(open, a)
		}
	}
	p.verify(open)
	added := false
	for i, a := range read {
		if errs[i] == nil {
			errs[i] = p.settle(a.entry, a.record, true)
			added = added || errs[i] == nil
		}
	}
	if added {
		p.rouse()
	}
	for i, a := range read {
		if errs[i] != nil && !errors.Is(errs[i], chain.ErrKnown) {
			errs[i] = p.refuse(a.id, raws[i], from, errs[i])
		}
	}
	return errs
}

// arrival is a record on its way into the pool.
type arrival struct {
	id     chain.Hash
	entry  *entry
	record *consortium.Record
	err    *error // where to tell of a bad signature
}

// verify checks signatures, and notes the good ones.
func (p *Pool) verify(list []*arrival) {
	records := make([]*consortium.Record, len(list))
	for i, a := range list {
		records[i] = a.record
	}
	good := make([]*entry, 0, len(list))
	for i, err := range consortium.VerifyRecords(records, p.rules.Genesis) {
		if *list[i].err = err; err == nil {
			good = append(good, list[i].entry)
		}
	}
	p.checked(good...)
}
