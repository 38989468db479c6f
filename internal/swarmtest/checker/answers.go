package checker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// checkAnswers holds every node to what clients were told.
func (j *judge) checkAnswers() {
	for _, id := range j.told.order {
		r := j.told.records[id]
		at, onChain := j.places[id]
		finals := j.finals(id, onChain)
		if len(r.rejected) > 0 && onChain {
			j.add(Violation{Class: DoubleAnswer, Node: r.rejected[0], Height: at.height, Record: id, Detail: "a client was told that it is rejected, and it is committed"})
		}
		if !r.acknowledged() {
			continue
		}
		j.Acknowledged++
		good := true
		for _, c := range r.committed {
			good = j.checkPlace(id, c) && good
		}
		switch {
		case onChain:
			j.Committed++
		case len(r.committed) > 0:
		default:
			good = j.checkAccepted(id, r, finals) && good
		}
		if onChain {
			good = j.checkEverywhere(id, at) && good
		}
		if !good {
			j.Lost++
		}
	}
}

// finals lists the nodes that hold a final rejection of id.
func (j *judge) finals(id chain.Hash, onChain bool) (nodes []string) {
	for _, w := range j.walks {
		x, err := w.node.Chain.Rejection(id)
		if errors.Is(err, ledger.ErrNotFound) {
			continue
		}
		if err != nil {
			j.add(Violation{Class: Damaged, Node: w.node.Name, Record: id, Detail: err.Error()})
			continue
		}
		nodes = append(nodes, w.node.Name)
		if onChain && x.Reason != "duplicate" {
			j.add(Violation{Class: DoubleAnswer, Node: w.node.Name, Height: j.places[id].height, Record: id, Detail: fmt.Sprintf("it is committed, and finally rejected as %s", x.Reason)})
		}
	}
	return nodes
}

// checkPlace compares one committed answer with every node, and reports
// whether all hold to it.
func (j *judge) checkPlace(id chain.Hash, c Entry) bool {
	good := true
	lost := func(node, format string, args ...any) {
		good = false
		j.add(Violation{Class: Lost, Node: node, Height: c.Height, Record: id, Detail: fmt.Sprintf("node %s answered committed at height %d index %d of block %s: ", c.Node, c.Height, c.Index, c.Block.Short()) + fmt.Sprintf(format, args...)})
	}
	reached := false
	for _, w := range j.walks {
		hash := w.hash(c.Height)
		switch {
		case c.Height > w.height:
			lost(w.node.Name, "the head is at %d", w.height)
			continue
		case hash.IsZero():
			lost(w.node.Name, "the block cannot be read")
		case hash != c.Block:
			lost(w.node.Name, "the block there is %s", hash)
		}
		reached = true
	}
	if !reached {
		lost("", "no node reaches that height")
		return false
	}
	if at, ok := j.places[id]; !ok {
		lost("", "the record is on no chain")
	} else if at != (place{c.Height, c.Index}) {
		lost("", "the record stands at %v", at)
	}
	return good
}

// checkEverywhere looks for a committed record on every node. Where the header
// is the same and the body is good, the record is there.
func (j *judge) checkEverywhere(id chain.Hash, at place) bool {
	good := true
	for _, w := range j.walks {
		if at.height > w.height {
			continue // said once, by compareHeads
		}
		why := w.bad[at.height]
		if ids, differs := w.own[at.height]; differs && !w.hash(at.height).IsZero() {
			if int(at.index) < len(ids) && ids[at.index] == id {
				continue
			}
			why = "its block holds another record there, or none"
			if i := slices.Index(ids, id); i >= 0 {
				why = fmt.Sprintf("its block holds the record at index %d", i)
			}
		}
		if why != "" {
			good = false
			j.add(Violation{Class: Lost, Node: w.node.Name, Height: at.height, Record: id, Detail: fmt.Sprintf("acknowledged, and it should stand at %v: %s", at, why)})
		}
	}
	return good
}

// checkAccepted wants one final rejection of a record that is on no chain,
// from each node that accepted it.
func (j *judge) checkAccepted(id chain.Hash, r *record, finals []string) bool {
	good := true
	for _, name := range r.accepted {
		if slices.Contains(finals, name) {
			continue
		}
		good = false
		j.add(Violation{Class: Unanswered, Node: name, Record: id, Detail: "the node accepted it, and it is neither committed nor finally rejected there"})
	}
	if good {
		j.Rejected++
	}
	return good
}

// checkOrder wants a record above all blocks that were known to be committed
// when it was handed in.
func (j *judge) checkOrder() {
	for _, id := range j.told.order {
		r := j.told.records[id]
		if at, ok := j.places[id]; ok && at.height <= r.floor {
			j.add(Violation{Class: Reordered, Height: at.height, Record: id, Detail: fmt.Sprintf("it was handed in after an answer had told of height %d", r.floor)})
		}
	}
}
