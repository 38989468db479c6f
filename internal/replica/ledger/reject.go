package ledger

import (
	"encoding/json"
	"errors"
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
	Author string    `json:"author,omitempty"`
	Untold bool      `json:"untold,omitempty"` // Told was not called since Reject
}

// Refused is a record that will never be committed, and why.
type Refused struct {
	ID                     chain.Hash
	Reason, Detail, Author string
}

// Untold is a final rejection of an earlier run of which Told was not called.
type Untold struct {
	ID chain.Hash
	Rejection
}

// rejected is a final rejection that is kept.
type rejected struct {
	id   chain.Hash
	time time.Time
}

// readRejections lists the rejected ids, oldest first, and those still untold.
func readRejections(db pebble.Reader) (items []rejected, untold []Untold, err error) {
	err = scan(db, []byte{keyRejection}, func(rest, value []byte) error {
		var r Rejection
		if err := json.Unmarshal(value, &r); err != nil || len(rest) != len(chain.Hash{}) {
			return fmt.Errorf("rejection %x is unreadable", rest)
		}
		items = append(items, rejected{chain.Hash(rest), r.Time})
		if r.Untold {
			untold = append(untold, Untold{chain.Hash(rest), r})
		}
		return nil
	})
	slices.SortStableFunc(items, func(a, b rejected) int { return a.time.Compare(b.time) })
	return items, untold, err
}

// Reject ends records for good: one synced batch drops them from the journal
// and keeps why, for those who ask later. It returns those that had no end
// before, once each: a record that is in the chain stays there, and one that
// was rejected before keeps its first answer. The last 100,000 answers are kept
// for at least 24 h. Each is marked as untold until Told.
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
		v, err := json.Marshal(Rejection{Reason: x.Reason, Detail: x.Detail, Height: height, Time: now, Author: x.Author, Untold: true})
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
	if err := l.forget(ids); err != nil { // Accepted drops what stays
		l.log.Error("journal entries of rejected records not dropped", "records", len(fresh), "err", err)
	}
	return fresh, nil
}

// Told ends the mark of final rejections, synced, once their events are on the
// bus. A crash between the two has them told once more after the restart, and
// never not at all; the answer that is stored is one in any case.
func (l *Ledger) Told(ids ...chain.Hash) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	w := writer{batch: l.db.NewBatch()}
	defer w.batch.Close()
	for _, id := range ids {
		if err := l.setTold(&w, id); err != nil {
			return err
		}
	}
	if w.err == nil && !w.batch.Empty() {
		w.err = w.batch.Commit(pebble.Sync)
	}
	if w.err != nil {
		return fmt.Errorf("write rejections to ledger %s: %w", l.dir, w.err)
	}
	return nil
}

// setTold ends the mark of one rejection, where it is still kept.
func (l *Ledger) setTold(w *writer, id chain.Hash) error {
	r, err := l.Rejection(id)
	if errors.Is(err, ErrNotFound) {
		return nil // too many came after it
	}
	if err != nil {
		return err
	}
	r.Untold = false
	v, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode rejection of %s: %w", id, err)
	}
	w.set(hashKey(keyRejection, id), v)
	return nil
}

// TakeUntold lists, once, the final rejections that an earlier run kept and did
// not tell.
func (l *Ledger) TakeUntold() []Untold {
	l.writing.Lock()
	defer l.writing.Unlock()
	list := l.untold
	l.untold = nil
	return list
}

// final reports whether id is committed or rejected.
func (l *Ledger) final(id chain.Hash) (bool, error) {
	if !l.ids.lacks(id) {
		found, err := has(l.db, hashKey(keyRecord, id))
		if found || err != nil {
			return found, err
		}
	}
	if l.ended.Load() == 0 {
		return false, nil
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
