package wire

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/parley-p2p/parley/chain"
)

// maxNumber bounds heights and times: they are safe in JSON numbers and in
// time.UnixMilli.
const maxNumber = 1<<53 - 1

const hashSize = len(chain.Hash{})

// CleanText removes what is not printable: control characters, marks that turn
// the direction of text, broken UTF-8. What it returns is never longer than s.
func CleanText(s string) string {
	s = strings.ToValidUTF8(s, "")
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

// cutText cuts s to max bytes between two characters.
func cutText(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

// Writers append a field to b, and nothing when the value is zero.

func putUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func putBytes(b []byte, num protowire.Number, p []byte) []byte {
	if len(p) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), p)
}

func putText(b []byte, num protowire.Number, s string, max int) []byte {
	if s == "" {
		return b
	}
	return putBytes(b, num, []byte(cutText(CleanText(s), max)))
}

func putHash(b []byte, num protowire.Number, h chain.Hash) []byte {
	if h.IsZero() {
		return b
	}
	return putBytes(b, num, h[:])
}

func putHashes(b []byte, num protowire.Number, hs []chain.Hash) []byte {
	if len(hs) == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(hs)*hashSize))
	for i := range hs {
		b = append(b, hs[i][:]...)
	}
	return b
}

// fields walks the fields of one message. The first fault ends the walk and
// stands in err; readers return zero after it.
type fields struct {
	msg string // name of the message
	b   []byte // what is left
	num protowire.Number
	typ protowire.Type
	n   uint64 // the value of a varint
	p   []byte // the value of a byte string
	err error
}

func scan(msg string, b []byte, max int) fields {
	f := fields{msg: msg, b: b}
	if len(b) > max {
		f.err = fmt.Errorf("%w: %s of %d bytes, limit %d", ErrTooLarge, msg, len(b), max)
	}
	return f
}

func (f *fields) next() bool {
	if f.err != nil || len(f.b) == 0 {
		return false
	}
	var n int
	f.num, f.typ, n = protowire.ConsumeTag(f.b)
	if n < 0 {
		f.err = fmt.Errorf("%w: %s: no field at %d bytes before its end", ErrMalformed, f.msg, len(f.b))
		return false
	}
	f.b = f.b[n:]
	switch f.typ {
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(f.b)
	case protowire.BytesType:
		f.p, n = protowire.ConsumeBytes(f.b)
	case protowire.Fixed32Type:
		_, n = protowire.ConsumeFixed32(f.b)
	case protowire.Fixed64Type:
		_, n = protowire.ConsumeFixed64(f.b)
	default: // groups: none of our messages, now or later, has one
		n = -1
	}
	if n < 0 {
		f.malformed("no value of wire type %d", f.typ)
		return false
	}
	f.b = f.b[n:]
	return true
}

func (f *fields) malformed(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s: field %d: %s", ErrMalformed, f.msg, f.num, fmt.Sprintf(format, args...))
	}
}

func (f *fields) tooLarge(what string, have, limit int) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s: field %d: %d %s, limit %d", ErrTooLarge, f.msg, f.num, have, what, limit)
	}
}

func (f *fields) uint(max uint64) uint64 {
	if f.typ != protowire.VarintType {
		f.malformed("wire type %d, want a number", f.typ)
		return 0
	}
	if f.n > max {
		f.malformed("%d is over %d", f.n, max)
		return 0
	}
	return f.n
}

// bytes returns nil for an empty string. The result aliases the input.
func (f *fields) bytes(max int) []byte {
	if f.typ != protowire.BytesType {
		f.malformed("wire type %d, want bytes", f.typ)
		return nil
	}
	if len(f.p) > max {
		f.tooLarge("bytes", len(f.p), max)
		return nil
	}
	if len(f.p) == 0 {
		return nil
	}
	return slices.Clip(f.p)
}

func (f *fields) text(max int) string {
	p := f.bytes(max)
	if !utf8.Valid(p) {
		f.malformed("text is not UTF-8")
		return ""
	}
	return CleanText(string(p))
}

// hash reads 32 bytes, or none for the zero hash.
func (f *fields) hash() chain.Hash {
	p := f.bytes(hashSize)
	if len(p) != 0 && len(p) != hashSize {
		f.malformed("%d bytes, want %d", len(p), hashSize)
		return chain.Hash{}
	}
	var h chain.Hash
	copy(h[:], p)
	return h
}

// hashes reads a run of 32-byte hashes without anything between them.
func (f *fields) hashes(max int) []chain.Hash {
	p := f.bytes(max * hashSize)
	if len(p)%hashSize != 0 {
		f.malformed("%d bytes, want a multiple of %d", len(p), hashSize)
		return nil
	}
	if len(p) == 0 {
		return nil
	}
	hs := make([]chain.Hash, len(p)/hashSize)
	for i := range hs {
		copy(hs[i][:], p[i*hashSize:])
	}
	return hs
}

// result gives v, or its zero value together with the fault that was met.
func result[T any](v T, f *fields) (T, error) {
	if f.err != nil {
		var zero T
		return zero, f.err
	}
	return v, nil
}
