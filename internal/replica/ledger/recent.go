package ledger

import (
	"fmt"
	"sync"

	"github.com/parley-p2p/parley/chain"
)

// Bounds of what is remembered about record ids.
const (
	recentIDs = 1 << 16 // of the newest blocks, whole blocks
	absentIDs = 1 << 16 // in each of two generations
)

// recent answers for record ids without the store, where it can do so exactly:
// it knows the ids of the newest blocks, and of ids that were looked up the
// height at which the store did not hold them. An id that was absent at some
// height is in the chain only if a later block has it. A record is judged five
// times on its way, so all look-ups but the first are of this kind.
type recent struct {
	maxRecent, maxAbsent int

	mu        sync.RWMutex // guards below
	blocks    []recentBlock
	floor     uint64                  // height below blocks[0]
	committed map[chain.Hash]Position // the ids of blocks
	absent    map[chain.Hash]uint64   // height at which the store did not hold the id
	older     map[chain.Hash]uint64   // absent before it was full
}

type recentBlock struct {
	hash chain.Hash
	ids  []chain.Hash
}

func newRecent(height uint64) *recent {
	return &recent{maxRecent: recentIDs, maxAbsent: absentIDs, floor: height, committed: map[chain.Hash]Position{}, absent: map[chain.Hash]uint64{}, older: map[chain.Hash]uint64{}}
}

// add notes the block that the store got on top. It MUST be called
// after the commit and before the tip moves.
func (r *recent) add(head chain.Head, entries []entry) {
	ids := make([]chain.Hash, len(entries))
	for i, e := range entries {
		ids[i] = e.id
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, id := range ids {
		r.committed[id] = Position{Height: head.Height, Index: uint32(i)}
		delete(r.absent, id)
		delete(r.older, id)
	}
	r.blocks = append(r.blocks, recentBlock{head.Hash, ids})
	for len(r.committed) > r.maxRecent && len(r.blocks) > 1 {
		for _, id := range r.blocks[0].ids {
			delete(r.committed, id)
		}
		r.blocks[0] = recentBlock{}
		r.blocks = r.blocks[1:]
		r.floor++
	}
}

// place is where id stands. unsure means that the store has to be asked.
func (r *recent) place(id chain.Hash) (p Position, found, unsure bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, found = r.committed[id]; found {
		return p, true, false
	}
	at, known := r.absent[id]
	if !known {
		at, known = r.older[id]
	}
	return p, false, !known || at < r.floor
}

// block is the hash of a block that is still remembered.
func (r *recent) block(height uint64) (chain.Hash, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if i := height - r.floor - 1; height > r.floor && i < uint64(len(r.blocks)) {
		return r.blocks[i].hash, true
	}
	return chain.Hash{}, false
}

// missed notes that the store did not hold id when the tip was at height, or
// later.
func (r *recent) missed(id chain.Hash, height uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, found := r.committed[id]; found {
		return
	}
	if len(r.absent) >= r.maxAbsent {
		r.absent, r.older = r.older, r.absent
		clear(r.absent)
	}
	r.absent[id] = height
}

// known reports whether the record is in the chain.
func (l *Ledger) known(id chain.Hash) (bool, error) {
	if l.ids.lacks(id) {
		return false, nil
	}
	_, found, unsure := l.recent.place(id)
	if !unsure {
		return found, nil
	}
	height := l.Tip().Head.Height // before the look-up: a later block is in recent
	found, err := has(l.db, hashKey(keyRecord, id))
	if err != nil {
		return false, fmt.Errorf("look up record %s: %w", id, err)
	}
	if !found {
		l.recent.missed(id, height)
	}
	return found, nil
}

// Place is where the record stands in the chain, ErrNotFound where it does not.
func (l *Ledger) Place(id chain.Hash) (Position, error) {
	if p, found, _ := l.recent.place(id); found {
		return p, nil
	}
	if l.ids.lacks(id) {
		return Position{}, ErrNotFound
	}
	return readPlace(l.db, id)
}

// BlockHash is the hash of the block at a height above 0, ErrNotFound above the
// tip.
func (l *Ledger) BlockHash(height uint64) (chain.Hash, error) {
	if hash, ok := l.recent.block(height); ok {
		return hash, nil
	}
	h, _, err := l.Header(height)
	if err != nil {
		return chain.Hash{}, fmt.Errorf("block %d: %w", height, err)
	}
	return h.Hash(), nil
}
