package consortium

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// What is added up from a table is the scalar times the point, for digits of
// each width, scalars whose digits carry from end to end, and points of all
// orders.
func TestAddMultiple(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	one := big.NewInt(1)
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	scalars := []*big.Int{new(big.Int), one, big.NewInt(2), new(big.Int).Sub(order, one), new(big.Int).Rsh(order, 1)}
	for i := range 252 {
		scalars = append(scalars, new(big.Int).Lsh(one, uint(i)), new(big.Int).Sub(new(big.Int).Lsh(one, uint(i)), one))
	}
	for range 64 {
		var b [32]byte
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		n := new(big.Int).SetBytes(b[:])
		scalars = append(scalars, n.Mod(n, order))
	}
	points := []*edwards25519.Point{edwards25519.NewGeneratorPoint()}
	for _, y := range oddPoints(t) {
		if p, err := new(edwards25519.Point).SetBytes(y[:]); err == nil {
			points = append(points, p, new(edwards25519.Point).Add(p, points[0]))
		}
	}
	for i, p := range points {
		m := newMultiples(p, []int{keyBits, baseBits, 4, 6}[i%4])
		for _, n := range scalars {
			var le [32]byte
			n.FillBytes(le[:])
			slices.Reverse(le[:])
			var got extended
			var inverse field.Element
			got.zero()
			got.addMultiple(m, &le)
			// Bit by bit: n reduced by the order would be another one for a
			// point with a part of small order.
			want := edwards25519.NewIdentityPoint()
			for bit := n.BitLen() - 1; bit >= 0; bit-- {
				want.Add(want, want)
				if n.Bit(bit) == 1 {
					want.Add(want, p)
				}
			}
			if enc := got.encode(inverse.Invert(&got.z)); enc != [32]byte(want.Bytes()) {
				t.Fatalf("digits of %d bits: %d times %x is %x, want %x", m.bits, n, p.Bytes(), enc, want.Bytes())
			}
		}
	}
}
