package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// Append is the one door for blocks. After nil the block is on disk, synced,
// and its events are on the bus. source is gossip, sync or own; from is who
// served it, "" for our own engine. b is not kept and not changed. Errors:
//   - chain.ErrKnown: we hold this block
//   - chain.ErrOrphan: it is above the next height
//   - chain.ErrUnready: there is no genesis yet
//   - *chain.InvalidError: forged_block when header or certificate fail,
//     invalid_block when the body does
//   - *ForkError, which is ErrFork: halt, and keep it
//
// Anything else is a fault of ours. A store that cannot write does not return:
// it ends the process with one line.
func (l *Ledger) Append(b *consortium.Block, source string, from peer.ID) error {
	return l.append(b, source, from, func(tip Tip) ([]entry, *consortium.Config, error) { return l.judge(tip, b) })
}

// append is Append with judge to judge the body by the tip.
func (l *Ledger) append(b *consortium.Block, source string, from peer.ID, judge func(tip Tip) ([]entry, *consortium.Config, error)) error {
	start := time.Now()
	l.writing.Lock()
	defer l.writing.Unlock()
	tip := l.Tip()
	if tip.Genesis == nil {
		return fmt.Errorf("append block %d: no genesis: %w", b.Header.Height, chain.ErrUnready)
	}
	if b.Header.Height <= tip.Head.Height {
		return l.again(tip, b)
	}
	if err := CheckHeader(tip, b.Header, b.Certificate); err != nil {
		return err
	}
	entries, config, err := judge(tip)
	if err != nil {
		return err
	}
	next, err := tip.After(b.Header, config)
	if err != nil {
		return err
	}
	if err := l.commit(next, b, entries, config); err != nil {
		return fmt.Errorf("write block %d to ledger %s: %w", b.Header.Height, l.dir, err)
	}
	if err := l.forget(idsOf(entries)); err != nil {
		l.log.Error("journal entries of a block not dropped", "height", b.Header.Height, "err", err)
	}
	l.recent.add(next.Head, entries)
	l.setTip(next)
	l.metrics.blocks.WithLabelValues(source).Inc()
	l.metrics.records.Add(float64(len(entries)))
	l.metrics.commit.Observe(time.Since(start).Seconds())
	l.publish(tip.Set, next, entries, source, from)
	return nil
}

// again judges a block of a height that we have.
func (l *Ledger) again(tip Tip, b *consortium.Block) error {
	h := b.Header
	if h.Height == 0 {
		return chain.Invalid(chain.ForgedBlock, "block 0: the genesis has no block")
	}
	ours, cert, err := readHeader(l.db, h.Height)
	if err != nil {
		return fmt.Errorf("compare with ours: %w", err)
	}
	if ours.Hash() == h.Hash() {
		return fmt.Errorf("block %d %s: %w", h.Height, h.Hash(), chain.ErrKnown)
	}
	config, _, err := readConfig(l.db, ours.Epoch)
	if err != nil {
		return fmt.Errorf("compare with ours: %w", err)
	}
	if h.Genesis != tip.genesis {
		return chain.Invalid(chain.ForgedBlock, "block %d: genesis %s, our chain's is %s", h.Height, h.Genesis, tip.genesis)
	}
	if err := b.Certificate.Verify(h, config.Set()); err != nil {
		return chain.Invalid(chain.ForgedBlock, "block %d: certificate: %v", h.Height, err)
	}
	return &ForkError{Ours: ours, OursCert: cert, Theirs: h, TheirsCert: b.Certificate}
}

// entry is what the indexes need of one record.
type entry struct {
	id     chain.Hash
	record *consortium.Record
	size   int // bytes
}

// idsOf gives the ids of records.
func idsOf(entries []entry) iter.Seq[chain.Hash] {
	return func(yield func(chain.Hash) bool) {
		for i := range entries {
			if !yield(entries[i].id) {
				return
			}
		}
	}
}

// judge checks the whole body. It returns the config that it brings, or nil.
func (l *Ledger) judge(tip Tip, b *consortium.Block) ([]entry, *consortium.Config, error) {
	ids, err := consortium.OpenBody(b.Header, b.Body)
	if err != nil {
		return nil, nil, chain.Invalid(chain.InvalidBlock, "%v", err)
	}
	return judgeRecords(b, ids, func(r *consortium.Record, id chain.Hash) (*consortium.Config, error) {
		return l.committable(tip, r, id, b.Header.Height)
	})
}

// judgeRecords decodes and judges each record of b, by its id, by rule, on all processors,
// and checks what holds between them: no id twice, a config alone. The error
// is that of the first bad record: *InvalidError, unless it is a fault of ours.
func judgeRecords(b *consortium.Block, ids []chain.Hash, rule func(*consortium.Record, chain.Hash) (*consortium.Config, error)) ([]entry, *consortium.Config, error) {
	raws := make([][]byte, 0, len(ids))
	for _, s := range b.Body {
		raws = append(raws, s.Records...)
	}
	entries := make([]entry, len(raws))
	errs := make([]error, len(raws))
	var config atomic.Pointer[consortium.Config]
	parallel(len(raws), func(i int) bool {
		r, err := consortium.DecodeRecord(raws[i])
		if err == nil {
			entries[i] = entry{id: ids[i], record: r, size: len(raws[i])}
			var c *consortium.Config
			if c, err = rule(r, entries[i].id); c != nil {
				config.Store(c)
			}
		}
		errs[i] = err
		return err == nil
	})
	invalid := func(format string, args ...any) error {
		return chain.Invalid(chain.InvalidBlock, "block %d: "+format, append([]any{b.Header.Height}, args...)...)
	}
	for i, err := range errs {
		if err == nil {
			continue
		}
		if bad, ok := errors.AsType[*consortium.RecordError](err); ok {
			return nil, nil, invalid("record %d: %v", i, bad)
		}
		return nil, nil, fmt.Errorf("block %d: record %d: %w", b.Header.Height, i, err)
	}
	if err := judgeTogether(b.Header.Height, entries); err != nil {
		return nil, nil, err
	}
	return entries, config.Load(), nil
}

// judgeTogether checks what holds between the records of a block.
func judgeTogether(height uint64, entries []entry) error {
	seen := make(map[chain.Hash]int, len(entries))
	for i, e := range entries {
		if first, twice := seen[e.id]; twice {
			return chain.Invalid(chain.InvalidBlock, "block %d: record %d is record %d again", height, i, first)
		}
		seen[e.id] = i
		if e.record.Kind == consortium.KindConfig && len(entries) > 1 {
			return chain.Invalid(chain.InvalidBlock, "block %d: record %d is a config record among %d records: it has to be alone", height, i, len(entries))
		}
	}
	return nil
}

// parallelFrom is the count of items from which goroutines are worth their
// start: an Ed25519 check takes about 46 µs.
const parallelFrom = 16

// parallel calls f for each i in [0, n) until one call says no; calls below
// that i are all made.
func parallel(n int, f func(i int) bool) {
	var next atomic.Int64
	var stop atomic.Bool
	work := func() {
		for !stop.Load() {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			if !f(i) {
				stop.Store(true)
			}
		}
	}
	if n < parallelFrom {
		work()
		return
	}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(work)
	}
	wg.Wait()
}

// commit writes the block, its indexes and the tip, which Repair leaves as it
// is, in one synced batch.
func (l *Ledger) commit(next Tip, b *consortium.Block, entries []entry, config *consortium.Config) error {
	h := b.Header
	w := writer{batch: l.db.NewBatchWithSize(int(h.BodyBytes) + 256*len(entries) + 4096)}
	defer w.batch.Close()
	w.set(heightKey(keyHeader, h.Height), h.Encode())
	w.set(heightKey(keyCert, h.Height), b.Certificate.Encode())
	w.set(hashKey(keyHash, h.Hash()), binary.BigEndian.AppendUint64(nil, h.Height))
	rest := entries
	for i, s := range b.Body {
		ids := make([]chain.Hash, len(s.Records))
		for j := range ids {
			ids[j] = rest[j].id
		}
		rest = rest[len(ids):]
		w.setSubtree(bodyKey(h.Height, uint16(i)), s)
		w.set(hashKey(keySubtree, consortium.SubtreeID(ids)), binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, h.Height), uint16(i)))
	}
	for i := range entries {
		if l.learning {
			l.ids.add(entries[i].id) // before the store has it
		}
		w.setIndexes(&entries[i], Position{Height: h.Height, Index: uint32(i)})
	}
	if config != nil {
		w.set(heightKey(keyConfig, config.Epoch), binary.BigEndian.AppendUint64(config.Encode(), h.Height))
	}
	l.journal.clear(&w, idsOf(entries))
	w.set(keyTip, storedTip{head: next.Head, epoch: next.Config.Epoch, records: next.Records}.encode())
	if w.err != nil {
		return w.err
	}
	return w.batch.Commit(pebble.Sync)
}

// writer fills a batch and keeps its first error.
type writer struct {
	batch *pebble.Batch
	err   error

	key, place []byte // room for the next ones: a batch copies
}

func (w *writer) set(key, value []byte) {
	if w.err == nil {
		w.err = w.batch.Set(key, value, nil)
	}
}

func (w *writer) delete(key []byte) {
	if w.err == nil {
		w.err = w.batch.Delete(key, nil)
	}
}

// setIndexes writes the entries of one record.
func (w *writer) setIndexes(e *entry, p Position) {
	w.place = appendPlace(w.place[:0], p)
	w.key = append(append(w.key[:0], keyRecord), e.id[:]...)
	w.set(w.key, w.place)
	subject := sha256.Sum256([]byte(e.record.Subject))
	w.key = append(append(append(w.key[:0], keySubject), subject[:subjectHash]...), w.place...)
	w.set(w.key, e.id[:])
	w.key = append(append(append(w.key[:0], keyAuthor), e.record.Author[:]...), w.place...)
	w.set(w.key, e.id[:])
}

// setSubtree writes a subtree as it stands in a body, straight into the batch.
func (w *writer) setSubtree(key []byte, s consortium.Subtree) {
	if w.err != nil {
		return
	}
	op := w.batch.SetDeferred(len(key), subtreeSize(s))
	copy(op.Key, key)
	appendSubtree(op.Value[:0], s)
	w.err = op.Finish()
}

// publish tells of the block that is the tip. The writer's lock is held, so
// that events stand in the order of blocks; the bus does not block. signed is
// the set that signed the block.
func (l *Ledger) publish(signed *consortium.ValidatorSet, tip Tip, entries []entry, source string, from peer.ID) {
	if l.bus == nil {
		return
	}
	h := tip.Header
	events := slices.Insert(told(h, tip.Head.Hash, entries, source, from), 1, event.Event(event.HeadChanged{Height: h.Height, Hash: tip.Head.Hash}))
	if h.Set != h.NextSet {
		added, removed := signed.Changes(tip.Set)
		events = append(events, event.ValidatorsChanged{Height: h.Height, Added: added, Removed: removed, Quorum: tip.Set.Quorum()})
	}
	l.bus.Publish(events...)
}

// told are the events of a block that [Ledger.Events] gives once more.
func told(h *consortium.Header, hash chain.Hash, entries []entry, source string, from peer.ID) []event.Event {
	events := make([]event.Event, 0, 3+len(entries)) // publish has two more
	events = append(events, event.BlockStored{
		Height: h.Height, Hash: hash, PrevHash: h.Prev, Proposer: h.Proposer,
		RecordCount: len(entries), SizeBytes: int(h.BodyBytes), From: from, Source: source,
		DelayMS: time.Since(time.UnixMilli(int64(h.Time))).Milliseconds(),
	})
	authors := map[consortium.PublicKey]string{}
	for i, e := range entries {
		author := authors[e.record.Author]
		if author == "" {
			author = hex.EncodeToString(e.record.Author[:])
			authors[e.record.Author] = author
		}
		events = append(events, event.RecordCommitted{ID: e.id, Subject: e.record.Subject, Author: author, Height: h.Height, Index: i})
	}
	return events
}

// Events are those that told of a stored block and of its records: first
// block.stored, now of the source ledger, then record.committed in their order.
// ErrNotFound above the tip.
func (l *Ledger) Events(height uint64) ([]event.Event, error) {
	b, err := l.Block(height)
	if err != nil {
		return nil, err
	}
	entries, err := entriesOf(b)
	if err != nil {
		l.noteDamage(height, err)
		return nil, err
	}
	return told(b.Header, b.Header.Hash(), entries, "ledger", ""), nil
}

// entriesOf decodes the records of a stored block, whose body has to fit its header.
func entriesOf(b *consortium.Block) ([]entry, error) {
	ids, err := consortium.OpenBody(b.Header, b.Body)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(ids))
	for _, s := range b.Body {
		for _, raw := range s.Records {
			r, err := consortium.DecodeRecord(raw)
			if err != nil {
				return nil, fmt.Errorf("block %d: record %d: %w", b.Header.Height, len(entries), err)
			}
			entries = append(entries, entry{id: ids[len(entries)], record: r, size: len(raw)})
		}
	}
	return entries, nil
}
