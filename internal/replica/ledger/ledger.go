// Package ledger owns the chain on this node: every block, its indexes and the
// tip, in one pebble store, with one door for blocks and one rule for records.
package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// formatVersion of keys and values. Another one in a store is a *FormatError.
const formatVersion uint32 = 1

// Options of a Ledger.
type Options struct {
	Dir        string                // made when missing, 0700
	FS         vfs.FS                // nil: the disk
	End        func()                // ends the process after a line in the log; nil: a panic
	Bus        *event.Bus            // nil: no events
	Log        *slog.Logger          // required
	Registerer prometheus.Registerer // nil: no metrics
	ReadOnly   bool                  // changes nothing; what is missing is not made, and nothing may be written
	// Verified tells of a record id whose signature the caller has verified on
	// this chain, so that it is not verified again; nil knows of none. It is
	// called by several goroutines and MUST NOT block.
	Verified func(id chain.Hash) bool
	// Bounds of the journal of accepted records; 0: 100,000 and 128 MiB.
	JournalRecords int
	JournalBytes   int64
}

// Ledger is the chain on this node. All methods are safe for concurrent use;
// blocks are appended one at a time. No method may be called after Close, but
// for Close and DiskUsage.
type Ledger struct {
	db       *pebble.DB
	lock     *pebble.Lock
	fs       vfs.FS
	dir      string
	readOnly bool
	bus      *event.Bus
	log      *slog.Logger
	store    *storeLogger
	verified func(chain.Hash) bool
	metrics  *metrics
	damaged  chan uint64

	tip     atomic.Pointer[Tip] // replaced, never changed
	journal journal
	recent  *recent
	ids     idFilter

	// writing is held over a whole commit, its I/O and its events included: it
	// puts blocks, and their events, in order. Readers never take it.
	writing  sync.Mutex
	rejected []rejected   // guarded by writing: oldest first
	untold   []Untold     // guarded by writing: of an earlier run
	learning bool         // guarded by writing: the filter gets the ids of new blocks
	ended    atomic.Int64 // len(rejected)

	life   sync.RWMutex // guards closed, over the calls that may come after Close
	closed bool
}

// ErrNotFound means that the ledger holds no such thing.
var ErrNotFound = errors.New("not in the ledger")

// ErrLocked means that another process has the store open.
var ErrLocked = errors.New("another process uses it")

// FormatError says that a directory holds something other than a ledger of
// this version. Exit with 78: a restart mends nothing.
type FormatError struct {
	Dir    string
	Detail string
}

func (e *FormatError) Error() string { return fmt.Sprintf("ledger %s: %s", e.Dir, e.Detail) }

// CorruptError says that stored bytes are not what was written.
type CorruptError struct {
	Dir    string
	Height uint64
	Err    error
}

func (e *CorruptError) Error() string {
	if e.Height == 0 {
		return fmt.Sprintf("ledger %s is damaged: %v: move the directory away and start again to sync from peers, or restore a backup", e.Dir, e.Err)
	}
	return fmt.Sprintf("ledger %s is damaged at height %d: %v: move the directory away and start again to sync from peers, or restore a backup", e.Dir, e.Height, e.Err)
}

// Unwrap gives what was found.
func (e *CorruptError) Unwrap() error { return e.Err }

// Open opens the store, makes an empty one where there is none, and recovers
// the tip. It starts nothing but pebble's own compactions. Errors: *FormatError,
// *CorruptError (both exit 78), a directory that another process has locked, a
// disk without room.
func Open(o Options) (*Ledger, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Verified == nil {
		o.Verified = func(chain.Hash) bool { return false }
	}
	l := &Ledger{
		fs: o.FS, dir: o.Dir, readOnly: o.ReadOnly, bus: o.Bus, log: o.Log, store: &storeLogger{log: o.Log, end: o.End, broken: make(chan error, 1)}, verified: o.Verified,
		damaged: make(chan uint64, maxDamaged),
	}
	l.journal.init(o)
	if err := l.open(o.FS); err != nil {
		return nil, err
	}
	if err := l.recover(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.recent = newRecent(l.Tip().Head.Height)
	l.learning = l.Tip().Records == 0
	l.ids.ready.Store(l.learning)
	l.metrics = newMetrics(l, o.Registerer)
	return l, nil
}

func (l *Ledger) open(disk vfs.FS) error {
	if !l.readOnly {
		if err := makeDir(disk, l.dir); err != nil {
			return fmt.Errorf("make ledger directory %s: %w", l.dir, err)
		}
	}
	if err := checkDir(disk, l.dir); err != nil {
		return err
	}
	if u, err := disk.GetDiskUsage(l.dir); err == nil && u.AvailBytes < minFree && !l.readOnly {
		return fmt.Errorf("open ledger %s: the disk has %d MiB free, it needs %d: make room and start again", l.dir, u.AvailBytes>>20, minFree>>20)
	}
	lock, err := pebble.LockDirectory(l.dir, disk)
	if l.readOnly && errors.Is(err, syscall.EROFS) {
		lock, err = pebble.LockDirectory(l.dir, sealedFS{disk})
	}
	if errors.Is(err, fs.ErrPermission) && !lockHeld(err) {
		return fmt.Errorf("open ledger %s: %w: give the directory to the user of this process", l.dir, err)
	}
	if err != nil && !lockHeld(err) {
		return fmt.Errorf("open ledger %s: %w", l.dir, err)
	}
	if err != nil {
		return fmt.Errorf("open ledger %s: %w (%w): stop that node, or give this one its own --data-dir", l.dir, ErrLocked, err)
	}
	opts := storeOptions(disk, l.store)
	opts.Lock, opts.ReadOnly = lock, l.readOnly
	db, err := pebble.Open(l.dir, opts)
	if err != nil {
		err = errors.Join(err, lock.Close())
		if errors.Is(err, pebble.ErrDBDoesNotExist) {
			return &FormatError{Dir: l.dir, Detail: "holds no store: name the data directory of a node"}
		}
		if pebble.IsCorruptionError(err) {
			return &CorruptError{Dir: l.dir, Err: err}
		}
		return fmt.Errorf("open ledger %s: %w", l.dir, err)
	}
	l.db, l.lock = db, lock
	return nil
}

// makeDir makes dir so that it survives a loss of power: what pebble syncs
// inside is gone with a directory that is not in its parent on disk.
func makeDir(disk vfs.FS, dir string) error {
	var missing []string // innermost first
	for at := dir; ; at = disk.PathDir(at) {
		if _, err := disk.Stat(at); err == nil || disk.PathDir(at) == at {
			break
		}
		missing = append(missing, at)
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, made := range missing {
		parent, err := disk.OpenDir(disk.PathDir(made))
		if err != nil {
			return err
		}
		if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

// checkDir refuses a directory that holds files of somebody else, before
// pebble adds its own.
func checkDir(disk vfs.FS, dir string) error {
	names, err := disk.List(dir)
	if err != nil {
		return fmt.Errorf("list ledger directory %s: %w", dir, err)
	}
	other := ""
	for _, n := range names {
		if n == "LOCK" || len(n) > 9 && n[:9] == "MANIFEST-" {
			return nil
		}
		other = n
	}
	if other != "" {
		return &FormatError{Dir: dir, Detail: fmt.Sprintf("holds %q and no ledger: give the node another --data-dir, or empty this one", other)}
	}
	return nil
}

// lockHeld reports whether err of a lock means that another process has it.
// POSIX allows EACCES for that; from an open file it carries a path.
func lockHeld(err error) bool {
	var path *os.PathError
	return !errors.As(err, &path)
}

// recover reads the tip and recomputes its hash.
func (l *Ledger) recover() error {
	if err := l.checkFormat(); err != nil {
		return err
	}
	rejected, untold, err := readRejections(l.db)
	if err != nil {
		return &CorruptError{Dir: l.dir, Err: err}
	}
	l.rejected, l.untold = rejected, untold
	l.ended.Store(int64(len(rejected)))
	if err := l.journal.load(l.db); err != nil {
		return &CorruptError{Dir: l.dir, Err: err}
	}
	g, err := readGenesis(l.db)
	if errors.Is(err, ErrNotFound) {
		l.setTip(Tip{})
		return nil
	}
	if err != nil {
		return &CorruptError{Dir: l.dir, Err: err}
	}
	tip, err := readTip(l.db, g)
	if err != nil {
		return &CorruptError{Dir: l.dir, Height: tip.Head.Height, Err: err}
	}
	l.setTip(tip)
	return nil
}

// checkFormat reads the format version; it writes ours to an empty store.
func (l *Ledger) checkFormat() error {
	v, err := get(l.db, keyFormat)
	switch {
	case err == nil && bytes.Equal(v, binary.BigEndian.AppendUint32(nil, formatVersion)):
		return nil
	case err == nil && len(v) == 4:
		return &FormatError{Dir: l.dir, Detail: fmt.Sprintf("has format version %d, this program reads %d: start the version that wrote it, or give this one its own --data-dir", binary.BigEndian.Uint32(v), formatVersion)}
	case err == nil:
		return &FormatError{Dir: l.dir, Detail: fmt.Sprintf("has no readable format version (%d bytes)", len(v))}
	case !errors.Is(err, ErrNotFound):
		return &CorruptError{Dir: l.dir, Err: err}
	}
	empty, err := isEmpty(l.db)
	if err != nil {
		return fmt.Errorf("open ledger %s: %w", l.dir, err)
	}
	if !empty {
		return &FormatError{Dir: l.dir, Detail: "is a pebble store, but no ledger: give the node another --data-dir"}
	}
	return l.set(keyFormat, binary.BigEndian.AppendUint32(nil, formatVersion))
}

// set writes one key, synced.
func (l *Ledger) set(key, value []byte) error {
	if err := l.db.Set(key, value, pebble.Sync); err != nil {
		return fmt.Errorf("write %s to ledger %s: %w", key, l.dir, err)
	}
	return nil
}

func (l *Ledger) setTip(t Tip) {
	l.tip.Store(&t)
	l.store.height.Store(t.Head.Height)
}

// Init gives an empty ledger its genesis, synced. A stored genesis is never
// replaced; the same one again is no error.
func (l *Ledger) Init(g *consortium.Genesis) error {
	if err := g.Check(); err != nil {
		return fmt.Errorf("genesis %s: %w", g.Hash(), err)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	next := GenesisTip(g)
	if tip := l.Tip(); tip.Genesis != nil {
		if tip.genesis != next.genesis {
			return fmt.Errorf("ledger %s holds the chain with genesis %s, which is never replaced by genesis %s: use another --data-dir", l.dir, tip.genesis, next.genesis)
		}
		return nil
	}
	b := l.db.NewBatch()
	defer b.Close()
	stored := storedTip{head: next.Head}
	for _, kv := range [][2][]byte{
		{keyGenesis, g.Encode()},
		{keyTip, stored.encode()},
		{heightKey(keyConfig, 0), binary.BigEndian.AppendUint64(g.Config.Encode(), 0)},
	} {
		if err := b.Set(kv[0], kv[1], nil); err != nil {
			return fmt.Errorf("write genesis to ledger %s: %w", l.dir, err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("write genesis to ledger %s: %w", l.dir, err)
	}
	l.setTip(next)
	return nil
}

// Genesis is nil while the ledger is empty.
func (l *Ledger) Genesis() *consortium.Genesis { return l.Tip().Genesis }

// Tip is the end of the chain; its Genesis is nil while the ledger is empty.
// What it says is on disk.
func (l *Ledger) Tip() Tip { return *l.tip.Load() }

// Mark is the id of the write-ahead log that belongs to this ledger, ErrNotFound
// before the first SetMark.
func (l *Ledger) Mark() ([]byte, error) { return get(l.db, keyMark) }

// SetMark stores the id of the write-ahead log, synced.
func (l *Ledger) SetMark(id []byte) error { return l.set(keyMark, id) }

// Consent is the mark that SetConsent stored last, empty without one.
func (l *Ledger) Consent() ([]byte, error) {
	id, err := get(l.db, keyConsent)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return id, err
}

// SetConsent stores, synced, the mark of the log whose loss the operator's
// consent does not cover: it stood before. Empty means none.
func (l *Ledger) SetConsent(id []byte) error { return l.set(keyConsent, id) }

// Born is the head that the network had when this store was created,
// ErrNotFound before SetBorn.
func (l *Ledger) Born() (uint64, error) { return readUint64(l.db, keyBorn) }

// SetBorn stores the network's head, synced.
func (l *Ledger) SetBorn(height uint64) error {
	return l.set(keyBorn, binary.BigEndian.AppendUint64(nil, height))
}

// DiskUsage is the bytes of the store on disk, 0 after Close.
func (l *Ledger) DiskUsage() uint64 {
	l.life.RLock()
	defer l.life.RUnlock()
	if l.closed {
		return 0
	}
	return l.db.Metrics().DiskSpaceUsage()
}

// Close flushes nothing that was not synced already, and frees the directory.
// The caller MUST have ended all other calls.
func (l *Ledger) Close() error {
	l.life.Lock()
	defer l.life.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if err := errors.Join(l.db.Close(), l.lock.Close()); err != nil { // the lock is let go last
		return fmt.Errorf("close ledger %s: %w", l.dir, err)
	}
	return nil
}
