package checker

import (
	"fmt"
	"slices"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// Run is what one incarnation of a node told of its chain, in order. It keeps
// no more of an event than the check needs. It is for one goroutine.
type Run struct {
	// Whole says that the node was heard from its start until it was at rest:
	// nothing that it had to tell is missing.
	Whole bool
	Start uint64 // height at its start, where Whole

	told []news
}

type newsKind uint8

const (
	newsBlock newsKind = iota
	newsRecord
	newsRejected
	newsMisflagged
	newsLost // the reader was too slow: anything may have been told here
)

type news struct {
	kind newsKind
	id   chain.Hash // of header or record
	place
}

// Add takes the next events of the node's bus or event stream, and how many
// were missed before them. Events of other rooms are passed over.
func (r *Run) Add(lost int, events ...event.Event) {
	if lost > 0 {
		r.told = append(r.told, news{kind: newsLost})
	}
	for _, e := range events {
		switch e := e.(type) {
		case event.BlockStored:
			r.told = append(r.told, news{kind: newsBlock, id: e.Hash, place: place{height: e.Height}})
		case event.RecordCommitted:
			r.told = append(r.told, news{kind: newsRecord, id: e.ID, place: place{e.Height, uint32(e.Index)}})
		case event.RecordRejected:
			if e.Peer != "" || !e.Final { // a hint of another node, or said at the door
				continue
			}
			kind := newsRejected
			if !Final(consortium.Reason(e.Reason)) {
				kind = newsMisflagged
			}
			r.told = append(r.told, news{kind: kind, id: e.ID, place: place{height: e.Height}})
		}
	}
}

// Final tells whether a rejection for this reason is for ever (LEDGER 5).
func Final(r consortium.Reason) bool {
	switch r {
	case consortium.Expired, consortium.StaleConfig, consortium.NotAuthorised:
		return true
	}
	return false
}

// checkEvents wants the events of a node to be its blocks in order: in one run
// without a gap, over all runs no block twice, of each block all records, and
// at the end of a whole run the head.
func (j *judge) checkEvents(w *walked) {
	e := &eventCheck{j: j, w: w, rejected: map[chain.Hash]int{}, lately: map[chain.Hash]bool{}}
	whole := len(w.node.Runs) > 0
	for i, r := range w.node.Runs {
		e.begin()
		for _, n := range r.told {
			e.take(n)
		}
		if !r.Whole { // it may have died between an event and the note of it, and tells once more
			clear(e.lately)
		}
		whole = whole && r.Whole
		if last := i == len(w.node.Runs)-1; last && r.Whole && !e.lost {
			e.end(r)
		}
	}
	for id, n := range e.rejected {
		if _, onChain := j.places[id]; onChain {
			e.fault(0, id, "its final rejection was told, and it is committed")
		}
		if n > 1 {
			j.add(Violation{Class: DoubleAnswer, Node: w.node.Name, Record: id, Detail: fmt.Sprintf("its final rejection was told %d times", n)})
		}
	}
	if !whole || e.missed {
		return // a crash may come between a rejection and its event
	}
	for _, id := range j.told.order {
		if slices.Contains(j.told.records[id].accepted, w.node.Name) && e.rejected[id] == 0 {
			if _, err := w.node.Chain.Rejection(id); err == nil && j.places[id] == (place{}) {
				e.fault(0, id, "accepted and finally rejected, which was not told as final")
			}
		}
	}
}

// eventCheck reads the events of one node.
type eventCheck struct {
	j        *judge
	w        *walked
	height   uint64       // of the last block told, over all runs
	gap      bool         // the next block may be any higher one
	lost     bool         // this run was not heard in full
	missed   bool         // nor was some run
	due      []chain.Hash // records of that block that are still to be told
	at       uint32       // index of the first of them
	rejected map[chain.Hash]int
	lately   map[chain.Hash]bool // rejections that may not be told again
}

func (e *eventCheck) fault(height uint64, id chain.Hash, format string, args ...any) {
	e.j.add(Violation{Class: Events, Node: e.w.node.Name, Height: height, Record: id, Detail: fmt.Sprintf(format, args...)})
}

// begin starts a run: the one before may have ended anywhere.
func (e *eventCheck) begin() { e.gap, e.lost, e.due = true, false, nil }

// end wants all of the last run, which was whole, to be told.
func (e *eventCheck) end(r Run) {
	told := e.height
	if e.gap { // no block in this run
		told = max(told, r.Start)
	}
	switch {
	case told < e.w.height:
		e.fault(e.w.height, chain.Hash{}, "the head was never told, the last block told is %d", told)
	case len(e.due) > 0:
		e.fault(e.height, e.due[0], "this record of index %d in the head was never told", e.at)
	}
}

func (e *eventCheck) take(n news) {
	switch n.kind {
	case newsLost:
		e.begin()
		e.lost, e.missed = true, true
	case newsRejected:
		if e.rejected[n.id] == 0 || e.lately[n.id] {
			e.rejected[n.id]++
		}
		e.lately[n.id] = true
	case newsMisflagged:
		e.fault(n.height, n.id, "told as finally rejected, for a reason that is not final")
	case newsBlock:
		e.block(n)
	case newsRecord:
		e.record(n)
	}
}

func (e *eventCheck) block(n news) {
	if len(e.due) > 0 {
		e.fault(e.height, e.due[0], "the next block was told before this record of index %d", e.at)
	}
	switch {
	case n.height <= e.height:
		e.fault(n.height, chain.Hash{}, "told after height %d", e.height)
	case n.height != e.height+1 && !e.gap:
		e.fault(n.height, chain.Hash{}, "told after height %d, without the blocks between", e.height)
	case e.w.bad[n.height] == "" && e.w.hash(n.height) != n.id:
		e.fault(n.height, chain.Hash{}, "told with hash %s, the chain has %s", n.id, e.w.hash(n.height))
	}
	e.height, e.gap, e.at, e.due = max(e.height, n.height), false, 0, nil
	if n.height > e.w.height || n.height == 0 || e.w.bad[n.height] != "" {
		return
	}
	if b, err := e.w.node.Chain.Block(n.height); err == nil {
		e.due = ids(b.Body)
	}
}

func (e *eventCheck) record(n news) {
	if e.gap || e.w.bad[n.height] != "" { // in a block whose start was missed, or that cannot be compared
		return
	}
	if n.height != e.height || len(e.due) == 0 || n.id != e.due[0] || n.index != e.at {
		e.fault(n.height, n.id, "told as committed at index %d, behind the block of height %d", n.index, e.height)
		return
	}
	e.due, e.at = e.due[1:], e.at+1
}

func ids(b consortium.Body) (all []chain.Hash) {
	for _, s := range b {
		all = append(all, s.IDs()...)
	}
	return all
}
