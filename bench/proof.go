package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// stored reads the ids of all records in the order of the chain from the
// ledger of a stopped node: what counts is what is on disk.
func stored(dataDir string) (ids []chain.Hash, err error) {
	dir := filepath.Join(dataDir, "ledger")
	db, err := pebble.Open(dir, &pebble.Options{ReadOnly: true, ErrorIfNotExists: true, Logger: silent{}})
	if err != nil {
		return nil, fmt.Errorf("read ledger %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	bodies, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{'b'}, UpperBound: []byte{'b' + 1}})
	if err != nil {
		return nil, fmt.Errorf("read ledger %s: %w", dir, err)
	}
	for bodies.First(); bodies.Valid(); bodies.Next() {
		if ids, err = appendIDs(ids, bodies.Value()); err != nil {
			return nil, errors.Join(fmt.Errorf("read ledger %s: block %x: %w", dir, bodies.Key()[1:], err), bodies.Close())
		}
	}
	return ids, errors.Join(bodies.Error(), bodies.Close())
}

// appendIDs reads one subtree as the ledger keeps it.
func appendIDs(ids []chain.Hash, b []byte) ([]chain.Hash, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("subtree of %d bytes", len(b))
	}
	n := binary.BigEndian.Uint16(b)
	b = b[2:]
	for range n {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, errors.New("subtree ends inside a record")
		}
		end := 4 + binary.BigEndian.Uint32(b)
		ids = append(ids, consortium.RecordID(b[4:end]))
		b = b[end:]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%d bytes after a subtree", len(b))
	}
	return ids, nil
}

// missing compares what a node holds with what was acknowledged: each record
// must be there once, and nothing else.
func missing(acked []record, held []chain.Hash) (count int, err error) {
	times := make(map[chain.Hash]int, len(held))
	for _, id := range held {
		times[id]++
	}
	for _, r := range acked {
		switch times[r.id] {
		case 0:
			count++
		case 1:
		default:
			err = errors.Join(err, fmt.Errorf("record %s is %d times in the chain", r.id, times[r.id]))
		}
		delete(times, r.id)
	}
	if len(times) > 0 {
		err = errors.Join(err, fmt.Errorf("%d records in the chain were never acknowledged", len(times)))
	}
	return count, err
}

// prove reads the ledgers of the stopped nodes. All must hold the acknowledged
// records once and in one order, a newcomer those of its time.
func (l *lab) prove(acked []record, newcomers []string, had int) (lost int, err error) {
	var first []chain.Hash
	for i, node := range l.nodes {
		held, err := stored(l.net.NodeDir(node.Name))
		if err != nil {
			return 0, err
		}
		n, err := missing(acked, held)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", node.Name, err)
		}
		lost += n
		if i == 0 {
			first = held
		}
		if err := sameOrder(first, held, len(first)); err != nil {
			return 0, fmt.Errorf("%s and %s: %w", l.nodes[0].Name, node.Name, err)
		}
	}
	for _, name := range newcomers {
		held, err := stored(l.net.NodeDir(name))
		if err != nil {
			return 0, err
		}
		if err := sameOrder(first, held, had); err != nil {
			return 0, fmt.Errorf("%s and %s: %w", l.nodes[0].Name, name, err)
		}
	}
	return lost, nil
}

// sameOrder compares the first n records.
func sameOrder(a, b []chain.Hash, n int) error {
	if len(a) < n || len(b) < n {
		return fmt.Errorf("%d and %d records, want %d in both", len(a), len(b), n)
	}
	for i := range n {
		if a[i] != b[i] {
			return fmt.Errorf("record %d is %s and %s", i, a[i], b[i])
		}
	}
	return nil
}
