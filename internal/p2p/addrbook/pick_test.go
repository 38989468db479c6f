package addrbook

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"pgregory.net/rapid"
)

// One source group reaches 64 of 1,024 buckets of new, one address group 8 of
// 256 of tried, however many addresses it has.
func TestReach(t *testing.T) {
	b := opened(t, Config{})
	b.mu.Lock()
	b.grown = true
	b.reset()
	b.mu.Unlock()
	for i := range 30_000 { // from one group, of all groups
		_ = b.tell(t, from(1, uint64(i)), fakeID(uint64(i)), tcp(ip4(i%9000, i/9000+1)))
	}
	used := len(b.fresh.full)
	if share := float64(used) / newBuckets; used > sourceReach || used < sourceReach/2 || share > .0625 {
		t.Errorf("one source group has %d buckets of new, %.2f %%", used, 100*share)
	}
	b.check(t)

	b = opened(t, Config{})
	b.grown = true
	b.reset()
	for i := range 5000 { // of one group, from all groups
		id, addr := fakeID(uint64(i)), tcp(ip4(3, i+1))
		_ = b.tell(t, from(i%3000, uint64(i)), id, addr)
		b.Good(id, ma.StringCast(addr))
	}
	used = len(b.tried.full)
	if share := float64(used) / triedBuckets; used > groupReach || used < 6 || share > .0313 {
		t.Errorf("one address group has %d buckets of tried, %.2f %%", used, 100*share)
	}
	if b.tried.size > groupReach*slots {
		t.Errorf("%d entries of one group in tried", b.tried.size)
	}
	b.check(t)
}

// The tables grow once, at 4,000, and lose one in twenty at most.
func TestGrow(t *testing.T) {
	b := opened(t, Config{})
	i := 0
	for ; len(b.entries) < growAt-1; i++ {
		id, addr := fakeID(uint64(i)), tcp(ip4(i%1000, i/1000+1))
		_ = b.tell(t, from(i%777, uint64(i)), id, addr)
		if i%10 == 0 {
			b.Good(id, ma.StringCast(addr))
		}
	}
	before := b.Stats()
	if before.Grown || b.fresh.buckets() != smallNew || b.tried.buckets() != smallTried {
		t.Fatalf("grown too early: %+v", before)
	}
	b.check(t)
	for ; !b.Stats().Grown; i++ {
		_ = b.tell(t, from(i%777, uint64(i)), fakeID(uint64(i)), tcp(ip4(i%1000, i/1000+1)))
	}
	after := b.Stats()
	if b.fresh.buckets() != newBuckets || b.tried.buckets() != triedBuckets || after.New+after.Tried < growAt*95/100 || after.Tried < before.Tried*90/100 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	b.check(t)
	for _, e := range b.Entries()[:2000] {
		b.Remove(e.ID)
	}
	if !b.Stats().Grown {
		t.Error("shrank")
	}
	b.check(t)
}

func TestChance(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		e    entry
		want float64
	}{
		{entry{}, 1}, {entry{fails: 1}, .66}, {entry{fails: 8}, math.Pow(.66, 8)}, {entry{fails: 50}, math.Pow(.66, 8)},
		{entry{lastTry: at(now.Add(-9 * time.Minute))}, .01}, {entry{lastTry: at(now.Add(-10 * time.Minute))}, 1},
	} {
		if got := c.e.chance(now); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("fails %d, tried %v: %v, want %v", c.e.fails, c.e.lastTry.time(), got, c.want)
		}
	}
}

// Half of the picks are tried ones; a hand with one bucket in a hundred gets
// one pick in a hundred; who failed comes seldom; nobody is never found.
func TestPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var outlaw peer.ID
		b := opened(t, Config{Banned: func(p peer.ID, _ netip.Addr) bool { return p == outlaw }})
		if _, ok := b.Pick(PickOptions{}); ok {
			t.Fatal("picked of an empty book")
		}
		for i := range 400 {
			id, addr := fakeID(uint64(i)), tcp(ip4(i, 1))
			if err := b.tell(t, from(1000+i, uint64(i)), id, addr); err == nil && i%8 == 0 {
				b.Good(id, ma.StringCast(addr))
			}
		}
		time.Sleep(time.Hour)
		tried, seen := 0, map[peer.ID]int{}
		for range 4000 {
			e, ok := b.Pick(PickOptions{})
			if !ok {
				t.Fatal("nobody")
			}
			tried += b2i(e.Table == Tried)
			seen[e.ID]++
		}
		if tried < 1850 || tried > 2150 || len(seen) < 340 {
			t.Errorf("%d of 4,000 from tried, %d peers in all", tried, len(seen))
		}
		for _, table := range []Table{New, Tried} {
			for range 200 {
				if e, ok := b.Pick(PickOptions{Table: table}); !ok || e.Table != table {
					t.Fatalf("picked %v %v of %s", e, ok, table)
				}
			}
		}
		if e, ok := b.Pick(PickOptions{Aged: true}); ok {
			t.Errorf("aged an hour after the first success: %+v", e)
		}
		time.Sleep(AgedAfter)
		if e, ok := b.Pick(PickOptions{Aged: true}); !ok || e.FirstGood.IsZero() {
			t.Errorf("aged after 7 d: %v %+v", ok, e)
		}
		only := fakeID(333) // one that draws hardly find
		if e, ok := b.Pick(PickOptions{Skip: func(e Entry) bool { b.Seen(e.ID); return e.ID != only }}); !ok || e.ID != only {
			t.Errorf("the one that is left is not found: %v", ok)
		}
		outlaw = only
		if e, ok := b.Pick(PickOptions{Skip: func(e Entry) bool { return e.ID != only }}); ok {
			t.Errorf("picked banned %s", e.ID)
		}
		id := fakeID(8)
		for range 8 {
			time.Sleep(time.Hour)
			b.Good(fakeID(16), nil)
			b.Failed(id, "timeout")
		}
		time.Sleep(time.Hour)
		n := 0
		for range 4000 {
			e, _ := b.Pick(PickOptions{Table: Tried})
			n += b2i(e.ID == id)
		}
		if n > 20 { // 1 in 50 without failures: 80
			t.Errorf("who failed 8 times was picked %d times", n)
		}
	})
}

// However many came later: aged are those that were good first, as long as they
// answer.
func TestAgedAreTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{})
		reach := func(n int) peer.ID {
			b.Good(fakeID(uint64(n)), ma.StringCast(tcp(ip4(n, 1))))
			return fakeID(uint64(n))
		}
		first := map[peer.ID]bool{}
		for n := range 20 {
			first[reach(n)] = true
		}
		time.Sleep(time.Hour)
		for n := 20; n < 20+2000; n++ {
			reach(n)
		}
		time.Sleep(AgedAfter)
		early := func() (n int) {
			for range 400 {
				e, ok := b.Pick(PickOptions{Aged: true})
				if !ok {
					t.Fatal("nobody is aged")
				}
				n += b2i(first[e.ID])
			}
			return n
		}
		// 20 of the 64 are; one in 100 of all
		if n := early(); n < 80 {
			t.Errorf("%d of 400 were good before the 2,000", n)
		}
		all := map[peer.ID]bool{}
		for range 2000 {
			e, _ := b.Pick(PickOptions{Aged: true})
			all[e.ID] = true
		}
		if len(all) != agedMost {
			t.Errorf("%d peers are aged, want %d", len(all), agedMost)
		}
		for id := range first {
			for range agedFails {
				time.Sleep(time.Second)
				b.Good(fakeID(1500), nil)
				b.Failed(id, "timeout")
			}
		}
		if n := early(); n > 0 {
			t.Errorf("%d of 400 do not answer any more", n)
		}
		only := fakeID(uint64(1999)) // in tried, and not among the first
		if e, ok := b.Pick(PickOptions{Aged: true, Skip: func(e Entry) bool { return e.ID != only }}); ok {
			t.Errorf("%s is not of the first", e.ID)
		}
	})
}

// step is one thing that happens to a book.
type step struct {
	what, from, source int
	own                bool
	id                 peer.ID
	addrs              []string
	class              string
	ids                []peer.ID
	hours              int
}

func steps() *rapid.Generator[[]step] {
	id := rapid.Map(rapid.Uint64Range(1, 60), fakeID)
	addr := rapid.Custom(func(r *rapid.T) string {
		g, h := rapid.IntRange(0, 5).Draw(r, "group"), rapid.IntRange(1, 12).Draw(r, "host")
		if rapid.IntRange(0, 5).Draw(r, "lan") == 0 {
			return tcp(netip.AddrFrom4([4]byte{10, 0, byte(g), byte(h)}))
		}
		return tcp(ip4(g, h))
	})
	return rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
		return step{
			what: rapid.IntRange(0, 11).Draw(r, "what"), from: rapid.IntRange(0, 3).Draw(r, "from"), source: rapid.IntRange(0, 3).Draw(r, "source"),
			own: rapid.Bool().Draw(r, "own"), id: id.Draw(r, "id"), addrs: rapid.SliceOfN(addr, 1, 10).Draw(r, "addrs"),
			class: rapid.SampledFrom([]string{"timeout", "refused", "identity", "self"}).Draw(r, "class"),
			ids:   rapid.SliceOfN(id, 0, 6).Draw(r, "ids"), hours: rapid.IntRange(1, 40*24).Draw(r, "hours"),
		}
	}), 1, 120)
}

// faults collects what a bubble finds: rapid's own T must stay outside of it.
type faults []string

func (f *faults) Errorf(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// play does one step, and gives the book that goes on.
func (s step) play(t *testing.T, b *Book, f *faults) *Book {
	t.Helper()
	switch s.what {
	default:
		src := from(s.from, uint64(s.source))
		if s.own {
			src.Kind, src.Peer = Inbound, s.id
		}
		_ = b.tell(t, src, s.id, s.addrs...)
	case 4, 5:
		b.Good(s.id, ma.StringCast(s.addrs[0]))
	case 6:
		b.Failed(s.id, s.class)
	case 7:
		b.Test()
	case 8:
		b.SetAnchors(s.ids)
	case 9:
		time.Sleep(time.Duration(s.hours) * time.Hour)
	case 10:
		b.Remove(s.id)
	case 11:
		if err := errors.Join(b.save(), b.saveAnchors()); err != nil {
			f.Errorf("%v", err)
		}
		had, anchors := len(b.entries), len(b.anchors)
		if b = opened(t, b.cfg); len(b.entries) != had || len(b.anchors) != anchors {
			f.Errorf("%d entries and %d anchors came back of %d and %d", len(b.entries), len(b.anchors), had, anchors)
		}
	}
	return b
}

// Whatever happens, in whatever order, the book holds its limits and finds
// what it holds.
func TestBookHolds(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		list, private, seed := steps().Draw(r, "steps"), rapid.Bool().Draw(r, "private"), rapid.Uint64().Draw(r, "seed")
		var f faults
		n++
		synctest.Test(t, func(t *testing.T) {
			b := opened(t, Config{Private: private, Sources: 2, Dir: filepath.Join(dir, strconv.Itoa(n))})
			b.seed(seed)
			for _, s := range list {
				b = s.play(t, b, &f)
				b.check(&f)
				if e, ok := b.Pick(PickOptions{}); ok && b.entries[e.ID] == nil {
					f.Errorf("picked %s, which is not there", e.ID)
				}
			}
		})
		for _, fault := range f {
			r.Error(fault)
		}
	})
}

// Searches with one cursor go through the whole book in parts, and say when they
// have: each entry is looked at, and of one search no more than was asked for.
func TestSearchGoesOn(t *testing.T) {
	for _, size := range []int{0, 300, 6000} {
		b := opened(t, Config{})
		for i := range size {
			id, addr := fakeID(uint64(i)), tcp(ip4(i%1000, i/1000+1))
			if err := b.tell(t, from(i%777, uint64(i)), id, addr); err == nil && i%3 == 0 {
				b.Good(id, ma.StringCast(addr))
			}
		}
		seen, cursor := map[peer.ID]bool{}, &Cursor{}
		for searches := 0; cursor.Rounds() < 2; searches++ {
			if searches > 1000 {
				t.Fatalf("%d entries: no end", size)
			}
			looked := 0
			_, ok := b.Pick(PickOptions{Search: 100, Cursor: cursor, Skip: func(e Entry) bool {
				looked++
				seen[e.ID] = true
				return true
			}})
			if ok || looked > maxDraws+100 {
				t.Fatalf("%d entries: %d were looked at, %v", size, looked, ok)
			}
		}
		if n := len(b.Entries()); len(seen) != n || n < size/2 {
			t.Errorf("%d of %d entries were looked at", len(seen), n)
		}
	}
}
