package consortium

import (
	"bytes"
	"container/list"
	"crypto/sha512"
	"sync"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// How many keys are remembered, so that who signs again and again is verified
// faster.
const (
	keyTables  = 256  // of about 40 KiB each: the keys used last
	keyCounts  = 4096 // keys without a table
	tableAfter = 8    // signatures of one key: a table costs as much as it saves on them
)

// verifiers is what this process knows about keys. It changes how long an
// answer takes and never the answer.
var verifiers = newKeyCache()

// verify reports whether sig is k's over msg. It says yes where, and only where,
// [crypto/ed25519.Verify] does, for keys and signatures of any bytes: validators
// that differ on one signature would never agree on a block. So there are no
// batches, whose equation is another one.
func (k PublicKey) verify(msg []byte, sig Signature) bool {
	return k.verifyBy(verifiers.table(k), msg, sig)
}

// verifyBy is verify with the multiples of −k, or without them for nil.
func (k PublicKey) verifyBy(table *curve.EdwardsBasepointTable, msg []byte, sig Signature) bool {
	var s, hram scalar.Scalar
	if _, err := s.SetCanonicalBytes(sig[32:]); err != nil {
		return false
	}
	h := sha512.New()
	h.Write(sig[:32])
	h.Write(k[:])
	h.Write(msg)
	var digest [sha512.Size]byte
	if _, err := hram.SetBytesModOrderWide(h.Sum(digest[:0])); err != nil {
		return false
	}
	var r, part curve.EdwardsPoint // r is [s]B − [hram]A
	if table != nil {
		r.MulBasepoint(curve.ED25519_BASEPOINT_TABLE, &s)
		r.Add(&r, part.MulBasepoint(table, &hram))
	} else if k.negated(&part) {
		r.DoubleScalarMulBasepointVartime(&hram, &part, &s)
	} else {
		return false
	}
	var encoded curve.CompressedEdwardsY
	return bytes.Equal(encoded.SetEdwardsPoint(&r)[:], sig[:32])
}

// negated sets p to −A for the key A, and reports whether k is a point. Like the
// standard library it takes encodings that are not canonical.
func (k PublicKey) negated(p *curve.EdwardsPoint) bool {
	y := curve.CompressedEdwardsY(k)
	if _, err := p.SetCompressedY(&y); err != nil {
		return false
	}
	p.Neg(p)
	return true
}

// keyCache holds multiples of keys that signed often.
type keyCache struct {
	mu     sync.Mutex // guards below
	tables map[PublicKey]*list.Element
	recent list.List           // of *keyTable, the one used last in front
	counts map[PublicKey]uint8 // signatures of keys without a table
}

func newKeyCache() *keyCache {
	return &keyCache{tables: map[PublicKey]*list.Element{}, counts: map[PublicKey]uint8{}}
}

type keyTable struct {
	key   PublicKey
	minus *curve.EdwardsBasepointTable // multiples of −A
}

// table returns the multiples of −k, nil for a key that has not signed often
// lately or is none.
func (c *keyCache) table(k PublicKey) *curve.EdwardsBasepointTable {
	c.mu.Lock()
	if at := c.tables[k]; at != nil {
		c.recent.MoveToFront(at)
		c.mu.Unlock()
		return at.Value.(*keyTable).minus
	}
	if len(c.counts) >= keyCounts {
		clear(c.counts)
	}
	c.counts[k]++
	often := c.counts[k] >= tableAfter
	if often {
		delete(c.counts, k)
	}
	c.mu.Unlock()
	if !often {
		return nil
	}
	var minus curve.EdwardsPoint
	if !k.negated(&minus) {
		return nil
	}
	t := &keyTable{k, curve.NewEdwardsBasepointTable(&minus)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables[k] == nil {
		c.tables[k] = c.recent.PushFront(t)
	}
	if c.recent.Len() > keyTables {
		delete(c.tables, c.recent.Remove(c.recent.Back()).(*keyTable).key)
	}
	return t.minus
}
