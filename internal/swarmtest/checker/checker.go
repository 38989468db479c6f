// Package checker owns the verdict on a run: whether what clients were told is
// what every node holds.
//
// It believes nobody. What was told comes from a journal that the clients kept
// outside the nodes; what is held comes from every node's store, walked block
// by block from the genesis with the rules of consortium alone.
//
// What a chain promises of order, and what is checked: a record that is handed
// in after an answer "committed" stands in a higher block. Records that are on
// their way at the same time, those of one client too, may stand in any order.
package checker

import (
	"context"
	"fmt"
	"strings"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// Class says which promise was broken.
type Class string

// The closed set of classes.
const (
	Lost         Class = "lost"         // acknowledged, and not there: elsewhere, on no chain, or missing on one node
	Unanswered   Class = "unanswered"   // accepted, and neither committed nor finally rejected
	DoubleAnswer Class = "two answers"  // two final rejections, or one of a record that is committed
	Duplicate    Class = "duplicate"    // one record at two places of a chain
	Disagreement Class = "disagreement" // two headers at one height
	Certificate  Class = "certificate"  // a quorum of the set of that height did not sign
	Gap          Class = "gap"          // heights, parents, times, epochs or sets do not follow each other
	Damaged      Class = "damaged"      // a block that cannot be read, or whose body is not what its header fixes
	Index        Class = "index"        // the stored indexes are not those of the blocks
	Behind       Class = "behind"       // a node has a lower head than another one
	BadProof     Class = "proof"        // the node's proof of an acknowledged record does not hold for who has the genesis alone
	Events       Class = "events"       // what a node told is not its blocks in order
	Reordered    Class = "reordered"    // handed in after a committed answer, and not behind it
	BadJournal   Class = "journal"      // the journal itself contradicts itself
)

// Violation is one broken promise.
type Violation struct {
	Class  Class
	Node   string     // "" where it is nobody's alone
	Height uint64     // 0 where there is none
	Record chain.Hash // zero where there is none
	Detail string
}

// String gives one line.
func (v Violation) String() string {
	var b strings.Builder
	b.WriteString(string(v.Class))
	b.WriteByte(':')
	if v.Node != "" {
		fmt.Fprintf(&b, " node %s", v.Node)
	}
	if v.Height != 0 {
		fmt.Fprintf(&b, " height %d", v.Height)
	}
	if !v.Record.IsZero() {
		fmt.Fprintf(&b, " record %s", v.Record)
	}
	return b.String() + ": " + v.Detail
}

// maxViolations is how many are kept; the counts go on.
const maxViolations = 1000

// Report is the verdict. Records and heights are counted once, however many
// nodes are at fault.
type Report struct {
	Submitted     int // records handed in
	Acknowledged  int // records answered accepted or committed
	Committed     int // of the acknowledged ones, those on the chain
	Rejected      int // of the acknowledged ones, those that were finally rejected
	Lost          int // of the acknowledged ones, those that break a promise
	Duplicated    int
	Disagreements int // heights

	Height     uint64      // highest head
	Records    int         // on the chain
	Proofs     int         // that were verified
	Violations []Violation // the first 1,000
	More       int         // violations that are not listed
}

// OK reports whether no promise was broken.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

// String gives the counts on one line and each violation on its own.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "acknowledged %d, committed %d, rejected %d, lost %d, duplicated %d, disagreements %d (height %d, %d records, %d proofs)",
		r.Acknowledged, r.Committed, r.Rejected, r.Lost, r.Duplicated, r.Disagreements, r.Height, r.Records, r.Proofs)
	for _, v := range r.Violations {
		b.WriteString("\n" + v.String())
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "\nand %d more", r.More)
	}
	return b.String()
}

func (r *Report) add(v Violation) {
	if len(r.Violations) == maxViolations {
		r.More++
		return
	}
	r.Violations = append(r.Violations, v)
}

// Chain is what one node holds. A *ledger.Ledger is one.
type Chain interface {
	Tip() ledger.Tip
	Block(height uint64) (*consortium.Block, error)
	Rejection(id chain.Hash) (ledger.Rejection, error)
	Proof(id chain.Hash) (*consortium.Proof, error)
	Check(ctx context.Context, progress func(done, total uint64)) error
}

// Node is one node after the run.
type Node struct {
	Name  string
	Chain Chain
	// Runs is what each incarnation of the node told, oldest first. nil: not
	// kept, and not judged.
	Runs []Run
}

// Judge compares what clients were told with what the nodes hold. The nodes
// MUST be at rest. The error is ctx's, or that there is nothing to judge; what
// a node cannot read is a violation.
func Judge(ctx context.Context, told *Told, nodes []Node) (*Report, error) {
	if len(nodes) == 0 {
		return nil, fmt.Errorf("check the chains: no node is given")
	}
	j := &judge{Report: &Report{}, told: told, places: map[chain.Hash]place{}, configs: map[uint64]*consortium.Config{}}
	j.checkJournal()
	for _, n := range nodes {
		w, err := j.walk(ctx, n)
		if err != nil {
			return nil, err
		}
		j.walks = append(j.walks, w)
	}
	j.compareHeads()
	j.checkAnswers()
	j.checkOrder()
	j.checkProofs()
	for _, w := range j.walks {
		j.checkEvents(w)
	}
	return j.Report, nil
}

// place is where a record stands.
type place struct {
	height uint64
	index  uint32
}

func (p place) String() string { return fmt.Sprintf("height %d index %d", p.height, p.index) }

// judge is one run of Judge.
type judge struct {
	*Report
	told  *Told
	walks []*walked

	// The first node that has a height gives its hash, and the first one with
	// that hash and a good body the places; other nodes are compared with them.
	hashes  []chain.Hash // of height i+1
	owner   []string     // who gave it
	filled  []bool       // its records are in places
	places  map[chain.Hash]place
	configs map[uint64]*consortium.Config // by epoch
	forked  map[uint64]bool
}
