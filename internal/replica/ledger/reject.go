package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
)

// Final rejections are kept for those who ask later, up to so many and so long.
const (
	maxRejections = 100_000
	keepRejection = 24 * time.Hour
)

// Rejection is the final answer to a record. It is stored as JSON: nothing is
// hashed or signed here, and few are written.
type Rejection struct {
	Reason string    `json:"reason"`
	Detail string    `json:"detail"`
	Height uint64    `json:"height"` // of the tip at that time
	Time   time.Time `json:"time"`
}

// Refused is a record that will never be committed, and why.
type Refused struct {
	ID             chain.Hash
	Reason, Detail string
}

// rejected is a final rejection that is kept.
type rejected struct {
	id   chain.Hash
	time time.Time
}

// readRejections lists the rejected ids, oldest first.
func readRejections(db pebble.Reader) ([]rejected, error) {
	var items []rejected
	err := scan(db, []byte{keyRejection}, func(rest, value []byte) error {
		var r Rejection
		if err := json.Unmarshal(value, &r); err != nil || len(rest) != len(chain.Hash{}) {
			return fmt.Errorf("rejection %x is unreadable", rest)
		}
		items = append(items, rejected{chain.Hash(rest), r.Time})
		return nil
	})
	slices.SortStableFunc(items, func(a, b rejected) int { return a.time.Compare(b.time) })
	return items, err
}

// Reject ends records for good: one synced batch drops them from the journal
// and keeps why, for those who ask later. It returns those that had no end
// before, once each: a record that is in the chain stays there, and one that
// was rejected before keeps its first answer. The last 100,000 answers are kept
// for at least 24 h.
func (l *Ledger) Reject(records ...Refused) ([]Refused, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	w := writer{batch: l.db.NewBatch()}
	defer w.batch.Close()
	now, height := time.Now().UTC(), l.Tip().Head.Height
	var fresh []Refused
	var ends []rejected
	seen := make(map[chain.Hash]struct{}, len(records))
	ids := func(yield func(chain.Hash) bool) {
		for _, x := range records {
			if !yield(x.ID) {
				return
			}
		}
	}
	l.journal.clear(&w, ids)
	for _, x := range records {
		if _, twice := seen[x.ID]; twice {
			continue
		}
		seen[x.ID] = struct{}{}
		done, err := l.final(x.ID)
		if err != nil {
			return nil, fmt.Errorf("look up record %s: %w", x.ID, err)
		}
		if done {
			continue
		}
		v, err := json.Marshal(Rejection{Reason: x.Reason, Detail: x.Detail, Height: height, Time: now})
		if err != nil {
			return nil, fmt.Errorf("encode rejection of %s: %w", x.ID, err)
		}
		w.set(hashKey(keyRejection, x.ID), v)
		fresh, ends = append(fresh, x), append(ends, rejected{x.ID, now})
	}
	kept := append(l.rejected, ends...)
	for len(kept) > maxRejections || len(kept) > 0 && now.Sub(kept[0].time) > keepRejection {
		w.delete(hashKey(keyRejection, kept[0].id))
		kept = kept[1:]
	}
	if w.err != nil {
		return nil, fmt.Errorf("write rejections to ledger %s: %w", l.dir, w.err)
	}
	if w.batch.Empty() {
		return nil, nil
	}
	if err := w.batch.Commit(pebble.Sync); err != nil {
		return nil, fmt.Errorf("write rejections to ledger %s: %w", l.dir, err)
	}
	l.rejected = kept
	l.ended.Store(int64(len(kept)))
	return fresh, l.forget(ids)
}

// final reports whether id is committed or rejected.
func (l *Ledger) final(id chain.Hash) (bool, error) {
	found, err := has(l.db, hashKey(keyRecord, id))
	if found || err != nil || l.ended.Load() == 0 {
		return found, err
	}
	return has(l.db, hashKey(keyRejection, id))
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

// Rejected is Rejection for the door, where hardly any record was rejected.
func (l *Ledger) Rejected(id chain.Hash) (Rejection, bool) {
	if l.ended.Load() == 0 {
		return Rejection{}, false
	}
	r, err := l.Rejection(id)
	return r, err == nil
}
