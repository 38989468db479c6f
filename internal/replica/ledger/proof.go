package ledger

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Proof shows that a record is in the chain, to somebody who knows nothing but
// the genesis hash. ErrNotFound where it is not in the chain. It reads the
// record's whole block and the block of each epoch before it.
func (l *Ledger) Proof(id chain.Hash) (*consortium.Proof, error) {
	s := l.db.NewSnapshot()
	defer s.Close()
	p, err := proof(s, id)
	if err != nil {
		return nil, fmt.Errorf("prove record %s: %w", id, err)
	}
	return p, nil
}

func proof(r pebble.Reader, id chain.Hash) (*consortium.Proof, error) {
	at, err := readPlace(r, id)
	if err != nil {
		return nil, err
	}
	g, err := readGenesis(r)
	if err != nil {
		return nil, err
	}
	in, h, err := include(r, at)
	if err != nil {
		return nil, err
	}
	if have := consortium.RecordID(in.Record); have != id {
		return nil, fmt.Errorf("block %d holds record %s at index %d: check the store with parley chain check", at.Height, have, at.Index)
	}
	config, _, err := readConfig(r, h.Epoch)
	if err != nil {
		return nil, err
	}
	trail, err := trailTo(r, h.Epoch)
	if err != nil {
		return nil, err
	}
	return consortium.NewProof(g, in, config.Set(), trail), nil
}

// include shows the record of a place in its block.
func include(r pebble.Reader, at Position) (consortium.Inclusion, *consortium.Header, error) {
	b, err := readBlock(r, at.Height)
	if err != nil {
		return consortium.Inclusion{}, nil, err
	}
	index := int(at.Index)
	for i, s := range b.Body {
		if index < len(s.Records) {
			in, err := consortium.Include(b, i, index)
			return in, b.Header, err
		}
		index -= len(s.Records)
	}
	return consortium.Inclusion{}, nil, fmt.Errorf("block %d ends before index %d", at.Height, at.Index)
}

// trailTo shows the config record of each epoch from 1 to epoch.
func trailTo(r pebble.Reader, epoch uint64) ([]consortium.Inclusion, error) {
	var trail []consortium.Inclusion
	size := 0
	for e := uint64(1); e <= epoch; e++ {
		_, height, err := readConfig(r, e)
		if err != nil {
			return nil, err
		}
		in, _, err := include(r, Position{Height: height})
		if err != nil {
			return nil, err
		}
		if size += len(in.Record) + len(in.Header) + len(in.Certificate); 2*size > consortium.MaxProof {
			return nil, errors.New("the chain's config changed so often that a proof would be over its limit of bytes")
		}
		trail = append(trail, in)
	}
	return trail, nil
}

// VerifyTip tells whether the tip belongs to the chain that the stored genesis
// begins: each set of validators vouches for the next, and the last for the
// tip. It reads one block an epoch, and says nothing of the blocks between.
func (l *Ledger) VerifyTip() error {
	s := l.db.NewSnapshot()
	defer s.Close()
	g, err := readGenesis(s)
	if errors.Is(err, ErrNotFound) {
		return nil // no chain, no fault
	}
	if err != nil {
		return &CorruptError{Dir: l.dir, Err: err}
	}
	tip, err := readTip(s, g)
	if err == nil && tip.Head.Height > 0 {
		err = verifyHead(s, g, tip)
	}
	if err != nil {
		return &CorruptError{Dir: l.dir, Height: tip.Head.Height, Err: err}
	}
	return nil
}

func verifyHead(r pebble.Reader, g *consortium.Genesis, tip Tip) error {
	h, cert, err := readHeader(r, tip.Head.Height)
	if err != nil {
		return err
	}
	trail, err := trailTo(r, h.Epoch)
	if err != nil {
		return err
	}
	config, err := consortium.VerifyHeader(g, trail, h, cert)
	if err != nil {
		return err
	}
	if tip.Config.Epoch == h.Epoch { // else the tip itself brought the config, and names its set
		if stored, want := string(tip.Config.Encode()), string(config.Encode()); stored != want {
			return fmt.Errorf("the stored config of epoch %d is not the one that was approved", h.Epoch)
		}
	} else if tip.Set.Hash() != h.NextSet {
		return fmt.Errorf("the stored config of epoch %d has another set than the tip names", tip.Config.Epoch)
	}
	return nil
}
