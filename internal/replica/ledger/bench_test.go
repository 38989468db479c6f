//go:build unix

package ledger_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// BenchmarkAppend1MiB appends blocks of 1 MiB and, in turn, gives a bare pebble
// the same bytes and as many index keys in one synced batch. Both in processor
// time, medians. Records were judged before, as they are behind a mempool.
func BenchmarkAppend1MiB(b *testing.B) {
	for _, size := range []int{256, 4096, 65_000} {
		b.Run(fmt.Sprintf("body=%d", size), func(b *testing.B) {
			c := ledgertest.New(b, 4)
			n := (1 << 20) / (size + 160)
			l := open(b, ledger.Options{Dir: b.TempDir(), Verified: func(chain.Hash) bool { return true }})
			if err := l.Init(c.Genesis()); err != nil {
				b.Fatal(err)
			}
			raw := newRawStore(b)
			var ours, bare []float64
			b.SetBytes(1 << 20)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				next := c.Next(records(c, n, size)...)
				judgeAll(b, l, next)
				bare = append(bare, raw.write(b, next))
				from := cpuTime(b)
				b.StartTimer()
				appendBlock(b, l, next)
				b.StopTimer()
				ours = append(ours, cpuTime(b)-from)
				b.StartTimer()
			}
			b.ReportMetric(median(ours), "cpu-us/block")
			b.ReportMetric(median(bare), "raw-cpu-us/block")
			b.ReportMetric(median(ours)/median(bare), "x-raw")
		})
	}
}

func judgeAll(b *testing.B, l *ledger.Ledger, block *consortium.Block) {
	b.Helper()
	for _, s := range block.Body {
		for _, raw := range s.Records {
			r, err := consortium.DecodeRecord(raw)
			if err == nil {
				err = l.Committable(r, consortium.RecordID(raw), block.Header.Height)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

type rawStore struct {
	db     *pebble.DB
	height int
}

func newRawStore(b *testing.B) *rawStore {
	b.Helper()
	o := &pebble.Options{Logger: quiet{}, MemTableSize: 16 << 20, MemTableStopWritesThreshold: 4, CacheSize: 96 << 20, FormatMajorVersion: pebble.FormatTableFormatV6}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return &rawStore{db: db}
}

// write gives the body of a block and 3 index keys a record to pebble, made
// before the clock starts, and returns its processor time in µs.
func (s *rawStore) write(b *testing.B, block *consortium.Block) float64 {
	b.Helper()
	s.height++
	var pairs [][2][]byte
	for i, st := range block.Body {
		value := consortium.EncodeBody(consortium.Body{st})
		pairs = append(pairs, [2][]byte{fmt.Appendf(nil, "b%08d%04d", s.height, i), value})
		for j := range st.Records {
			id := sha256.Sum256(fmt.Append(nil, s.height, i, j))
			pairs = append(pairs,
				[2][]byte{append([]byte("t"), id[:]...), id[:12]},
				[2][]byte{append([]byte("s"), id[:28]...), id[:]},
				[2][]byte{fmt.Appendf(nil, "a%032d%08d%04d", 0, s.height, j), id[:]})
		}
	}
	from := cpuTime(b)
	batch := s.db.NewBatchWithSize(int(block.Header.BodyBytes) + 256*int(block.Header.Records))
	var err error
	for _, p := range pairs {
		err = errors.Join(err, batch.Set(p[0], p[1], nil))
	}
	if err := errors.Join(err, batch.Commit(pebble.Sync), batch.Close()); err != nil {
		b.Fatal(err)
	}
	return cpuTime(b) - from
}

// cpuTime is the processor time of this process so far, in µs.
func cpuTime(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(time.Duration(u.Utime.Nano()+u.Stime.Nano()).Nanoseconds()) / 1e3
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
