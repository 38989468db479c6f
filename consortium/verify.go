package consortium

import (
	"bytes"
	"container/list"
	"crypto/sha512"
	"sync"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// How many keys are remembered, so that who signs again and again is verified
// faster.
const (
	keyTables  = 128  // of 278 KiB each, 35 MiB in all: the keys used last
	keyCounts  = 4096 // keys without a table
	tableAfter = 40   // signatures of one key: a table costs as much as it saves on them
)

// verifiers is what this process knows about keys. It changes how long an
// answer takes and never the answer.
var verifiers = newKeyCache()

// verify reports whether sig is k's over msg. It says yes where, and only where,
// [crypto/ed25519.Verify] does, for keys and signatures of any bytes: validators
// that differ on one signature would never agree on a block. So there are no
// batches by one equation, which is another one.
func (k PublicKey) verify(msg []byte, sig Signature) bool {
	return k.verifyBy(verifiers.table(k), msg, sig)
}

// verifyBy is verify with the multiples of −k, or without them for nil.
func (k PublicKey) verifyBy(table *multiples, msg []byte, sig Signature) bool {
	if table == nil {
		return k.verifyOnce(msg, sig)
	}
	var r extended
	if !k.residue(&r, table, msg, sig) {
		return false
	}
	var inverse field.Element
	encoded := r.encode(inverse.Invert(&r.z))
	return bytes.Equal(encoded[:], sig[:32])
}

// signed is a message with its signature.
type signed struct {
	key PublicKey
	msg []byte
	sig Signature
}

// verifyAll is verify of each: all that keys with a table signed share one
// inversion, which is a sixth of the work on one alone.
func verifyAll(list []signed) []bool {
	good := make([]bool, len(list))
	rest := make([]extended, 0, len(list))
	at := make([]int, 0, len(list)) // of rest in list
	for i, x := range list {
		table := verifiers.table(x.key)
		if table == nil {
			good[i] = x.key.verifyOnce(x.msg, x.sig)
			continue
		}
		var r extended
		if x.key.residue(&r, table, x.msg, x.sig) {
			rest, at = append(rest, r), append(at, i)
		}
	}
	for i, inverse := range inversesOf(rest) {
		encoded := rest[i].encode(&inverse)
		good[at[i]] = bytes.Equal(encoded[:], list[at[i]].sig[:32])
	}
	return good
}

// verifyOnce is verify without a table.
func (k PublicKey) verifyOnce(msg []byte, sig Signature) bool {
	var s, h scalar.Scalar
	if _, err := s.SetCanonicalBytes(sig[32:]); err != nil {
		return false
	}
	digest := k.challenge(msg, sig)
	if _, err := h.SetBytesModOrderWide(digest[:]); err != nil {
		return false
	}
	y := curve.CompressedEdwardsY(k)
	var minus, r curve.EdwardsPoint
	if _, err := minus.SetCompressedY(&y); err != nil {
		return false
	}
	minus.Neg(&minus)
	r.DoubleScalarMulBasepointVartime(&h, &minus, &s)
	return bytes.Equal(y.SetEdwardsPoint(&r)[:], sig[:32])
}

// challenge is the hash of a signature, its key and what is signed.
func (k PublicKey) challenge(msg []byte, sig Signature) (digest [sha512.Size]byte) {
	h := sha512.New()
	h.Write(sig[:32])
	h.Write(k[:])
	h.Write(msg)
	h.Sum(digest[:0])
	return digest
}

// residue sets r to [s]B − [h]A, which has to be encoded as the signature says.
// It reports whether s is reduced.
func (k PublicKey) residue(r *extended, table *multiples, msg []byte, sig Signature) bool {
	var s, h edwards25519.Scalar
	if _, err := s.SetCanonicalBytes(sig[32:]); err != nil {
		return false
	}
	digest := k.challenge(msg, sig)
	if _, err := h.SetUniformBytes(digest[:]); err != nil {
		return false
	}
	r.zero()
	r.addMultiple(baseMultiples(), (*[32]byte)(sig[32:]))
	r.addMultiple(table, (*[32]byte)(h.Bytes()))
	return true
}

// negated is −A for the key A, ok only where k is a point. Like the standard
// library it takes encodings that are not canonical.
func (k PublicKey) negated() (p *edwards25519.Point, ok bool) {
	p, err := new(edwards25519.Point).SetBytes(k[:])
	if err != nil {
		return nil, false
	}
	return p.Negate(p), true
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
	minus *multiples // multiples of −A
}

// table returns the multiples of −k, nil for a key that has not signed often
// lately or is none.
func (c *keyCache) table(k PublicKey) *multiples {
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
	minus, ok := k.negated()
	if !ok {
		return nil
	}
	t := &keyTable{k, newMultiples(minus, keyBits)}
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
