package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Sizes of what stands beside the records in a block.
const (
	headerBytes = 224
	voteBytes   = 8 + 64
	tipBytes    = 56
)

// store is the limit: a bare pebble that writes the keys and values of the
// ledger, one synced batch a block, and does nothing else. It checks nothing,
// asks nobody, and has one goroutine.
type store struct {
	db     *pebble.DB
	height uint64
	votes  int // in a certificate
}

// openStore opens it with the settings of the ledger.
func openStore(dir string, votes int) (*store, error) {
	o := &pebble.Options{
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		CacheSize:                   96 << 20,
		MemTableSize:                16 << 20,
		MemTableStopWritesThreshold: 4,
		Logger:                      silent{},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open bare store %s: %w", dir, err)
	}
	return &store{db: db, votes: votes}, nil
}

func (s *store) close() error { return s.db.Close() }

// silent is pebble's logger. Only what ends the process is told.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic("bare store: " + fmt.Sprintf(format, args...))
}

// indexed is a record with what its index keys need, made before the clock.
type indexed struct {
	raw     []byte
	id      chain.Hash
	subject [sha256.Size]byte
	author  consortium.PublicKey
}

// index prepares records. Each pass has ids of its own, as other records would.
func index(records []record, pass uint64) ([]indexed, error) {
	list := make([]indexed, len(records))
	for i, r := range records {
		d, err := consortium.DecodeRecord(r.raw)
		if err != nil {
			return nil, fmt.Errorf("index record: %w", err)
		}
		list[i] = indexed{raw: r.raw, id: r.id, subject: sha256.Sum256([]byte(d.Subject)), author: d.Author}
		binary.BigEndian.PutUint64(list[i].id[:], binary.BigEndian.Uint64(r.id[:])+pass)
	}
	return list, nil
}

// writeAll writes the records in blocks of size, again and again until it has
// lasted long enough to be measured, and returns the records a second.
func (s *store) writeAll(records []record, size int, atLeast time.Duration) (rate float64, err error) {
	var took time.Duration
	written := 0
	for pass := uint64(0); took < atLeast || written == 0; pass++ {
		list, err := index(records, pass)
		if err != nil {
			return 0, err
		}
		written += len(list)
		begin := time.Now()
		for len(list) > 0 {
			n := min(max(size, 1), len(list))
			if err := s.write(list[:n]); err != nil {
				return 0, fmt.Errorf("write block to bare store: %w", err)
			}
			list = list[n:]
		}
		took += time.Since(begin)
	}
	return float64(written) / took.Seconds(), nil
}

// write is one block: header, certificate, bodies, three keys a record, tip.
func (s *store) write(block []indexed) error {
	s.height++
	b := s.db.NewBatchWithSize(600 * (len(block) + 8))
	defer b.Close()
	set := func(key, value []byte) error { return b.Set(key, value, nil) }
	height := binary.BigEndian.AppendUint64(nil, s.height)
	hash := sha256.Sum256(height)
	key := func(kind byte, parts ...[]byte) []byte {
		k := append(make([]byte, 0, 64), kind)
		for _, p := range parts {
			k = append(k, p...)
		}
		return k
	}
	err := errors.Join(
		set(key('h', height), make([]byte, headerBytes)),
		set(key('q', height), make([]byte, 2+s.votes*voteBytes)),
		set(key('x', hash[:]), height),
		set([]byte("m/tip"), make([]byte, tipBytes)),
	)
	for i := 0; i < len(block); i += consortium.SubtreeRecords {
		part := block[i:min(i+consortium.SubtreeRecords, len(block))]
		number := binary.BigEndian.AppendUint16(nil, uint16(i/consortium.SubtreeRecords))
		body := binary.BigEndian.AppendUint16(make([]byte, 0, 600*len(part)), uint16(len(part)))
		for _, r := range part {
			body = append(binary.BigEndian.AppendUint32(body, uint32(len(r.raw))), r.raw...)
		}
		root := sha256.Sum256(append(number, hash[:]...))
		err = errors.Join(err, set(key('b', height, number), body), set(key('u', root[:]), append(height[:8:8], number...)))
	}
	for i, r := range block {
		place := binary.BigEndian.AppendUint32(height[:8:8], uint32(i))
		err = errors.Join(err, set(key('t', r.id[:]), place), set(key('s', r.subject[:16], place), r.id[:]), set(key('a', r.author[:], place), r.id[:]))
	}
	if err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// verifyRate is how many signatures of records one core checks in a second.
func verifyRate(records []record, genesis chain.Hash) (float64, error) {
	decoded := make([]*consortium.Record, len(records))
	for i, r := range records {
		var err error
		if decoded[i], err = consortium.DecodeRecord(r.raw); err != nil {
			return 0, fmt.Errorf("verify record: %w", err)
		}
	}
	begin := time.Now()
	for _, r := range decoded {
		if err := r.Verify(genesis); err != nil {
			return 0, fmt.Errorf("verify record: %w", err)
		}
	}
	return float64(len(decoded)) / time.Since(begin).Seconds(), nil
}

// fsyncTimes are those of small appends in dir, in ms.
func fsyncTimes(dir string, n int) (figure, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return nil, fmt.Errorf("measure fsync: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var times figure
	for range n {
		begin := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return nil, fmt.Errorf("measure fsync: %w", err)
		}
		if err := f.Sync(); err != nil {
			return nil, fmt.Errorf("measure fsync: %w", err)
		}
		times.add(ms(time.Since(begin)))
	}
	return times, nil
}
