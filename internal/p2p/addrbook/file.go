package addrbook

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/encoding/protowire"
)

// book.bin: magic, format version, then the header and each entry as protobuf
// after its length, and SHA-256 of all before it. Where an entry lies in the
// tables is not written: it follows from the salt and is found anew.
//
//	header {1 network digest, 2 salt 32, 3 checksum of the AS map 32, 4 grown, 5 entries}
//	entry  {1 id, 2 address ≤ 8 ×, 3 source ≤ 8 ×, 4 tried, 5 record, 6 seq, 7 first seen, 8 last seen, 9 last try,
//	        10 last good, 11 first good, 12 fails, 13 class, 14 not before, 15 marks}   times in unix ms
//	source {1 kind, 2 peer, 3 ip}
const (
	magic      = "parleyAB"
	version    = 1
	maxFile    = 64 << 20
	maxNet     = 64
	maxID      = 128
	maxClass   = 32
	maxSource  = 256
	maxHeader  = 512
	maxEntries = (newBuckets + triedBuckets) * slots
	maxEntry   = maxEnvelope + maxAddrs*(maxAddr+4) + maxRefs*(maxSource+4) + maxID + maxClass + 256
	maxTime    = 1<<53 - 1
)

var (
	errCorrupt  = errors.New("the file is damaged")
	errNewer    = errors.New("the file was written by a newer version of parley")
	errOtherNet = errors.New("the file is of network")
)

// image is what book.bin holds.
type image struct {
	net     string
	salt    []byte
	asSum   []byte
	grown   bool
	entries []*entry
}

// encode stops before maxFile: entries come in the order of their worth.
func (m image) encode() []byte {
	size := len(magic) + 4 + sha256.Size + maxHeader
	var body []byte
	n := 0
	for _, e := range m.entries {
		p := encodeEntry(e)
		if size+len(body)+len(p)+4 > maxFile || n == maxEntries {
			break
		}
		body = protowire.AppendBytes(body, p)
		n++
	}
	var h []byte
	h = putBytes(h, 1, []byte(m.net))
	h = putBytes(h, 2, m.salt)
	h = putBytes(h, 3, m.asSum)
	h = putUint(h, 4, uint64(b2i(m.grown)))
	h = putUint(h, 5, uint64(n))
	b := make([]byte, 0, size+len(body))
	b = binary.BigEndian.AppendUint32(append(b, magic...), version)
	b = append(protowire.AppendBytes(b, h), body...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func encodeEntry(e *entry) []byte {
	b := putBytes(make([]byte, 0, 512), 1, []byte(e.id))
	for _, a := range e.addrs {
		b = putBytes(b, 2, []byte(a.raw))
	}
	for _, r := range e.refs {
		var s []byte
		s = putBytes(s, 1, []byte(r.Kind))
		s = putBytes(s, 2, []byte(r.Peer))
		s = putBytes(s, 3, r.IP.AsSlice())
		b = protowire.AppendBytes(protowire.AppendTag(b, 3, protowire.BytesType), s)
	}
	b = putUint(b, 4, uint64(b2i(e.tried != none)))
	b = putBytes(b, 5, e.record)
	b = putUint(b, 6, e.seq)
	for i, t := range []stamp{e.firstSeen, e.lastSeen, e.lastTry, e.lastGood, e.firstGood} {
		b = putUint(b, protowire.Number(7+i), uint64(max(t, 0)))
	}
	b = putUint(b, 12, uint64(e.fails))
	b = putBytes(b, 13, []byte(e.class[:min(len(e.class), maxClass)]))
	b = putUint(b, 14, uint64(max(e.notBefore, 0)))
	return putUint(b, 15, uint64(e.marks))
}

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

// decode reads a whole file. The entries alias b. They have no group and no
// place yet.
func decode(b []byte) (image, error) {
	if len(b) > maxFile {
		return image{}, fmt.Errorf("%w: %d bytes, limit %d", errCorrupt, len(b), maxFile)
	}
	if len(b) < len(magic)+4+sha256.Size || string(b[:len(magic)]) != magic {
		return image{}, fmt.Errorf("%w: it does not begin as an address book", errCorrupt)
	}
	if v := binary.BigEndian.Uint32(b[len(magic):]); v > version {
		return image{}, fmt.Errorf("%w: format %d, this one knows %d", errNewer, v, version)
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return image{}, fmt.Errorf("%w: wrong checksum", errCorrupt)
	}
	return decodeBody(b[len(magic)+4 : end])
}

func decodeBody(b []byte) (m image, err error) {
	head, b, err := cut(b, maxHeader)
	if err != nil {
		return image{}, fmt.Errorf("%w: header: %w", errCorrupt, err)
	}
	count := uint64(0)
	err = walk(head, func(f field) error {
		switch f.num {
		case 1:
			m.net = string(f.p)
			return f.atMost(maxNet)
		case 2:
			m.salt = slices.Clone(f.p)
			return f.atMost(saltSize)
		case 3:
			m.asSum = f.p
			return f.atMost(sha256.Size)
		case 4:
			m.grown = f.n != 0
		case 5:
			count = f.n
		}
		return nil
	})
	if err == nil && len(m.salt) != saltSize {
		err = fmt.Errorf("salt of %d bytes", len(m.salt))
	}
	if err == nil && count > min(maxEntries, uint64(len(b))) {
		err = fmt.Errorf("%d entries in %d bytes", count, len(b))
	}
	if err != nil {
		return image{}, fmt.Errorf("%w: header: %w", errCorrupt, err)
	}
	seen := make(map[peer.ID]bool, count)
	for i := range count {
		var p []byte
		if p, b, err = cut(b, maxEntry); err == nil {
			var e *entry
			if e, err = decodeEntry(p); err == nil && seen[e.id] {
				err = errors.New("it stands there twice")
			}
			if err == nil {
				seen[e.id] = true
				m.entries = append(m.entries, e)
			}
		}
		if err != nil {
			return image{}, fmt.Errorf("%w: entry %d: %w", errCorrupt, i, err)
		}
	}
	if len(b) != 0 {
		return image{}, fmt.Errorf("%w: %d bytes after the last entry", errCorrupt, len(b))
	}
	return m, nil
}

func decodeEntry(b []byte) (*entry, error) {
	e := &entry{tried: none}
	var raw [][]byte
	err := walk(b, func(f field) error {
		switch f.num {
		case 1:
			return errors.Join(f.atMost(maxID), e.id.UnmarshalBinary(f.p))
		case 2:
			raw = append(raw, f.p)
			return errors.Join(f.atMost(maxAddr), few(len(raw), maxAddrs, "addresses"))
		case 3:
			s, err := decodeSource(f.p)
			e.refs = append(e.refs, ref{Source: s, slot: none})
			return errors.Join(err, few(len(e.refs), maxRefs, "sources"))
		case 4:
			e.tried = -int32(b2i(f.n == 0)) // any slot: refill finds the right one
		case 5:
			e.record = f.p
			return f.atMost(maxEnvelope)
		case 6:
			e.seq = f.n
		case 7, 8, 9, 10, 11:
			*[]*stamp{&e.firstSeen, &e.lastSeen, &e.lastTry, &e.lastGood, &e.firstGood}[f.num-7] = f.stamp()
		case 12:
			e.fails = uint16(min(f.n, 1000))
		case 13:
			e.class = string(f.p)
			return f.atMost(maxClass)
		case 14:
			e.notBefore = f.stamp()
		case 15:
			e.marks = uint8(min(f.n, 5))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if e.id == "" || len(raw) == 0 {
		return nil, errors.New("no id or no address")
	}
	for _, p := range raw {
		a, err := ma.NewMultiaddrBytes(p)
		if err != nil {
			return nil, err
		}
		if addr, ok := parse(a, e.id); ok && !slices.Contains(e.addrs, addr) {
			e.addrs = append(e.addrs, addr)
		}
	}
	return e, nil
}

func decodeSource(b []byte) (s Source, err error) {
	if len(b) > maxSource {
		return s, fmt.Errorf("source of %d bytes, limit %d", len(b), maxSource)
	}
	err = walk(b, func(f field) error {
		switch f.num {
		case 1:
			s.Kind = Kind(f.p)
			return f.atMost(maxClass)
		case 2:
			return errors.Join(f.atMost(maxID), s.Peer.UnmarshalBinary(f.p))
		case 3:
			ip, ok := netip.AddrFromSlice(f.p)
			if !ok {
				return fmt.Errorf("IP of %d bytes", len(f.p))
			}
			s.IP = clean(ip)
		}
		return nil
	})
	return s, err
}

// field is one field of a protobuf message: a number or bytes.
type field struct {
	num protowire.Number
	n   uint64
	p   []byte
}

func (f field) atMost(n int) error { return few(len(f.p), n, fmt.Sprintf("bytes in field %d", f.num)) }

func (f field) stamp() stamp { return stamp(min(f.n, maxTime)) }

func few(have, most int, what string) error {
	if have > most {
		return fmt.Errorf("%d %s, limit %d", have, what, most)
	}
	return nil
}

// walk hands on the fields of b; those that we do not know are for later
// versions of the same format.
func walk(b []byte, do func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := field{num: num}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.p, n = protowire.ConsumeBytes(b)
		default:
			return fmt.Errorf("field %d has wire type %d", num, typ)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}

// cut takes one length-prefixed message of at most limit bytes.
func cut(b []byte, limit int) (p, rest []byte, err error) {
	p, n := protowire.ConsumeBytes(b)
	switch {
	case n < 0:
		return nil, nil, protowire.ParseError(n)
	case len(p) > limit:
		return nil, nil, fmt.Errorf("%d bytes, limit %d", len(p), limit)
	}
	return p, b[n:], nil
}
