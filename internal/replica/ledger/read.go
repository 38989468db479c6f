package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Position is a record's place in the chain. The zero Position is before all.
type Position struct {
	Height uint64
	Index  uint32 // in the whole block
}

// Place is a record that stands in the chain, by id.
type Place struct {
	ID chain.Hash
	Position
}

// Query asks for a part of a history.
type Query struct {
	Desc  bool     // newest first
	After Position // exclusive, in the direction of the query; zero: from its start
	Limit int      // ≤ 0: 100; at most 10,000
}

// Committed reports whether the record is in the chain. A store that cannot be
// read says false, with an Error line: nothing but advice may depend on it,
// the rule is Committable.
func (l *Ledger) Committed(id chain.Hash) bool {
	found, err := l.known(id)
	if err != nil {
		l.log.Error("record not looked up", "id", id, "err", err)
	}
	return found
}

// Header returns a header and its certificate.
func (l *Ledger) Header(height uint64) (*consortium.Header, consortium.Certificate, error) {
	h, cert, err := readHeader(l.db, height)
	l.noteDamage(height, err)
	return h, cert, err
}

// Block returns a whole block. The caller owns it.
func (l *Ledger) Block(height uint64) (*consortium.Block, error) {
	b, err := readBlock(l.db, height)
	l.noteDamage(height, err)
	return b, err
}

// HeightOf finds a block by the hash of its header.
func (l *Ledger) HeightOf(hash chain.Hash) (height uint64, ok bool) {
	height, err := readUint64(l.db, hashKey(keyHash, hash))
	if err != nil && !errors.Is(err, ErrNotFound) {
		l.log.Error("block not looked up", "hash", hash, "err", err)
	}
	return height, err == nil
}

// Subtree finds a subtree by its id. The caller owns the records.
func (l *Ledger) Subtree(id chain.Hash) (s consortium.Subtree, height uint64, index uint16, err error) {
	v, err := get(l.db, hashKey(keySubtree, id))
	if err == nil && len(v) != 10 {
		err = fmt.Errorf("place of %d bytes, want 10", len(v))
	}
	if err != nil {
		return s, 0, 0, fmt.Errorf("subtree %s: %w", id, err)
	}
	height, index = binary.BigEndian.Uint64(v), binary.BigEndian.Uint16(v[8:])
	if s, err = readSubtree(l.db, height, index); err != nil {
		l.noteDamage(height, err)
		return consortium.Subtree{}, 0, 0, fmt.Errorf("subtree %s at height %d: %w", id, height, err)
	}
	return s, height, index, nil
}

// RecordAt finds a record by its id, with its place.
func (l *Ledger) RecordAt(id chain.Hash) (raw []byte, height uint64, index uint32, err error) {
	f := l.Finder()
	if raw, err = f.Record(id); err != nil {
		return nil, 0, 0, err
	}
	return bytes.Clone(raw), f.at.Height, f.at.Index, nil
}

// Finder finds many records: a block is read once for those that come one
// after the other. It is for one goroutine.
type Finder struct {
	l        *Ledger
	at       Position             // of the last record
	subtrees []consortium.Subtree // of its block, as far as they were read
}

// Finder returns a new one, which holds one block in memory at most.
func (l *Ledger) Finder() *Finder { return &Finder{l: l} }

// Record finds a record by its id; its bytes are part of the block in memory.
func (f *Finder) Record(id chain.Hash) ([]byte, error) {
	p, err := f.l.Place(id)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", id, err)
	}
	if p.Height != f.at.Height {
		f.subtrees = nil
	}
	f.at = p
	skip := int(p.Index) // records still before ours
	for i := 0; ; i++ {
		if i == len(f.subtrees) {
			s, err := readSubtree(f.l.db, p.Height, uint16(i))
			if errors.Is(err, ErrNotFound) {
				err = errors.New("the block ends before it")
			}
			if err != nil {
				f.l.noteDamage(p.Height, err)
				return nil, fmt.Errorf("record %s at height %d index %d: %w", id, p.Height, p.Index, err)
			}
			f.subtrees = append(f.subtrees, s)
		}
		records := f.subtrees[i].Records
		if skip < len(records) {
			return records[skip], nil
		}
		skip -= len(records)
	}
}

// History lists the records about a subject, oldest first unless q.Desc.
func (l *Ledger) History(subject string, q Query) ([]Place, error) {
	return l.places(subjectPrefix(subject), q)
}

// ByAuthor lists the records of an author, oldest first unless q.Desc.
func (l *Ledger) ByAuthor(author consortium.PublicKey, q Query) ([]Place, error) {
	return l.places(authorPrefix(author), q)
}

const (
	defaultLimit = 100
	maxLimit     = 10_000 // places of one answer
)

func (l *Ledger) places(prefix []byte, q Query) ([]Place, error) {
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	q.Limit = min(q.Limit, maxLimit)
	o := &pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)}
	first, next := (*pebble.Iterator).First, (*pebble.Iterator).Next
	if q.Desc {
		first, next = (*pebble.Iterator).Last, (*pebble.Iterator).Prev
	}
	if q.After != (Position{}) {
		cursor := placeKey(prefix, q.After)
		if q.Desc {
			o.UpperBound = cursor
		} else {
			o.LowerBound = append(cursor, 0) // just behind it
		}
	}
	it, err := l.db.NewIter(o)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	var places []Place
	for ok := first(it); ok && len(places) < q.Limit; ok = next(it) {
		v, err := it.ValueAndErr()
		if err == nil && len(v) != len(chain.Hash{}) {
			err = fmt.Errorf("id of %d bytes", len(v))
		}
		var p Position
		if err == nil {
			p, err = parsePlace(it.Key()[len(prefix):])
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read history: %w", err), it.Close())
		}
		places = append(places, Place{ID: chain.Hash(v), Position: p})
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return places, nil
}

// ConfigAt returns the config of an epoch and the height of the block that
// brought it, 0 for the genesis.
func (l *Ledger) ConfigAt(epoch uint64) (*consortium.Config, uint64, error) {
	return readConfig(l.db, epoch)
}

// --- one function a key, over the store or a snapshot of it ---

// errStop ends a scan early.
var errStop = errors.New("stop")

// get copies a value out of the store.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	v = bytes.Clone(v)
	return v, closer.Close()
}

func has(r pebble.Reader, key []byte) (bool, error) {
	_, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

// scan calls f with the rest of each key behind prefix, in order, until f
// fails. Both slices live for the call only.
func scan(r pebble.Reader, prefix []byte, f func(rest, value []byte) error) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = f(it.Key()[len(prefix):], v)
		}
		if errors.Is(err, errStop) {
			return it.Close()
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

func isEmpty(r pebble.Reader) (bool, error) {
	it, err := r.NewIter(nil)
	if err != nil {
		return false, err
	}
	found := it.First()
	return !found, errors.Join(it.Error(), it.Close())
}

func readUint64(r pebble.Reader, key []byte) (uint64, error) {
	v, err := get(r, key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("number of %d bytes, want 8", len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

func readPlace(r pebble.Reader, id chain.Hash) (Position, error) {
	v, err := get(r, hashKey(keyRecord, id))
	if err != nil {
		return Position{}, err
	}
	return parsePlace(v)
}

func readGenesis(r pebble.Reader) (*consortium.Genesis, error) {
	v, err := get(r, keyGenesis)
	if err != nil {
		return nil, err
	}
	g, err := consortium.DecodeGenesis(v)
	if err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	return g, nil
}

// readTip recovers the tip and recomputes the hash of its header. After an
// error the tip's height is as stored, if that could be read.
func readTip(r pebble.Reader, g *consortium.Genesis) (Tip, error) {
	v, err := get(r, keyTip)
	if err != nil {
		return Tip{}, fmt.Errorf("tip: %w", err)
	}
	return restoreTip(r, g, v)
}

// restoreTip is the tip that v tells of, with what the store has of it.
func restoreTip(r pebble.Reader, g *consortium.Genesis, v []byte) (Tip, error) {
	stored, err := parseTip(v)
	if err != nil {
		return Tip{}, err
	}
	tip, err := tipAt(r, g, stored.head.Height, stored.epoch)
	if err != nil {
		return Tip{Head: stored.head}, err
	}
	if tip.Head.Hash != stored.head.Hash {
		return tip, fmt.Errorf("the header's hash is %s, the tip says %s", tip.Head.Hash, stored.head.Hash)
	}
	tip.Records = stored.records
	return tip, nil
}

// tipAt is the tip as it was at height, where epoch was in force for the next
// block. Records is not filled in.
func tipAt(r pebble.Reader, g *consortium.Genesis, height, epoch uint64) (Tip, error) {
	tip := GenesisTip(g)
	config, _, err := readConfig(r, epoch)
	if err != nil {
		return Tip{}, err
	}
	tip.Config, tip.Set = config, config.Set()
	if height == 0 {
		return tip, nil
	}
	h, _, err := readHeader(r, height)
	if err != nil {
		return Tip{}, err
	}
	tip.Header, tip.Head = h, chain.Head{Height: height, Hash: h.Hash()}
	return tip, nil
}

func readHeader(r pebble.Reader, height uint64) (*consortium.Header, consortium.Certificate, error) {
	fault := func(what string, err error) (*consortium.Header, consortium.Certificate, error) {
		return nil, consortium.Certificate{}, fmt.Errorf("%s %d: %w", what, height, err)
	}
	v, err := get(r, heightKey(keyHeader, height))
	if err != nil {
		return fault("header", err)
	}
	h, err := consortium.DecodeHeader(v)
	if err != nil {
		return fault("header", err)
	}
	if v, err = get(r, heightKey(keyCert, height)); err != nil {
		return fault("certificate", err)
	}
	cert, err := consortium.DecodeCertificate(v)
	if err != nil {
		return fault("certificate", err)
	}
	return h, cert, nil
}

func readBlock(r pebble.Reader, height uint64) (*consortium.Block, error) {
	h, cert, err := readHeader(r, height)
	if err != nil {
		return nil, err
	}
	body := make(consortium.Body, 0, min(h.Subtrees, 64))
	for i := range h.Subtrees {
		s, err := readSubtree(r, height, i)
		if err != nil {
			return nil, fmt.Errorf("body %d: subtree %d of %d: %w", height, i, h.Subtrees, err)
		}
		body = append(body, s)
	}
	return &consortium.Block{Header: h, Certificate: cert, Body: body}, nil
}

// readSubtree looks for one key: a scan over those of a block would read what a
// repair has covered.
func readSubtree(r pebble.Reader, height uint64, index uint16) (consortium.Subtree, error) {
	v, err := get(r, bodyKey(height, index))
	if err != nil {
		return consortium.Subtree{}, err
	}
	return parseSubtree(v)
}

func readConfig(r pebble.Reader, epoch uint64) (*consortium.Config, uint64, error) {
	v, err := get(r, heightKey(keyConfig, epoch))
	if err == nil && len(v) < 8 {
		err = fmt.Errorf("value of %d bytes", len(v))
	}
	if err != nil {
		return nil, 0, fmt.Errorf("config of epoch %d: %w", epoch, err)
	}
	at := len(v) - 8
	c, err := consortium.DecodeConfig(v[:at:at])
	if err != nil {
		return nil, 0, fmt.Errorf("config of epoch %d: %w", epoch, err)
	}
	return c, binary.BigEndian.Uint64(v[at:]), nil
}
