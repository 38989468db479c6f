package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Checkpoint copies the store as it stands to dir, which MUST NOT exist and
// has to be on the same disk: most of the copy is hard links. Appends go on
// meanwhile. The copy is a whole store, which Open opens.
func (l *Ledger) Checkpoint(dir string) error {
	l.life.RLock()
	defer l.life.RUnlock()
	if l.closed {
		return fmt.Errorf("checkpoint of ledger %s: it is closed", l.dir)
	}
	if err := l.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("checkpoint of ledger %s to %s: %w", l.dir, dir, err)
	}
	return nil
}

// restoredMark stands where the id of a write-ahead log would: no log has it,
// so a validator on a restored store waits with its vote.
const restoredMark = "restored"

// MarkRestored notes, synced, that the store came out of a backup: what the
// log beside it had signed is lost, and nothing up to the tip was verified by
// this node.
func (l *Ledger) MarkRestored() error {
	b := l.db.NewBatch()
	defer b.Close()
	height := binary.BigEndian.AppendUint64(nil, l.Tip().Head.Height)
	err := errors.Join(b.Set(keyMark, []byte(restoredMark), nil), b.Set(keyUnverified, height, nil), b.Delete(keyVerified, nil))
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err != nil {
		return fmt.Errorf("mark ledger %s as restored: %w", l.dir, err)
	}
	return nil
}

// Restored reports whether the store came out of a backup and no block was
// committed since that frees a validator to vote.
func (l *Ledger) Restored() (bool, error) {
	mark, err := l.Mark()
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return string(mark) == restoredMark, err
}

// Free ends what Restored tells of, synced: this node's key cannot have voted
// for a height above the tip. Without a backup it does nothing.
func (l *Ledger) Free() error {
	if restored, err := l.Restored(); err != nil || !restored {
		return err
	}
	if err := l.db.Delete(keyMark, pebble.Sync); err != nil {
		return fmt.Errorf("free ledger %s: %w", l.dir, err)
	}
	return nil
}

// FreeNew is Free for a node with a new key: it never voted, and the records in
// the journal of a backup were accepted by the node that made it, which offers
// them. Without a backup it does nothing.
func (l *Ledger) FreeNew() error {
	if restored, err := l.Restored(); err != nil || !restored {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.journal.mu.Lock()
	defer l.journal.mu.Unlock()
	w := writer{batch: l.db.NewBatch()}
	defer w.batch.Close()
	for _, e := range l.journal.open {
		w.delete(heightKey(keyJournal, e.seq))
	}
	for _, x := range l.untold { // the other node tells
		if err := l.setTold(&w, x.ID); err != nil {
			return err
		}
	}
	w.delete(keyMark)
	if w.err == nil {
		w.err = w.batch.Commit(pebble.Sync)
	}
	if w.err != nil {
		return fmt.Errorf("free ledger %s: %w", l.dir, w.err)
	}
	clear(l.journal.open)
	l.journal.bytes = 0
	l.untold = nil
	return nil
}

// Unverified is the height up to which the blocks came out of a backup and
// were never verified here, ErrNotFound where there are none.
func (l *Ledger) Unverified() (uint64, error) { return readUint64(l.db, keyUnverified) }

// SetVerified ends what Unverified tells of, synced.
func (l *Ledger) SetVerified() error {
	b := l.db.NewBatch()
	defer b.Close()
	err := errors.Join(b.Delete(keyUnverified, nil), b.Delete(keyVerified, nil))
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err != nil {
		return fmt.Errorf("write to ledger %s: %w", l.dir, err)
	}
	return nil
}
