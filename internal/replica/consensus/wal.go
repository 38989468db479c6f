package consensus

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/wal"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

const (
	walBuffer  = 64 << 10 // allocated for each append
	keepCopies = 3        // of damaged files, which the library's repair leaves
)

// walFile is the log of what was signed: on disk before it is sent.
type walFile interface {
	Append(entry []byte, truncateTo bool) error
	Close() error
}

// MemoryWAL is a log in memory, for virtual time. The zero value is ready. It
// survives the engine, and so stands for the disk of a killed node.
type MemoryWAL struct {
	// Died is called where the process would end, with the reason, and the
	// goroutine ends: in virtual time other nodes share the process. It MUST
	// NOT block. nil panics, as outside virtual time.
	Died func(reason string)

	mu      sync.Mutex // guards entries
	entries [][]byte
}

// Append implements the library's WriteAheadLog.
func (m *MemoryWAL) Append(entry []byte, truncateTo bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if truncateTo {
		m.entries = nil
	}
	m.entries = append(m.entries, bytes.Clone(entry))
	return nil
}

// Close does nothing: what was appended stays.
func (m *MemoryWAL) Close() error { return nil }

// Clone is the log as it stands now, as a power cut would leave it: every append
// that returned is in it.
func (m *MemoryWAL) Clone() *MemoryWAL {
	return &MemoryWAL{entries: m.content()}
}

func (m *MemoryWAL) content() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.entries)
}

// openWAL opens the log and gives its entries since the last truncation. It
// returns ErrQuarantined where what we signed may be lost: the ledger's mark
// names a log that is missing, of another ledger or damaged, or this is a
// genesis validator on a store that was made after the network had blocks.
func (e *Engine) openWAL() (walFile, [][]byte, error) {
	if e.cfg.InMemoryWAL {
		return e.openMemory()
	}
	if err := os.MkdirAll(e.cfg.WALDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make write-ahead log directory: %w", err)
	}
	if !e.cfg.SoleValidator {
		if err := e.noteConsent(); err != nil {
			return nil, nil, fmt.Errorf("note that consortium.sole_validator is off: %w", err)
		}
	}
	lost, err := e.lost()
	if err != nil {
		return nil, nil, err
	}
	if lost == "" {
		w, entries, err := openFiles(e.cfg.WALDir)
		var damaged *damagedError
		if !errors.As(err, &damaged) {
			if err != nil {
				return nil, nil, fmt.Errorf("open write-ahead log %s: %w", e.cfg.WALDir, err)
			}
			return w, entries, e.mark(w)
		}
		lost = damaged.Error()
	}
	if err := e.quarantine(lost); err != nil {
		return nil, nil, err
	}
	if err := setAside(e.cfg.WALDir); err != nil {
		return nil, nil, fmt.Errorf("set the old write-ahead log aside: %w", err)
	}
	w, entries, err := openFiles(e.cfg.WALDir)
	if err != nil {
		return nil, nil, fmt.Errorf("make write-ahead log %s: %w", e.cfg.WALDir, err)
	}
	return w, entries, e.mark(w)
}

// openMemory knows of a ledger that was made anew, and of no other loss.
func (e *Engine) openMemory() (walFile, [][]byte, error) {
	const id = "memory"
	mark, err := e.ledger.Mark()
	foreign := err == nil && string(mark) != id
	if foreign || errors.Is(err, ledger.ErrNotFound) {
		why := "the write-ahead log is of another ledger"
		if err = nil; !foreign {
			why, err = e.rebuilt()
		}
		if err == nil && why != "" {
			err = e.quarantine(why)
		}
		if err == nil {
			err = e.ledger.SetMark([]byte(id))
		}
	}
	if err == nil {
		err = e.noteConsent()
	}
	return e.cfg.Memory, e.cfg.Memory.content(), err
}

func (e *Engine) idFile() string { return filepath.Join(e.cfg.WALDir, "id") }

// lost says why what we signed may be lost, "" where it is not.
func (e *Engine) lost() (string, error) {
	mark, err := e.ledger.Mark()
	if errors.Is(err, ledger.ErrNotFound) {
		return e.rebuilt()
	}
	if err != nil {
		return "", err
	}
	id, err := os.ReadFile(e.idFile())
	if errors.Is(err, fs.ErrNotExist) {
		return "the write-ahead log is missing", nil
	}
	if err != nil {
		return "", fmt.Errorf("read write-ahead log id: %w", err)
	}
	if !bytes.Equal(id, mark) {
		return "the write-ahead log is of another ledger", nil
	}
	names, err := walNames(e.cfg.WALDir)
	if err == nil && len(names) == 0 {
		return "the write-ahead log is empty", nil
	}
	return "", err
}

// rebuilt finds a validator that has a new store: no mark, and the network had
// blocks already. Who was promoted later voted for nothing before.
func (e *Engine) rebuilt() (string, error) {
	born, err := e.ledger.Born()
	if errors.Is(err, ledger.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if _, ok := e.ledger.Tip().Genesis.Config.Set().ByKey(e.self); !ok || born == 0 {
		return "", nil
	}
	return fmt.Sprintf("this store was made when the network was at height %d already", born), nil
}

// quarantine returns nil when we may vote although our log is lost: a block
// came since we began to wait, or nobody else votes.
func (e *Engine) quarantine(why string) error {
	height := e.ledger.Tip().Head.Height
	covered, err := e.consents()
	if err != nil {
		return err
	}
	if covered {
		e.log.Warn("voting without the old write-ahead log, for this is the sole validator", "why", why, "height", height)
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waived == 0 {
		e.waived = height + 1
	}
	if height+1 > e.waived {
		e.waived = 0
		return nil
	}
	e.log.Warn("not voting before the others have committed later blocks; set consortium.sole_validator = true if no other validator can vote", "why", why, "height", height)
	return &LostError{Why: why}
}

// consents reports whether the operator lets us vote without our log. A consent
// that was there before the log was lost is about an older loss.
func (e *Engine) consents() (bool, error) {
	if !e.cfg.SoleValidator || e.ledger.Tip().Set.Len() == 1 {
		return e.cfg.SoleValidator, nil
	}
	mark, err := e.ledger.Mark()
	if errors.Is(err, ledger.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	old, err := e.ledger.Consent()
	if err == nil && bytes.Equal(old, mark) {
		e.log.Warn("consortium.sole_validator was on before this write-ahead log was lost, and does not cover it: start once without it, then with it if no other validator can vote")
		return false, nil
	}
	return err == nil, err
}

// noteConsent notes beside which log the operator's consent stands, or that it
// is withdrawn.
func (e *Engine) noteConsent() error {
	var mark []byte
	if e.cfg.SoleValidator {
		var err error
		if mark, err = e.ledger.Mark(); err != nil {
			return err
		}
	}
	old, err := e.ledger.Consent()
	if err != nil || bytes.Equal(old, mark) {
		return err
	}
	return e.ledger.SetConsent(mark)
}

// mark ties the log to the ledger, before the first vote.
func (e *Engine) mark(w walFile) error {
	err := e.writeMark()
	if err == nil {
		err = e.noteConsent()
	}
	if err == nil {
		err = tidy(e.cfg.WALDir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mark write-ahead log %s: %w", e.cfg.WALDir, err), w.Close())
	}
	return nil
}

func (e *Engine) writeMark() error {
	id, err := os.ReadFile(e.idFile())
	if errors.Is(err, fs.ErrNotExist) {
		id = []byte(hex.EncodeToString(randomBytes(16)))
		err = os.WriteFile(e.idFile(), id, 0o600)
	}
	if err != nil {
		return err
	}
	if err := syncPath(e.idFile()); err != nil {
		return err
	}
	if mark, err := e.ledger.Mark(); err == nil && bytes.Equal(mark, id) {
		return nil
	}
	return e.ledger.SetMark(id)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// damagedError means that a log lost more than its last, unsent entry.
type damagedError struct{ detail string }

func (d *damagedError) Error() string { return "the write-ahead log is damaged: " + d.detail }

// openFiles opens or makes the log in dir and repairs a tail that a crash left.
func openFiles(dir string) (walFile, [][]byte, error) {
	names, err := walNames(dir)
	if err != nil {
		return nil, nil, err
	}
	log, opts := quiet{}, &wal.Options{BufferSizeBytes: walBuffer}
	if len(names) == 0 {
		w, err := wal.Create(log, dir, opts)
		return w, nil, err
	}
	last, err := os.ReadFile(filepath.Join(dir, names[len(names)-1]))
	if err != nil {
		return nil, nil, err
	}
	state := inspect(last)
	if state == corrupt {
		return nil, nil, &damagedError{names[len(names)-1] + ": a bad entry with others behind it"}
	}
	if state == torn {
		if err := wal.Repair(log, dir); err != nil {
			return nil, nil, asDamage(err)
		}
		if len(names) == 1 && len(last) <= anchorSize { // it went with its torn anchor
			w, err := wal.Create(log, dir, opts)
			return w, nil, err
		}
	}
	w, err := wal.Open(log, dir, opts)
	if err != nil {
		return nil, nil, asDamage(err)
	}
	entries, err := w.ReadAll()
	if err != nil {
		return nil, nil, asDamage(errors.Join(err, w.Close()))
	}
	return w, entries, nil
}

// asDamage tells damage from a disk that cannot be read.
func asDamage(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return err
	}
	return &damagedError{err.Error()}
}

func walNames(dir string) ([]string, error) {
	return fs.Glob(os.DirFS(dir), "????????????????.wal") // in order; a path may be no pattern
}

// setAside moves a lost log out of the way, for who wants to look at it.
func setAside(dir string) error {
	names, err := walNames(dir)
	if err != nil {
		return err
	}
	aside := filepath.Join(dir, "lost-"+time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return err
	}
	for _, n := range append(names, "id") {
		if err := os.Rename(filepath.Join(dir, n), filepath.Join(aside, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncPath(dir)
}

// tidy drops all but the newest copies of repaired files, and syncs the
// directory, which the library does not.
func tidy(dir string) error {
	copies, err := fs.Glob(os.DirFS(dir), "*.copy")
	if err != nil {
		return err
	}
	for _, c := range copies[:max(0, len(copies)-keepCopies)] {
		if err := os.Remove(filepath.Join(dir, c)); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lastProposal is the sequence of the last proposal in the log, 0 without one.
func lastProposal(entries [][]byte) (uint64, error) {
	for _, b := range slices.Backward(entries) {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(b, m); err != nil {
			return 0, err
		}
		if p := m.GetProposedRecord(); p != nil {
			return p.GetPrePrepare().GetSeq(), nil
		}
	}
	return 0, nil
}

// resume prepares the entries of the log for the library, which looks at the
// last one or two only.
//
// A log that ends with a proposal that became a block is dropped: the library
// would take the proposal up again at the next height.
//
// A log with a vote loses the view changes behind it. With them the library
// forgets the proposal that it voted for: two of four that crash there and start
// again let a new view put another block in the place of one that is stored
// elsewhere. Without them the node asks for the view change again.
func resume(genesis chain.Hash, entries [][]byte, height uint64) ([][]byte, error) {
	saved := make([]*smartbftprotos.SavedMessage, len(entries))
	for i, b := range entries {
		saved[i] = &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(b, saved[i]); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	if n := liveVote(genesis, saved, height+1); n > 0 {
		return besideProposal(entries[:n], saved), nil
	}
	if n := len(saved); n > 0 && saved[n-1].GetCommit() != nil { // for a block that is stored
		return besideProposal(entries, saved), nil
	}
	if n := len(saved); n > 0 && saved[n-1].GetProposedRecord() != nil && saved[n-1].GetProposedRecord().GetPrePrepare().GetSeq() <= height {
		return nil, nil
	}
	return entries, nil
}

// onlyBegun drops the view changes that left a view which did not begin, as the log
// and the view of the tip tell. The library would start in that view, as if it had
// begun, and say so to the others: a vote of a view before that would count for dead.
func onlyBegun(entries [][]byte, tip uint64) (kept [][]byte) {
	begun := tip
	for _, raw := range entries {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(raw, m); err == nil { // resume tells of the error
			begun = max(begun, m.GetNewView().GetViewId(), m.GetProposedRecord().GetPrePrepare().GetView())
			if c := m.GetViewChange(); c != nil && c.NextView > begun {
				continue
			}
		}
		kept = append(kept, raw)
	}
	return kept
}

// withoutViewChange cuts the view changes off the end of a log: a sole validator
// has nobody to change the view with, and the library would wait for a timeout.
func withoutViewChange(entries [][]byte) [][]byte {
	for n := len(entries); n > 0; n-- {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(entries[n-1], m); err != nil || m.GetViewChange() == nil { // resume tells of the error
			return entries[:n]
		}
	}
	return nil
}

// liveVote is the number of entries up to our last vote for a block, 0 where
// there is none, or where a view after the one of that vote has begun.
func liveVote(genesis chain.Hash, saved []*smartbftprotos.SavedMessage, seq uint64) (n int) {
	var view uint64
	for i, m := range saved {
		if v, ok := ownVoteOf(genesis, m.GetCommit().GetCommit()); ok && v.seq == seq {
			n, view = i+1, v.view
		}
		if v := m.GetNewView(); v != nil && v.ViewId > view {
			n = 0
		}
	}
	return n
}

// besideProposal drops what stands between a vote, which is the last of the
// entries, and its proposal.
func besideProposal(entries [][]byte, saved []*smartbftprotos.SavedMessage) [][]byte {
	last := len(entries) - 1
	for i := last - 1; i >= 0; i-- {
		if saved[i].GetProposedRecord() != nil {
			return slices.Concat(entries[:i+1], entries[last:])
		}
	}
	return entries
}

// quiet is the log library's logger; its errors are returned as well.
type quiet struct{}

func (quiet) Debugf(string, ...any) {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Warnf(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}

// Panicf is never called by pkg/wal.
func (quiet) Panicf(template string, args ...any) { panic(fmt.Sprintf(template, args...)) }
