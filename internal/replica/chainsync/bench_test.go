package chainsync

import (
	"io"
	"net"
	"testing"

	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

const benchBlocks, benchRecords, benchSize = 64, 8, 60_000

func benchChain(b *testing.B) (*ledgertest.Chain, *ledger.Ledger, []*consortium.Block) {
	c := ledgertest.New(b, 4)
	full := openLedger(b, c, nil)
	var blocks []*consortium.Block
	for range benchBlocks {
		var records [][]byte
		for range benchRecords {
			records = append(records, c.Record("bench", make([]byte, benchSize)))
		}
		blocks = append(blocks, put(b, full, c.Next(records...)))
	}
	b.SetBytes(benchBlocks * benchRecords * benchSize)
	b.ReportAllocs()
	return c, full, blocks
}

// BenchmarkSync is a whole sync of 30 MiB in blocks of about 480 KiB from four
// peers. Its limits, of the same bytes: BenchmarkAppend, which checks and
// stores them, and BenchmarkCopy, which moves them through one pipe.
func BenchmarkSync(b *testing.B) {
	c, full, _ := benchChain(b)
	for b.Loop() {
		b.StopTimer()
		n := &lan{tb: b}
		newcomer := n.join(c, nil)
		for range 4 {
			n.join(c, full)
		}
		b.StartTimer()
		if err := newcomer.CatchUp(b.Context()); err != nil || newcomer.height() != benchBlocks {
			b.Fatal(err, newcomer.height())
		}
		n.wg.Wait()
	}
}

func BenchmarkAppend(b *testing.B) {
	c, _, blocks := benchChain(b)
	for b.Loop() {
		b.StopTimer()
		l := openLedger(b, c, nil)
		b.StartTimer()
		for _, block := range blocks {
			put(b, l, block)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	const total = benchBlocks * benchRecords * benchSize
	chunk := make([]byte, benchRecords*benchSize)
	b.SetBytes(total)
	for b.Loop() {
		r, w := net.Pipe()
		go func() {
			for range total / len(chunk) {
				_, _ = w.Write(chunk)
			}
			_ = w.Close()
		}()
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 32<<10)); err != nil {
			b.Fatal(err)
		}
	}
}
