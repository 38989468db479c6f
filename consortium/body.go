package consortium

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-p2p/parley/chain"
)

// Subtree is an ordered group of encoded records, announced ahead of its block.
type Subtree struct {
	Records [][]byte
}

// IDs lists the ids of the records, hashed anew at each call.
func (s Subtree) IDs() []chain.Hash {
	ids := make([]chain.Hash, len(s.Records))
	for i, r := range s.Records {
		ids[i] = RecordID(r)
	}
	return ids
}

// ID is SubtreeID of s.IDs().
func (s Subtree) ID() chain.Hash { return SubtreeID(s.IDs()) }

func (s Subtree) bytes() int {
	n := 0
	for _, r := range s.Records {
		n += len(r)
	}
	return n
}

// full reports whether a subtree of so many records and bytes must close
// before a further record of next bytes.
func full(records, bytes, next int) bool {
	return records >= SubtreeRecords || bytes+next > SubtreeBytes
}

// Pack splits records, each at most MaxRecord bytes, into subtrees in the one
// way that is valid: a subtree closes when the next record would pass a limit.
// The subtrees alias records.
func Pack(records [][]byte) []Subtree {
	var out []Subtree
	start, bytes := 0, 0
	for i, r := range records {
		if full(i-start, bytes, len(r)) {
			out = append(out, Subtree{records[start:i:i]})
			start, bytes = i, 0
		}
		bytes += len(r)
	}
	if start < len(records) {
		out = append(out, Subtree{records[start:]})
	}
	return out
}

// Body is what a block carries: its records in subtrees, by [Pack].
type Body []Subtree

// Records counts the records of all subtrees.
func (b Body) Records() int {
	n := 0
	for _, s := range b {
		n += len(s.Records)
	}
	return n
}

// SubtreeIDs lists the ids of the subtrees, hashed anew at each call.
func (b Body) SubtreeIDs() []chain.Hash {
	ids := make([]chain.Hash, len(b))
	for i, s := range b {
		ids[i] = s.ID()
	}
	return ids
}

// RecordIDs lists the ids of all records in their order, hashed anew at each
// call.
func (b Body) RecordIDs() []chain.Hash {
	ids := make([]chain.Hash, 0, b.Records())
	for _, s := range b {
		for _, r := range s.Records {
			ids = append(ids, RecordID(r))
		}
	}
	return ids
}

// RootOf is the block root of b, whose records have these ids, in their order.
func (b Body) RootOf(ids []chain.Hash) chain.Hash {
	subtrees := make([]chain.Hash, len(b))
	for i, s := range b {
		n := len(s.Records)
		subtrees[i] = SubtreeID(ids[:n])
		ids = ids[n:]
	}
	return BlockRoot(subtrees)
}

// Size is len(EncodeBody(b)).
func (b Body) Size() int {
	n := 2
	for _, s := range b {
		n += 2 + 4*len(s.Records) + s.bytes()
	}
	return n
}

// EncodeBody gives the body's bytes.
func EncodeBody(b Body) []byte {
	out := make([]byte, 0, b.Size())
	out = binary.BigEndian.AppendUint16(out, uint16(len(b)))
	for _, s := range b {
		out = binary.BigEndian.AppendUint16(out, uint16(len(s.Records)))
		for _, r := range s.Records {
			out = binary.BigEndian.AppendUint32(out, uint32(len(r)))
			out = append(out, r...)
		}
	}
	return out
}

// DecodeBody reads a body of at most maxBytes and checks that it is packed
// canonically. The records alias b and are not decoded.
func DecodeBody(b []byte, maxBytes int) (Body, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("decode body: %d bytes are over the limit of %d", len(b), maxBytes)
	}
	c := cursor{b: b}
	body := make(Body, c.count(int(c.u16()), 1<<16, 2+4+MinRecord, "subtrees"))
	for i := range body {
		records := make([][]byte, c.count(int(c.u16()), SubtreeRecords, 4+MinRecord, "records in a subtree"))
		for j := range records {
			n := c.u32()
			if n > MaxRecord {
				c.failf("record of %d bytes is over the limit of %d", n, MaxRecord)
			}
			records[j] = c.take(int(n))
		}
		if c.err != nil {
			break
		}
		body[i].Records = records
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("decode body: %w", err)
	}
	if err := body.checkPacking(); err != nil {
		return nil, fmt.Errorf("decode body: %w", err)
	}
	return body, nil
}

// checkPacking checks the size of each record and that the subtrees are those
// of [Pack].
func (b Body) checkPacking() error {
	for i, s := range b {
		if len(s.Records) == 0 {
			return fmt.Errorf("subtree %d is empty", i)
		}
		for j, r := range s.Records {
			if len(r) < MinRecord || len(r) > MaxRecord {
				return fmt.Errorf("record %d of subtree %d has %d bytes: want %d to %d", j, i, len(r), MinRecord, MaxRecord)
			}
		}
		if n := s.bytes(); len(s.Records) > SubtreeRecords || n > SubtreeBytes {
			return fmt.Errorf("subtree %d has %d records of %d bytes: over the limit of %d records, %d bytes", i, len(s.Records), n, SubtreeRecords, SubtreeBytes)
		}
		if i > 0 && !full(len(b[i-1].Records), b[i-1].bytes(), len(s.Records[0])) {
			return fmt.Errorf("subtree %d closed early: the first record of the next one fits", i-1)
		}
	}
	return nil
}
