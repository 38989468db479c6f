package consortium

import (
	"encoding/binary"
	"sync"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// Sizes of the tables of multiples, as bits that one addition covers: more cost
// memory and the processor's cache, fewer cost additions.
const (
	baseBits = 8 // of the base point, of which there is one table: 480 KiB
	keyBits  = 7 // of a key: 278 KiB
)

// multiples are what a scalar of bits times a point is added up from: for each
// digit of a scalar all its values but 0, without the negative ones. They are
// public, so which one is read may be seen from the time that it takes.
type multiples struct {
	bits   int
	values []affine // 2^(bits-1) for each digit
}

// affine is a point with Z = 1, in the form that an addition wants: half of
// y + x, of y − x and of 2dxy.
type affine struct {
	yPlusX, yMinusX, xyd field.Element
}

// extended is a point (X/Z, Y/Z) with T = XY/Z.
type extended struct {
	x, y, z, t field.Element
}

// baseMultiples are those of the base point.
var baseMultiples = sync.OnceValue(func() *multiples { return newMultiples(edwards25519.NewGeneratorPoint(), baseBits) })

// curveD is d of the curve −x² + y² = 1 + dx²y²: −121665/121666. half is 1/2.
var curveD, half = func() (d, half field.Element) {
	number := func(n uint32) *field.Element {
		var b [32]byte
		binary.LittleEndian.PutUint32(b[:], n)
		e, err := new(field.Element).SetBytes(b[:])
		if err != nil {
			panic(err) // 32 bytes
		}
		return e
	}
	d.Invert(number(121666))
	d.Multiply(&d, number(121665)).Negate(&d)
	half.Invert(number(2))
	return d, half
}()

// digitsOf is how many signed digits of bits a scalar below 2^253 has.
func digitsOf(bits int) int { return 253/bits + 1 }

// newMultiples makes the table of p.
func newMultiples(p *edwards25519.Point, bits int) *multiples {
	half, digits := 1<<(bits-1), digitsOf(bits)
	points := make([]extended, 0, half*digits)
	first := new(edwards25519.Point).Set(p)
	for range digits {
		next := new(edwards25519.Point).Set(first)
		for range half {
			x, y, z, t := next.ExtendedCoordinates()
			points = append(points, extended{*x, *y, *z, *t})
			next.Add(next, first)
		}
		for range bits {
			first.Add(first, first)
		}
	}
	return &multiples{bits, affineOf(points)}
}

// affineOf divides by all Z. No Z is 0.
func affineOf(points []extended) []affine {
	out := make([]affine, len(points))
	for i, inverse := range inversesOf(points) {
		var x, y field.Element
		x.Multiply(&points[i].x, &inverse)
		y.Multiply(&points[i].y, &inverse)
		out[i].xyd.Multiply(&x, &y)
		out[i].xyd.Multiply(&out[i].xyd, &curveD)
		x.Multiply(&x, &half)
		y.Multiply(&y, &half)
		out[i].yPlusX.Add(&y, &x)
		out[i].yMinusX.Subtract(&y, &x)
	}
	return out
}

// inversesOf gives 1/Z of each point, with one inversion. No Z is 0.
func inversesOf(points []extended) []field.Element {
	if len(points) == 0 {
		return nil
	}
	out := make([]field.Element, len(points)) // at first the product of the Z before each
	product := *new(field.Element).One()
	for i := range points {
		out[i] = product
		product.Multiply(&product, &points[i].z)
	}
	product.Invert(&product)
	for i := len(points) - 1; i >= 0; i-- {
		out[i].Multiply(&out[i], &product)
		product.Multiply(&product, &points[i].z)
	}
	return out
}

func (p *extended) zero() {
	p.x.Zero()
	p.y.One()
	p.z.One()
	p.t.Zero()
}

// addMultiple adds to p the point of the table times a scalar below 2^253,
// little-endian.
func (p *extended) addMultiple(m *multiples, scalar *[32]byte) {
	var words [5]uint64 // the last one stays 0
	for i := range 4 {
		words[i] = binary.LittleEndian.Uint64(scalar[8*i:])
	}
	half, carry := 1<<(m.bits-1), 0
	mask := uint64(1)<<m.bits - 1
	for at, i := 0, 0; at < len(m.values); at, i = at+half, i+m.bits {
		word, shift := i/64, uint(i%64)
		digit := int((words[word]>>shift|words[word+1]<<(64-shift))&mask) + carry
		carry = 0
		if digit > half {
			digit -= 2 * half
			carry = 1
		}
		switch {
		case digit > 0:
			p.add(&m.values[at+digit-1])
		case digit < 0:
			p.subtract(&m.values[at-digit-1])
		}
	}
}

// add is the unified addition "madd-2008-hwcd-3", which holds for all points of
// the curve, also those of small order. All of A to D are halved, as q is: the
// sum is the same point, and D is Z.
func (p *extended) add(q *affine) {
	var a, b, c, f, g field.Element
	a.Subtract(&p.y, &p.x)
	a.Multiply(&a, &q.yMinusX)
	b.Add(&p.y, &p.x)
	b.Multiply(&b, &q.yPlusX)
	c.Multiply(&p.t, &q.xyd)
	f.Subtract(&p.z, &c)
	g.Add(&p.z, &c)
	p.combine(&a, &b, &f, &g)
}

// subtract adds −q, whose y + x is q's y − x, and whose xy is −xy.
func (p *extended) subtract(q *affine) {
	var a, b, c, f, g field.Element
	a.Subtract(&p.y, &p.x)
	a.Multiply(&a, &q.yPlusX)
	b.Add(&p.y, &p.x)
	b.Multiply(&b, &q.yMinusX)
	c.Multiply(&p.t, &q.xyd)
	f.Add(&p.z, &c)
	g.Subtract(&p.z, &c)
	p.combine(&a, &b, &f, &g)
}

func (p *extended) combine(a, b, f, g *field.Element) {
	var e, h field.Element
	e.Subtract(b, a)
	h.Add(b, a)
	p.x.Multiply(&e, f)
	p.y.Multiply(g, &h)
	p.t.Multiply(&e, &h)
	p.z.Multiply(f, g)
}

// encode is the encoding of a point whose 1/Z is known.
func (p *extended) encode(inverse *field.Element) (out [32]byte) {
	var x, y field.Element
	x.Multiply(&p.x, inverse)
	y.Multiply(&p.y, inverse)
	copy(out[:], y.Bytes())
	out[31] |= byte(x.IsNegative() << 7)
	return out
}
