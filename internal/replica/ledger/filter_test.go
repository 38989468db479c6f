package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/parley-p2p/parley/chain"
)

// Lacks reports whether the filter of ids answers that the chain lacks id.
func (l *Ledger) Lacks(id chain.Hash) bool { return l.ids.lacks(id) }

func numbered(n int) chain.Hash {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// An id that was added is never lacking, through all growth, and hardly any
// other one is taken for one of them.
func TestFilter(t *testing.T) {
	const n, others = 6 * filterFirst, 100_000 // into the third part
	var f idFilter
	f.ready.Store(true)
	if !f.lacks(numbered(0)) {
		t.Error("an empty filter has an id")
	}
	for i := range n {
		f.add(numbered(i))
		if f.lacks(numbered(i)) {
			t.Fatalf("id %d is lacking once it is there", i)
		}
	}
	for i := range n {
		if f.lacks(numbered(i)) {
			t.Fatalf("id %d is lacking later", i)
		}
	}
	vain := 0
	for i := range others {
		if !f.lacks(numbered(n + i)) {
			vain++
		}
	}
	if vain > others/40 {
		t.Errorf("%d of %d look-ups are in vain", vain, others)
	}
	f.ready.Store(false)
	if f.lacks(numbered(n)) {
		t.Error("a filter that is not ready knows what is lacking")
	}
}

// With all parts full the filter keeps its size and its promise.
func TestFilterFull(t *testing.T) {
	var f idFilter
	f.ready.Store(true)
	parts := make([]*filterPart, filterParts)
	for i := range parts {
		parts[i] = &filterPart{make([][8]uint64, 4)}
	}
	f.parts.Store(&parts)
	for i := range 1000 {
		f.add(numbered(i))
		for j := range i + 1 {
			if f.lacks(numbered(j)) {
				t.Fatalf("id %d is lacking behind id %d", j, i)
			}
		}
	}
	if n := len(*f.parts.Load()); n != filterParts {
		t.Errorf("%d parts, want %d", n, filterParts)
	}
}

func BenchmarkFilter(b *testing.B) {
	var f idFilter
	f.ready.Store(true)
	for i := range 1 << 20 {
		f.add(numbered(i))
	}
	ids := make([]chain.Hash, 1<<12)
	for i := range ids {
		ids[i] = numbered(-1 - i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f.lacks(ids[i%len(ids)])
		i++
	}
}
