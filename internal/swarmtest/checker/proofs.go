package checker

import (
	"fmt"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// maxProofs is how many records each node has to prove, spread over all that
// were answered as committed.
const maxProofs = 32

// checkProofs lets each node prove what clients were told, to somebody who has
// the file and the genesis hash alone.
func (j *judge) checkProofs() {
	var told []Entry
	for _, id := range j.told.order {
		for _, c := range j.told.records[id].committed {
			if j.places[id] == (place{c.Height, c.Index}) { // else it is lost, and said to be
				told = append(told, c)
			}
		}
	}
	for i := range min(maxProofs, len(told)) {
		c := told[i*len(told)/min(maxProofs, len(told))]
		for _, w := range j.walks {
			if w.hash(c.Height) != c.Block || w.bad[c.Height] != "" {
				continue
			}
			j.Proofs++
			if err := w.prove(c, j.walks[0].genesis); err != nil {
				j.add(Violation{Class: BadProof, Node: w.node.Name, Height: c.Height, Record: c.ID, Detail: err.Error()})
			}
		}
	}
}

// prove takes the proof as a file, and holds what it proves to the answer.
func (w *walked) prove(c Entry, genesis chain.Hash) error {
	made, err := w.node.Chain.Proof(c.ID)
	if err != nil {
		return err
	}
	file, err := made.Encode()
	if err != nil {
		return err
	}
	read, err := consortium.ParseProof(file)
	if err != nil {
		return err
	}
	return CheckProof(read, genesis, c)
}

// CheckProof verifies a proof by the genesis hash alone, and holds what it
// proves to the answer that a client was given.
func CheckProof(p *consortium.Proof, genesis chain.Hash, c Entry) error {
	is, err := consortium.VerifyProof(p, genesis)
	if err != nil {
		return err
	}
	at, known := is.Position()
	switch {
	case is.ID != c.ID:
		return fmt.Errorf("it proves record %s", is.ID)
	case is.Hash != c.Block || is.Header.Height != c.Height:
		return fmt.Errorf("it proves the record in block %d, %s; the answer told of %s", is.Header.Height, is.Hash, c.Block)
	case known && uint32(at) != c.Index:
		return fmt.Errorf("it proves the record at index %d; the answer told of %d", at, c.Index)
	}
	return nil
}
