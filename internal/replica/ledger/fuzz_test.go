package ledger

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/parley-p2p/parley/consortium"
)

// FuzzStored: values of the store, which a bad disk or a backup may have
// changed, are read as they were written or not at all.
func FuzzStored(f *testing.F) {
	f.Add(appendSubtree(nil, consortium.Subtree{Records: [][]byte{{1}, {2, 3}}}))
	f.Add(storedTip{epoch: 3}.encode())
	f.Add(appendPlace(nil, Position{Height: 7, Index: 3}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, serr := parseSubtree(b)
		tip, terr := parseTip(b)
		p, perr := parsePlace(b)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
			t.Errorf("%d bytes took %d bytes of memory", len(b), n)
		}
		if serr == nil && !bytes.Equal(appendSubtree(nil, s), b) {
			t.Error("a subtree has two forms")
		}
		if terr == nil && !bytes.Equal(tip.encode(), b) {
			t.Error("a tip has two forms")
		}
		if perr == nil && !bytes.Equal(appendPlace(nil, p), b) {
			t.Error("a place has two forms")
		}
	})
}
