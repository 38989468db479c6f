package consortium

import (
	"encoding/binary"
	"fmt"
)

// cursor reads bytes from the front of b. After the first fault every read
// gives zero and err tells that fault, so a decoder looks at err only where it
// would take memory and at the end.
type cursor struct {
	b   []byte
	off int
	err error
}

func (c *cursor) failf(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *cursor) left() int { return len(c.b) - c.off }

// take returns the next n bytes, which alias b; nil after a fault.
func (c *cursor) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n > c.left() {
		c.failf("ends early: %d bytes wanted at offset %d, %d left", n, c.off, c.left())
		return nil
	}
	c.off += n
	return c.b[c.off-n : c.off : c.off]
}

func (c *cursor) u8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if p := c.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// number reads a u64 that must be safe in JSON.
func (c *cursor) number(what string) uint64 {
	n := c.u64()
	if n > MaxNumber {
		c.failf("%s %d is over %d", what, n, uint64(MaxNumber))
	}
	return n
}

// fill copies the next len(dst) bytes.
func (c *cursor) fill(dst []byte) { copy(dst, c.take(len(dst))) }

// version reads the first byte of a value that knows only version 1.
func (c *cursor) version() {
	if v := c.u8(); c.err == nil && v != 1 {
		c.failf("version %d is unknown: this build reads version 1", v)
	}
}

// count checks that n items of at least size bytes may follow, so that the
// caller can take memory for them. It returns 0 after a fault.
func (c *cursor) count(n, limit, size int, what string) int {
	if n > limit {
		c.failf("%d %s are over the limit of %d", n, what, limit)
	}
	if c.err == nil && n > c.left()/size {
		c.failf("%d %s do not fit in the %d bytes left", n, what, c.left())
	}
	if c.err != nil {
		return 0
	}
	return n
}

// text reads n ≤ limit bytes into a string.
func (c *cursor) text(n, limit int, what string) string {
	if n > limit {
		c.failf("%s of %d bytes is over the limit of %d", what, n, limit)
	}
	return string(c.take(n))
}

// end returns the first fault, or one for bytes left over.
func (c *cursor) end() error {
	if c.err == nil && c.left() > 0 {
		c.failf("%d bytes left over at offset %d", c.left(), c.off)
	}
	return c.err
}
