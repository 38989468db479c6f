package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

const (
	maxEvent   = 1 << 20 // bytes
	watchAgain = 10 * time.Millisecond
)

// watch reads the event stream of every node: when blocks were committed, and
// what each process of a node told.
type watch struct {
	mu      sync.Mutex // guards below
	height  uint64     // highest that any node told of
	commits []time.Time
	runs    map[*node][]*checker.Run
	open    map[*node]*checker.Run // whose stream is read now
}

func newWatch() *watch {
	return &watch{runs: map[*node][]*checker.Run{}, open: map[*node]*checker.Run{}}
}

// follow reads the streams of a node until ctx ends.
func (w *watch) follow(ctx context.Context, n *node) {
	for ctx.Err() == nil {
		w.read(ctx, n)
		select {
		case <-time.After(watchAgain):
		case <-ctx.Done():
		}
	}
}

// read follows one stream to its end, which is that of the process.
func (w *watch) read(ctx context.Context, n *node) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/api/v1/events?types=block.stored,record.committed,record.rejected", nil)
	if err != nil {
		return
	}
	res, err := n.api.HTTP.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return
	}
	run := w.begin(n)
	defer w.end(n)
	s := bufio.NewScanner(res.Body)
	s.Buffer(make([]byte, 64<<10), maxEvent)
	for s.Scan() {
		if data, ok := bytes.CutPrefix(s.Bytes(), []byte("data: ")); ok {
			w.take(run, data)
		}
	}
}

// begin opens one more run of a node.
func (w *watch) begin(n *node) *checker.Run {
	w.mu.Lock()
	defer w.mu.Unlock()
	run := &checker.Run{}
	w.runs[n] = append(w.runs[n], run)
	w.open[n] = run
	return run
}

func (w *watch) end(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, n)
}

// rest notes that all nodes are at rest: what they had to tell since their
// streams began has been told.
func (w *watch) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, run := range w.open {
		run.Whole = true
	}
}

// forget drops what a node told: it begins anew with another store. The empty
// run says that something is missing.
func (w *watch) forget(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[n] = []*checker.Run{{}}
}

// told is what all processes of a node told, oldest first.
func (w *watch) told(n *node) []checker.Run {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []checker.Run{}
	for _, run := range w.runs[n] {
		list = append(list, *run)
	}
	return list
}

func (w *watch) take(told *checker.Run, data []byte) {
	var m struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(data, &m) != nil {
		return
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m.Type {
	case "hello": // from this height on it tells, if it has a chain
		var hello struct{ Snapshot struct{ Chain parley.Chain } }
		if json.Unmarshal(m.Data, &hello) == nil {
			told.Start = hello.Snapshot.Chain.Height
		}
	case "block.stored":
		var e event.BlockStored
		if json.Unmarshal(m.Data, &e) == nil {
			told.Add(0, e)
			w.commit(e.Height, now)
		}
	case "record.committed":
		var e event.RecordCommitted
		if json.Unmarshal(m.Data, &e) == nil {
			told.Add(0, e)
		}
	case "record.rejected":
		var e event.RecordRejected
		if json.Unmarshal(m.Data, &e) == nil && e.Peer == "" { // others are hints
			told.Add(0, e)
		}
	case "lagged":
		told.Add(1)
	}
}

// commit notes the time of a new height; mu is held.
func (w *watch) commit(height uint64, now time.Time) {
	if height > w.height {
		w.height = height
		w.commits = append(w.commits, now)
	}
}

func (w *watch) head() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.height
}

// since counts the blocks after a time, and gives the time of the first one.
func (w *watch) since(t time.Time) (blocks int, first time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.commits, t, time.Time.Compare)
	if i == len(w.commits) {
		return 0, time.Time{}
	}
	return len(w.commits) - i, w.commits[i]
}

// gap is the longest time without a commit from one time to another.
func (w *watch) gap(from, to time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	last := from
	for _, t := range w.commits {
		if t.After(from) && t.Before(to) {
			longest, last = max(longest, t.Sub(last)), t
		}
	}
	return max(longest, to.Sub(last))
}
