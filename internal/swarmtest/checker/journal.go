package checker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// Kind is what an entry of the journal tells.
type Kind string

// The closed set of kinds.
const (
	Submit    Kind = "submit"    // about to be handed in
	Accepted  Kind = "accepted"  // answered: it will be committed or finally rejected
	Committed Kind = "committed" // answered: it stands at Height and Index of Block
	Rejected  Kind = "rejected"  // answered: it will never be committed
	Refused   Kind = "refused"   // answered: not taken, which promises nothing
	Unknown   Kind = "unknown"   // no answer came, which promises nothing
)

// Entry is one line of a journal: a JSON object.
type Entry struct {
	Time   time.Time  `json:"time"`
	Kind   Kind       `json:"kind"`
	Node   string     `json:"node"` // that was asked, as Node.Name
	ID     chain.Hash `json:"id"`
	Height uint64     `json:"height,omitempty"`
	Index  uint32     `json:"index,omitempty"`
	Block  chain.Hash `json:"block,omitzero"` // header hash
	Reason string     `json:"reason,omitempty"`
}

// Journal appends entries to a file, outside the nodes. It is safe for
// concurrent use; the order of the file is an order of what happened, for an
// entry is written after what it tells of a node and before what follows.
type Journal struct {
	mu   sync.Mutex // held over the write: it orders the file
	file *os.File
	sync bool
}

// OpenJournal appends to the file at path, and makes it when it is missing.
// With sync, what Write was given is on disk when it returns: needed where the
// machine may fail, not where only nodes are killed.
func OpenJournal(path string, sync bool) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := endLine(f); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), f.Close())
	}
	return &Journal{file: f, sync: sync}, nil
}

// endLine ends a line that a crash of the writer left torn.
func endLine(f *os.File) error {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil || at == 0 {
		return err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], at-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err = f.Write([]byte{'\n'})
	return err
}

// Write appends one entry. A zero Time becomes now. A submit MUST be written
// before the record is handed in, an answer after it came.
func (j *Journal) Write(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode entry of record %s: %w", e.ID, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if !j.sync {
		return nil
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	return nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }

// Told is what a journal says, by record.
type Told struct {
	records map[chain.Hash]*record
	order   []chain.Hash // by first submit
	faults  []Violation
	seen    uint64 // highest height of a committed answer so far
}

// record is all that clients were told about one record.
type record struct {
	submitted bool
	floor     uint64   // committed answers up to this height had come at the first submit
	accepted  []string // nodes that said so
	committed []Entry  // distinct places
	rejected  []string
}

func (r *record) acknowledged() bool { return len(r.accepted) > 0 || len(r.committed) > 0 }

// NewTold is an empty journal in memory.
func NewTold() *Told { return &Told{records: map[chain.Hash]*record{}} }

// maxLine bounds a line of a journal.
const maxLine = 64 << 10 // bytes; an entry has about 400

// ReadJournal reads journals, in any number, into one. Between two files there
// is no order: nothing is said about one from the answers in another. A torn
// last line, and one that a later writer ended, is left out: whoever wrote it
// did not go on.
func ReadJournal(paths ...string) (*Told, error) {
	t := NewTold()
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		err = errors.Join(t.read(f), f.Close())
		if err != nil {
			return nil, fmt.Errorf("read journal %s: %w", p, err)
		}
	}
	return t, nil
}

func (t *Told) read(r io.Reader) error {
	t.seen = 0
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 4<<10), maxLine)
	torn := 0
	for line := 1; s.Scan(); line++ {
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		var e Entry
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			if torn++; torn > maxTorn {
				return fmt.Errorf("line %d: %w", line, err)
			}
			continue
		}
		t.Add(e)
	}
	return s.Err()
}

// maxTorn is how many lines may be torn: one for each writer that was killed.
const maxTorn = 100

// Add takes one entry, in the order of what happened.
func (t *Told) Add(e Entry) {
	r := t.records[e.ID]
	if r == nil {
		r = &record{}
		t.records[e.ID] = r
	}
	if e.Kind == Submit {
		if !r.submitted {
			r.submitted, r.floor = true, t.seen
			t.order = append(t.order, e.ID)
		}
		return
	}
	fault := func(format string, args ...any) {
		if len(t.faults) < maxViolations {
			t.faults = append(t.faults, Violation{Class: BadJournal, Node: e.Node, Height: e.Height, Record: e.ID, Detail: fmt.Sprintf(format, args...)})
		}
	}
	if !r.submitted {
		fault("an answer %q without a submit before it", e.Kind)
		r.submitted = true
		t.order = append(t.order, e.ID)
	}
	switch e.Kind {
	case Accepted:
		r.accepted = appendNew(r.accepted, e.Node)
	case Rejected:
		r.rejected = appendNew(r.rejected, e.Node)
	case Committed:
		if e.Height == 0 {
			fault("a committed answer without a height")
			return
		}
		for _, c := range r.committed {
			if c.Height == e.Height && c.Index == e.Index && c.Block == e.Block {
				return
			}
		}
		r.committed = append(r.committed, e)
		t.seen = max(t.seen, e.Height)
	case Refused, Unknown:
	default:
		fault("the kind %q is not known", e.Kind)
	}
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func (j *judge) checkJournal() {
	for _, v := range j.told.faults {
		j.add(v)
	}
	j.Submitted = len(j.told.order)
}
