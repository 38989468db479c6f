package reputation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// journal keeps changes that the store could not be told, one JSON line each.
// A line that was torn by a crash is left out: its change was never answered.
type journal struct {
	path string // empty: there is none

	mu     sync.Mutex // guards below
	n      int        // changes in it
	failed error      // the last write
}

// maxJournal bounds the changes that wait.
const maxJournal = 100_000

func openJournal(path string, on bool) (*journal, error) {
	if !on {
		return &journal{}, nil
	}
	j := &journal{path: path}
	ops, err := j.read()
	j.n = len(ops)
	return j, err
}

// state is how many changes wait, and why the last write failed, if it did.
func (j *journal) state() (waiting int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.n, j.failed
}

// add makes ops safe from a power cut.
func (j *journal) add(ops []op) (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer func() { j.failed = err }()
	switch {
	case j.path == "":
		return errors.New("the store is away and there is no journal")
	case j.n+len(ops) > maxJournal:
		return fmt.Errorf("%d changes wait for the store, no more fit", j.n)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, o := range ops {
		if err := enc.Encode(o); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	j.n += len(ops)
	return nil
}

// read returns what waits, oldest first.
func (j *journal) read() (ops []op, err error) {
	if j.path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(j.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the journal of bans: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		var o op
		if err := json.Unmarshal(lines.Bytes(), &o); err == nil {
			ops = append(ops, o)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the journal of bans %s: %w", j.path, err)
	}
	return ops, nil
}

// clear forgets what was told.
func (j *journal) clear() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.n, j.failed = 0, nil
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear the journal of bans: %w", err)
	}
	return nil
}
