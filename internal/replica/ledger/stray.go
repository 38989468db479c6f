package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/consortium"
)

// kinds are the first bytes of all keys that a ledger has: those of keys.go,
// single facts (m), and the journal of accepted records (p).
const kinds = "hqxbtsaucrmp"

// checkKinds finds keys that are none of a ledger's.
func checkKinds(ctx context.Context, r pebble.Reader) error {
	it, err := r.NewIter(nil)
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok && ctx.Err() == nil; {
		key := it.Key()
		if len(key) == 0 || strings.IndexByte(kinds, key[0]) < 0 {
			return fmt.Errorf("key %x is none of a ledger's", key)
		}
		ok = it.SeekGE([]byte{key[0] + 1}) // one look a kind
	}
	return it.Error()
}

// A strayError is an entry that no block accounts for.
type strayError struct {
	height uint64 // of the block that it points to, 0 where it points to none
	text   string
}

func (e *strayError) Error() string { return e.text }

// findStray finds the first entry of a kind that no block accounts for. It
// reads the block of each entry, which is slow where entries do not stand in
// the order of heights; it is called when the counts differ, and there is one.
func findStray(ctx context.Context, r pebble.Reader, kind byte, tip Tip) error {
	var wanted map[string]bool
	var at uint64 // block that wanted is of
	err := scan(r, []byte{kind}, func(rest, value []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := append([]byte{kind}, rest...)
		height, ok := heightIn(kind, rest, value)
		if kind == keyConfig {
			if len(rest) == 8 && binary.BigEndian.Uint64(rest) <= tip.Config.Epoch {
				return nil
			}
		} else if ok && height > 0 && height <= tip.Head.Height {
			if wanted == nil || at != height {
				b, err := readBlock(r, height)
				if err != nil {
					return err
				}
				if wanted, err = keysOf(kind, b); err != nil {
					return err
				}
				at = height
			}
			if wanted[string(key)] {
				return nil
			}
		}
		return &strayError{height, fmt.Sprintf("index %c has an entry %x that no block accounts for", kind, rest)}
	})
	return err
}

// heightIn is the height that an entry points to.
func heightIn(kind byte, rest, value []byte) (uint64, bool) {
	from := value
	switch kind {
	case keyHeader, keyCert, keyBody:
		from = rest
	case keySubject, keyAuthor:
		if len(rest) < placeSize {
			return 0, false
		}
		from = rest[len(rest)-placeSize:]
	}
	if len(from) < 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(from), true
}

// keysOf are the keys of a kind that a block accounts for.
func keysOf(kind byte, b *consortium.Block) (map[string]bool, error) {
	h := b.Header
	keys := map[string]bool{}
	switch kind {
	case keyHeader, keyCert:
		keys[string(heightKey(kind, h.Height))] = true
	case keyHash:
		keys[string(hashKey(kind, h.Hash()))] = true
	}
	index := uint32(0)
	for i, s := range b.Body {
		switch kind {
		case keyBody:
			keys[string(bodyKey(h.Height, uint16(i)))] = true
			continue
		case keySubtree:
			keys[string(hashKey(kind, s.ID()))] = true
			continue
		}
		for _, raw := range s.Records {
			p := Position{Height: h.Height, Index: index}
			index++
			switch kind {
			case keyRecord:
				keys[string(hashKey(kind, consortium.RecordID(raw)))] = true
			case keySubject, keyAuthor:
				rec, err := consortium.DecodeRecord(raw)
				if err != nil {
					return nil, err
				}
				prefix := subjectPrefix(rec.Subject)
				if kind == keyAuthor {
					prefix = authorPrefix(rec.Author)
				}
				keys[string(placeKey(prefix, p))] = true
			}
		}
	}
	return keys, nil
}
