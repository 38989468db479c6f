package consortium

import (
	"encoding/binary"
	"fmt"

	"github.com/parley-p2p/parley/chain"
)

// Header fixes a block: everything of the engine's proposal is under its hash.
type Header struct {
	Genesis   chain.Hash
	Height    uint64     // from 1
	Prev      chain.Hash // of the header before; at height 1 the genesis hash
	Time      uint64     // ms since 1970, the proposer's clock
	Epoch     uint64     // config records applied before this block
	Set       chain.Hash // of the validators that sign this block
	NextSet   chain.Hash // of those that sign the next one
	Proposer  uint64     // validator id
	Records   uint32
	Subtrees  uint16
	BodyBytes uint32
	Root      chain.Hash // of the body; zero for an empty one
	Metadata  []byte     // the engine's view metadata, at most MaxMetadata bytes
}

// DecodeHeader reads one header. It shares no memory with b.
func DecodeHeader(b []byte) (*Header, error) {
	h := &Header{}
	c := cursor{b: b}
	c.version()
	c.fill(h.Genesis[:])
	h.Height = c.number("height")
	c.fill(h.Prev[:])
	h.Time = c.number("time")
	h.Epoch = c.number("epoch")
	c.fill(h.Set[:])
	c.fill(h.NextSet[:])
	h.Proposer = c.number("proposer")
	h.Records, h.Subtrees, h.BodyBytes = c.u32(), c.u16(), c.u32()
	c.fill(h.Root[:])
	if n := int(c.u8()); n > 0 {
		h.Metadata = []byte(c.text(n, MaxMetadata, "metadata"))
	}
	if c.err == nil && h.Height == 0 {
		c.failf("height 0 is the genesis, which has no block")
	}
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("decode header: %w", err)
	}
	return h, nil
}

// Encode gives the header's bytes.
func (h *Header) Encode() []byte {
	return h.append(make([]byte, 0, headerFixed+len(h.Metadata)))
}

func (h *Header) append(b []byte) []byte {
	b = append(b, 1)
	b = append(b, h.Genesis[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Height)
	b = append(b, h.Prev[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Time)
	b = binary.BigEndian.AppendUint64(b, h.Epoch)
	b = append(b, h.Set[:]...)
	b = append(b, h.NextSet[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Proposer)
	b = binary.BigEndian.AppendUint32(b, h.Records)
	b = binary.BigEndian.AppendUint16(b, h.Subtrees)
	b = binary.BigEndian.AppendUint32(b, h.BodyBytes)
	b = append(b, h.Root[:]...)
	b = append(b, byte(len(h.Metadata)))
	return append(b, h.Metadata...)
}

// Hash identifies the block.
func (h *Header) Hash() chain.Hash {
	var buf [MaxHeader]byte
	return tagged(tagHeader, h.append(buf[:0]))
}

// Block is a header, what proves it and what it carries.
type Block struct {
	Header      *Header
	Certificate Certificate
	Body        Body
}

// CheckBody tells whether body is the one that h fixes: packing, counts, bytes
// and root. It does not look into the records.
func CheckBody(h *Header, body Body) error {
	_, err := OpenBody(h, body)
	return err
}

// OpenBody is CheckBody, and returns the ids of all records in their order,
// which it had to hash.
func OpenBody(h *Header, body Body) ([]chain.Hash, error) {
	if err := body.checkPacking(); err != nil {
		return nil, fmt.Errorf("body of block %d: %w", h.Height, err)
	}
	records, subtrees, size := body.Records(), len(body), body.Size()
	if uint64(h.Records) != uint64(records) || int(h.Subtrees) != subtrees || uint64(h.BodyBytes) != uint64(size) {
		return nil, fmt.Errorf("body of block %d: %d records, %d subtrees, %d bytes where the header has %d, %d, %d",
			h.Height, records, subtrees, size, h.Records, h.Subtrees, h.BodyBytes)
	}
	ids := body.RecordIDs()
	if root := body.RootOf(ids); root != h.Root {
		return nil, fmt.Errorf("body of block %d: root %s where the header has %s", h.Height, root, h.Root)
	}
	return ids, nil
}
