package ledger

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/parley-p2p/parley/chain"
)

// What is remembered agrees with the store at every moment, whatever blocks
// come between the parts of a look-up, and stays within its bounds.
func TestRecentIsTheStore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		start := rapid.Uint64Range(0, 5).Draw(rt, "start")
		r := newRecent(start)
		r.maxRecent, r.maxAbsent = 6, 4
		id := func(n int) chain.Hash { return chain.Hash{byte(n)} }
		store := map[chain.Hash]Position{}
		tip := start
		type lookUp struct {
			id     chain.Hash
			height uint64
			found  bool
			asked  bool
		}
		var open []*lookUp
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0: // a block
				var entries []entry
				for range rapid.IntRange(0, 3).Draw(rt, "records") {
					x := id(rapid.IntRange(0, 19).Draw(rt, "id"))
					if _, old := store[x]; old {
						continue
					}
					store[x] = Position{Height: tip + 1, Index: uint32(len(entries))}
					entries = append(entries, entry{id: x})
				}
				r.add(chain.Head{Height: tip + 1, Hash: chain.Hash{31: byte(tip + 1)}}, entries)
				tip++
				if len(r.committed) > r.maxRecent && len(r.blocks) > 1 {
					rt.Fatalf("%d ids of %d blocks are kept", len(r.committed), len(r.blocks))
				}
			case 1: // a look-up begins
				open = append(open, &lookUp{id: id(rapid.IntRange(0, 19).Draw(rt, "id")), height: tip})
			case 2: // the store answers
				for _, o := range open {
					if !o.asked {
						_, o.found = store[o.id]
						o.asked = true
						break
					}
				}
			case 3: // the answer is noted
				if len(open) > 0 && open[0].asked {
					if !open[0].found {
						r.missed(open[0].id, open[0].height)
					}
					open = open[1:]
				}
			}
			if len(r.absent) > r.maxAbsent || len(r.older) > r.maxAbsent {
				rt.Fatalf("%d and %d absent ids are kept", len(r.absent), len(r.older))
			}
			for n := range 20 {
				want, stored := store[id(n)]
				p, found, unsure := r.place(id(n))
				if hash, ok := r.block(p.Height); found && (!ok || hash != chain.Hash{31: byte(p.Height)}) {
					rt.Fatalf("id %d is at %d, whose hash is %s, known %v", n, p.Height, hash, ok)
				}
				if !unsure && found != stored || found && p != want {
					rt.Fatalf("id %d: found %v at %v, unsure %v; the store says %v at %v", n, found, p, unsure, stored, want)
				}
			}
		}
	})
}

// The common record is looked up in the store once.
func TestRecentRemembers(t *testing.T) {
	r := newRecent(7)
	a, b := chain.Hash{1}, chain.Hash{2}
	if _, _, unsure := r.place(a); !unsure {
		t.Fatal("an id that nobody looked up is known")
	}
	r.missed(a, 7)
	r.missed(b, 7)
	r.add(chain.Head{Height: 8, Hash: chain.Hash{31: 8}}, []entry{{id: b}})
	if _, found, unsure := r.place(a); found || unsure {
		t.Errorf("a is found %v, unsure %v; want absent for sure", found, unsure)
	}
	if p, found, unsure := r.place(b); !found || unsure || p != (Position{Height: 8}) {
		t.Errorf("b is at %v, found %v, unsure %v; want the block at 8", p, found, unsure)
	}
}

func BenchmarkRecentPlace(b *testing.B) {
	r := newRecent(0)
	ids := make([]chain.Hash, 1024)
	for i := range ids {
		ids[i] = chain.Hash{byte(i), byte(i >> 8)}
		r.missed(ids[i], 0)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, _, unsure := r.place(ids[i%len(ids)]); unsure {
			b.Fatal("unsure")
		}
		i++
	}
}
