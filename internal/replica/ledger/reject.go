package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
)

// maxRejections is how many final rejections are kept for those who ask later.
const maxRejections = 100_000

// Rejection is the final answer to a record. It is stored as JSON: nothing is
// hashed or signed here, and few are written.
type Rejection struct {
	Reason string    `json:"reason"`
	Detail string    `json:"detail"`
	Height uint64    `json:"height"` // of the tip at that time
	Time   time.Time `json:"time"`
}

// readRejections lists the rejected ids, oldest first.
func readRejections(db pebble.Reader) ([]chain.Hash, error) {
	type item struct {
		id   chain.Hash
		time time.Time
	}
	var items []item
	err := scan(db, []byte{keyRejection}, func(rest, value []byte) error {
		var r Rejection
		if err := json.Unmarshal(value, &r); err != nil || len(rest) != len(chain.Hash{}) {
			return fmt.Errorf("rejection %x is unreadable", rest)
		}
		items = append(items, item{chain.Hash(rest), r.Time})
		return nil
	})
	slices.SortStableFunc(items, func(a, b item) int { return a.time.Compare(b.time) })
	ids := make([]chain.Hash, len(items))
	for i, it := range items {
		ids[i] = it.id
	}
	return ids, err
}

// Reject keeps why the record id will never be committed, for those who ask
// later. An id that is in the chain or was rejected before keeps its first
// answer. The write is in the log of the store and is synced with the next
// block: many records expire at once. The last 100,000 are kept.
func (l *Ledger) Reject(id chain.Hash, reason, detail string) error {
	v, err := json.Marshal(Rejection{Reason: reason, Detail: detail, Height: l.Tip().Head.Height, Time: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("encode rejection of %s: %w", id, err)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if final, err := l.final(id); final || err != nil {
		return err
	}
	b := l.db.NewBatch()
	defer b.Close()
	if err := b.Set(hashKey(keyRejection, id), v, nil); err != nil {
		return fmt.Errorf("write rejection of %s: %w", id, err)
	}
	full := len(l.rejected) >= maxRejections
	if full {
		if err := b.Delete(hashKey(keyRejection, l.rejected[0]), nil); err != nil {
			return fmt.Errorf("forget rejection of %s: %w", l.rejected[0], err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write rejection of %s: %w", id, err)
	}
	if full {
		l.rejected = l.rejected[1:]
	}
	l.rejected = append(l.rejected, id)
	return nil
}

// final reports whether id is committed or rejected.
func (l *Ledger) final(id chain.Hash) (bool, error) {
	for _, kind := range []byte{keyRecord, keyRejection} {
		if found, err := has(l.db, hashKey(kind, id)); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// Rejection tells why, when and at which height of the chain a record was
// finally rejected; ErrNotFound if it was not, or too long ago.
func (l *Ledger) Rejection(id chain.Hash) (Rejection, error) {
	b, err := get(l.db, hashKey(keyRejection, id))
	if err != nil {
		return Rejection{}, fmt.Errorf("rejection of record %s: %w", id, err)
	}
	var r Rejection
	if err := json.Unmarshal(b, &r); err != nil {
		return Rejection{}, fmt.Errorf("rejection of record %s: %w", id, err)
	}
	return r, nil
}
