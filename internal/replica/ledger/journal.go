package ledger

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Bounds of the journal where Options names none: twice what a mempool of the
// default size holds, so that the mempool is full first.
const (
	journalRecords = 100_000
	journalBytes   = 128 << 20
)

// journal knows the records that a client was told are accepted and that have
// no end yet: where each one stands under keyJournal.
type journal struct {
	maxRecords int
	maxBytes   int64

	// mu guards what is below and is held while an entry enters pebble's
	// memtable, so that the order of writes is that of the map. No sync is
	// waited for under it.
	mu    sync.Mutex
	next  uint64 // sequence of the next entry
	open  map[chain.Hash]journalEntry
	bytes int64
}

type journalEntry struct {
	seq   uint64
	size  int
	clear bool // its delete is in a batch
}

func (j *journal) init(o Options) {
	j.maxRecords, j.maxBytes, j.open = o.JournalRecords, o.JournalBytes, map[chain.Hash]journalEntry{}
	if j.maxRecords == 0 {
		j.maxRecords = journalRecords
	}
	if j.maxBytes == 0 {
		j.maxBytes = journalBytes
	}
}

// load reads which records the journal holds.
func (j *journal) load(db pebble.Reader) error {
	return scan(db, []byte{keyJournal}, func(rest, raw []byte) error {
		if len(rest) != 8 || len(raw) > consortium.MaxRecord {
			return fmt.Errorf("journal entry %x of %d bytes is unreadable", rest, len(raw))
		}
		seq := binary.BigEndian.Uint64(rest)
		j.open[consortium.RecordID(raw)] = journalEntry{seq: seq, size: len(raw)}
		j.bytes += int64(len(raw))
		j.next = seq + 1
		return nil
	})
}

// Accept writes a record into the journal. After nil it is on disk, synced, and
// stays until Append commits it or Reject ends it; concurrent calls share a
// sync. A record that is in the chain or was rejected for good needs no entry.
// raw is not kept. A full journal is a *consortium.RecordError mempool_full.
func (l *Ledger) Accept(id chain.Hash, raw []byte) error {
	b := l.db.NewBatch()
	defer b.Close()
	if err := l.enter(b, id, raw); err != nil {
		return err
	}
	if err := b.SyncWait(); err != nil {
		return fmt.Errorf("sync journal of ledger %s: %w", l.dir, err)
	}
	return nil
}

// enter applies the entry of a record through b, which the caller waits for.
func (l *Ledger) enter(b *pebble.Batch, id chain.Hash, raw []byte) error {
	j := &l.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	_, known := j.open[id]
	if !known {
		// An Append or Reject whose batch is not in the store yet finds the
		// entry when it is: see forget.
		var err error
		if known, err = l.final(id); err != nil {
			return fmt.Errorf("look up record %s: %w", id, err)
		}
	}
	var err error
	switch size := int64(len(raw)); {
	case known:
		err = b.LogData(nil, nil) // only to wait for the sync of what was written before
	case len(j.open) >= j.maxRecords || j.bytes+size > j.maxBytes:
		return consortium.Refuse(consortium.MempoolFull, "the journal of accepted records is full: %d records of %d bytes: try again later", len(j.open), j.bytes)
	default:
		err = b.Set(heightKey(keyJournal, j.next), raw, nil)
	}
	if err == nil {
		err = l.db.ApplyNoSyncWait(b, pebble.Sync)
	}
	if err != nil {
		return fmt.Errorf("write journal of ledger %s: %w", l.dir, err)
	}
	if !known {
		j.open[id] = journalEntry{seq: j.next, size: len(raw)}
		j.bytes += int64(len(raw))
		j.next++
	}
	return nil
}

// clear puts the end of the entries of records into a batch.
func (j *journal) clear(w *writer, ids iter.Seq[chain.Hash]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.open) == 0 {
		return
	}
	for id := range ids {
		if e, ok := j.open[id]; ok {
			w.delete(heightKey(keyJournal, e.seq))
			e.clear = true
			j.open[id] = e
		}
	}
}

// forget drops entries of records whose end is in the store, and deletes those
// that were entered between clear and commit; a crash before that delete leaves
// an entry that Accepted drops.
func (l *Ledger) forget(ids iter.Seq[chain.Hash]) error {
	j := &l.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.open) == 0 {
		return nil
	}
	w := writer{batch: l.db.NewBatch()}
	defer w.batch.Close()
	for id := range ids {
		if e, ok := j.open[id]; ok {
			if !e.clear {
				w.delete(heightKey(keyJournal, e.seq))
			}
			delete(j.open, id)
			j.bytes -= int64(e.size)
		}
	}
	if w.err != nil || w.batch.Empty() {
		return w.err
	}
	return w.batch.Commit(pebble.NoSync)
}

// Accepted lists the records of the journal that have no end yet, oldest first,
// and drops the entries of others, which a crash may leave. f owns its bytes;
// its error ends the call.
func (l *Ledger) Accepted(f func(id chain.Hash, raw []byte) error) error {
	var over []chain.Hash
	err := scan(l.db, []byte{keyJournal}, func(_, value []byte) error {
		id := consortium.RecordID(value)
		done, err := l.final(id)
		if err != nil {
			return err
		}
		if done {
			over = append(over, id)
			return nil
		}
		return f(id, append([]byte(nil), value...))
	})
	if err != nil {
		return fmt.Errorf("read journal of ledger %s: %w", l.dir, err)
	}
	return l.forget(slices.Values(over))
}

// Journaled returns a record of the journal; ErrNotFound where it has an end
// already, or was never accepted.
func (l *Ledger) Journaled(id chain.Hash) ([]byte, error) {
	l.journal.mu.Lock()
	e, ok := l.journal.open[id]
	l.journal.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("journal entry of record %s: %w", id, ErrNotFound)
	}
	raw, err := get(l.db, heightKey(keyJournal, e.seq))
	if err != nil {
		return nil, fmt.Errorf("journal entry of record %s: %w", id, err)
	}
	return raw, nil
}

// JournalLen counts the accepted records that have no end yet.
func (l *Ledger) JournalLen() int {
	l.journal.mu.Lock()
	defer l.journal.mu.Unlock()
	return len(l.journal.open)
}
