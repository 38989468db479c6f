package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Keys of the store. One letter, then fixed-width big-endian fields, so that
// the order of keys is the order of heights. Large values stand only under
// keys that rise with the height.
const (
	keyHeader    = 'h' // height → header
	keyCert      = 'q' // height → certificate
	keyHash      = 'x' // header hash → height
	keyBody      = 'b' // height, u16 subtree → u16 records, each u32 length and bytes
	keyRecord    = 't' // record id → u64 height, u32 index
	keySubject   = 's' // SHA-256(subject)[:16], height, u32 index → record id
	keyAuthor    = 'a' // author, height, u32 index → record id
	keySubtree   = 'u' // subtree id → u64 height, u16 index
	keyConfig    = 'c' // epoch → config bytes, u64 height
	keyJournal   = 'p' // sequence → record that a client was told is accepted
	keyRejection = 'r' // record id → final rejection
)

// Single facts about the store.
var (
	keyFormat  = []byte("m/format")  // u32 format version
	keyGenesis = []byte("m/genesis") // genesis bytes; the hash follows from them
	keyTip     = []byte("m/tip")     // u64 height, hash, u64 epoch, u64 records in all
	keyMark    = []byte("m/mark")    // id of the write-ahead log that belongs to this store
	keyConsent = []byte("m/consent") // mark of the log beside which the operator's consent stood already
	keyBorn    = []byte("m/born")    // u64 head of the network when the store was created

	keyUnverified = []byte("m/unverified") // u64 height up to which a backup is taken on trust
	keyVerified   = []byte("m/verified")   // how far CheckOn came: the tip there, as in m/tip, u64 subtrees up to it
)

const subjectHash = 16 // bytes of the subject's hash in a key: 2⁶⁴ work to make two collide

func heightKey(kind byte, height uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, height)
}

func hashKey(kind byte, h chain.Hash) []byte {
	return append([]byte{kind}, h[:]...)
}

func bodyKey(height uint64, subtree uint16) []byte {
	return binary.BigEndian.AppendUint16(heightKey(keyBody, height), subtree)
}

func subjectPrefix(subject string) []byte {
	h := sha256.Sum256([]byte(subject))
	return append([]byte{keySubject}, h[:subjectHash]...)
}

func authorPrefix(author consortium.PublicKey) []byte {
	return append([]byte{keyAuthor}, author[:]...)
}

func placeKey(prefix []byte, p Position) []byte {
	k := make([]byte, 0, len(prefix)+placeSize)
	return appendPlace(append(k, prefix...), p)
}

// placeSize is the bytes of a Position in keys and values.
const placeSize = 8 + 4

func appendPlace(b []byte, p Position) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, p.Height), p.Index)
}

func parsePlace(b []byte) (Position, error) {
	if len(b) != placeSize {
		return Position{}, fmt.Errorf("place of %d bytes, want %d", len(b), placeSize)
	}
	return Position{Height: binary.BigEndian.Uint64(b), Index: binary.BigEndian.Uint32(b[8:])}, nil
}

// prefixEnd is the first key after all keys that start with prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

const tipSize = 8 + 32 + 8 + 8

type storedTip struct {
	head    chain.Head
	epoch   uint64 // in force for the next block
	records uint64
}

func (t storedTip) encode() []byte {
	b := make([]byte, 0, tipSize)
	b = binary.BigEndian.AppendUint64(b, t.head.Height)
	b = append(b, t.head.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, t.epoch)
	return binary.BigEndian.AppendUint64(b, t.records)
}

func parseTip(b []byte) (storedTip, error) {
	if len(b) != tipSize {
		return storedTip{}, fmt.Errorf("tip of %d bytes, want %d", len(b), tipSize)
	}
	t := storedTip{epoch: binary.BigEndian.Uint64(b[40:]), records: binary.BigEndian.Uint64(b[48:])}
	t.head.Height = binary.BigEndian.Uint64(b)
	copy(t.head.Hash[:], b[8:40])
	return t, nil
}

// subtreeSize is the bytes of appendSubtree.
func subtreeSize(s consortium.Subtree) int {
	n := 2
	for _, r := range s.Records {
		n += 4 + len(r)
	}
	return n
}

// appendSubtree gives the value under keyBody: one subtree as it stands in a
// body.
func appendSubtree(b []byte, s consortium.Subtree) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Records)))
	for _, r := range s.Records {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(r))), r...)
	}
	return b
}

// parseSubtree is the inverse of appendSubtree; the records alias b.
func parseSubtree(b []byte) (consortium.Subtree, error) {
	if len(b) < 2 {
		return consortium.Subtree{}, fmt.Errorf("subtree of %d bytes", len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n == 0 || n > consortium.SubtreeRecords {
		return consortium.Subtree{}, fmt.Errorf("subtree of %d records", n)
	}
	s := consortium.Subtree{Records: make([][]byte, 0, n)}
	for range n {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return consortium.Subtree{}, fmt.Errorf("subtree ends inside record %d", len(s.Records))
		}
		end := 4 + int(binary.BigEndian.Uint32(b))
		s.Records = append(s.Records, b[4:end:end])
		b = b[end:]
	}
	if len(b) != 0 {
		return consortium.Subtree{}, fmt.Errorf("%d bytes after the last record of a subtree", len(b))
	}
	return s, nil
}
