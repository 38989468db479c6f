package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
)

// Sizes of the filter of ids.
const (
	filterBits  = 12      // for an id: about one look-up in a hundred is in vain
	filterFirst = 1 << 16 // ids of the first part, 96 KiB
	filterGrow  = 4       // a part holds as many times what the one before it does
	filterParts = 5       // 22 million ids in 32 MiB
	filterIDs   = filterFirst * (1<<(2*filterParts) - 1) / (filterGrow - 1)
)

// idFilter tells of record ids that the chain does not hold, without the store:
// a Bloom filter in parts, of which the last takes what comes when all are
// full. It then knows less and less, and never a wrong thing. Reads take no lock.
type idFilter struct {
	ready atomic.Bool // it has every id of the chain
	parts atomic.Pointer[[]*filterPart]

	mu   sync.Mutex // guards below, and puts additions in order
	room int        // ids that the last part still holds
}

// filterPart is a run of lines, each of one cache line of bits.
type filterPart struct{ lines [][8]uint64 }

// add notes an id.
func (f *idFilter) add(id chain.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var parts []*filterPart
	if p := f.parts.Load(); p != nil {
		parts = *p
	}
	if f.room == 0 && len(parts) < filterParts {
		f.room = filterFirst
		for range parts {
			f.room *= filterGrow
		}
		parts = append(slices.Clip(parts), &filterPart{make([][8]uint64, f.room*filterBits/512)})
		f.parts.Store(&parts)
	}
	f.room = max(f.room-1, 0)
	line, places := parts[len(parts)-1].find(id)
	for range filterPlaces {
		atomic.OrUint64(&line[places>>6&7], 1<<(places&63))
		places >>= 9
	}
}

// filterPlaces is how many bits an id sets.
const filterPlaces = 7

// find is the line of an id, and its places there, of 9 bits each. An id is a
// hash already.
func (p *filterPart) find(id chain.Hash) (line *[8]uint64, places uint64) {
	at, _ := bits.Mul64(binary.LittleEndian.Uint64(id[:]), uint64(len(p.lines)))
	return &p.lines[at], binary.LittleEndian.Uint64(id[8:])
}

func (p *filterPart) has(id chain.Hash) bool {
	line, places := p.find(id)
	for range filterPlaces {
		if atomic.LoadUint64(&line[places>>6&7])&(1<<(places&63)) == 0 {
			return false
		}
		places >>= 9
	}
	return true
}

// lacks reports that no block has the record; false means nothing.
func (f *idFilter) lacks(id chain.Hash) bool {
	if !f.ready.Load() {
		return false
	}
	parts := f.parts.Load()
	if parts == nil {
		return true
	}
	for _, p := range *parts {
		if p.has(id) {
			return false
		}
	}
	return true
}

// Learn reads the ids of the chain once, in the background, so that most
// look-ups of a new record need no store from then on: there they cost as much
// as all other work on the record but its signature. An empty ledger needs it
// not, and one that is too long for the filter does without. It returns nil
// when it is done or when the index cannot be read, which others tell of.
func (l *Ledger) Learn(ctx context.Context) error {
	if l.ids.ready.Load() {
		return nil
	}
	l.writing.Lock() // a block is seen by the iterator, or added by commit
	tip := l.Tip()
	if l.learning || tip.Records > filterIDs {
		l.writing.Unlock()
		return nil
	}
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyRecord}, UpperBound: []byte{keyRecord + 1}})
	l.learning = err == nil
	l.writing.Unlock()
	if err != nil {
		return fmt.Errorf("read record ids: %w", err)
	}
	defer it.Close()
	n := uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()
		if len(key) != 1+len(chain.Hash{}) {
			return nil // chain check tells what it is
		}
		l.ids.add(chain.Hash(key[1:]))
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := it.Error(); err != nil || n < tip.Records {
		l.log.Warn("record ids not learned: each look-up reads the store", "ids", n, "records", tip.Records, "err", err)
		return nil
	}
	l.ids.ready.Store(true)
	return nil
}
