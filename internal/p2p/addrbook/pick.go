package addrbook

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxDraws  = 64     // before the search
	maxMisses = 1000   // in one draw
	maxSearch = 1024   // entries that one search looks at
	maxScan   = 16_384 // slots of a table that one search passes by
	agedMost  = 64     // of those that were good first; a random one of them, so that not all go to the same few
	agedFails = 3      // since the last success: it is likely gone, and its place is another's
	triedNow  = 10 * time.Minute
)

// AgedAfter is how long ago an aged peer was first good, at least.
const AgedAfter = 7 * 24 * time.Hour

// PickOptions narrow what Pick gives.
type PickOptions struct {
	Table Table // "" = either, one in two
	// Aged wants one of the 64 of tried that were good before all others, and at
	// least AgedAfter ago. An attack that came later has none of these, however
	// long it lasts and whatever it brings, as long as they answer.
	Aged bool
	// Skip leaves out what it reports true for. It is called while the book is
	// not locked, and may call it.
	Skip func(Entry) bool
	// Search is how many entries are looked at in turn once 64 draws found
	// nobody, 0 = 1024.
	Search int
	// Cursor has a search go on where the last one with it ended; nil = it
	// begins anywhere.
	Cursor *Cursor
}

// Cursor is how far the searches of one caller have come. The zero value begins.
type Cursor struct {
	next   [2]int // slot of new, and of tried
	rounds [2]int
}

// Rounds is how often both tables were gone through to their end.
func (c *Cursor) Rounds() int { return min(c.rounds[0], c.rounds[1]) }

// Pick draws a peer to dial: a random bucket and in it a random entry, so that
// who fills few buckets is drawn seldom. Who failed or was tried just now is
// less likely. Resting and banned peers are left out. It reports false when
// nobody is left, as far as it looked: a large book is searched in parts.
func (b *Book) Pick(o PickOptions) (Entry, bool) {
	if o.Aged {
		return b.pickAged(o)
	}
	for range maxDraws {
		e, ok := b.draw(o)
		if !ok {
			break
		}
		if b.takes(o, e) {
			return e, true
		}
	}
	for _, id := range b.search(o) {
		if e, ok := b.Get(id); ok && b.takes(o, e) {
			return e, true
		}
	}
	return Entry{}, false
}

func (b *Book) takes(o PickOptions, e Entry) bool {
	return !b.Banned(e) && (o.Skip == nil || !o.Skip(e))
}

// pickAged takes one at random; who was tried just now is the last choice.
func (b *Book) pickAged(o PickOptions) (Entry, bool) {
	now := time.Now()
	b.mu.Lock()
	list := b.aged(now)
	var ids, late []peer.ID
	for _, i := range b.rand.Perm(len(list)) {
		if e := list[i]; e.lastTry.ago(now, triedNow) {
			ids = append(ids, e.id)
		} else {
			late = append(late, e.id)
		}
	}
	b.mu.Unlock()
	for _, id := range append(ids, late...) {
		if e, ok := b.Get(id); ok && b.takes(o, e) {
			return e, true
		}
	}
	return Entry{}, false
}

// aged lists those of tried that were good first, the first one first.
func (b *Book) aged(now time.Time) []*entry { // mu held
	first := func(x, y *entry) int { return cmp.Or(cmp.Compare(x.firstGood, y.firstGood), cmp.Compare(x.id, y.id)) }
	list := make([]*entry, 0, agedMost+1)
	for _, e := range b.tried.slot {
		if e == nil || e.firstGood == 0 || !e.firstGood.ago(now, AgedAfter) || e.fails >= agedFails || e.resting(now) {
			continue
		}
		if len(list) == agedMost && first(e, list[agedMost-1]) > 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(list, e, first)
		list = slices.Insert(list, at, e)
		list = list[:min(len(list), agedMost)]
	}
	return list
}

// draw gives an entry that fits, with the chances of DEFENCE 3.
func (b *Book) draw(o PickOptions) (Entry, bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.chooseTable(o)
	if t.size == 0 {
		return Entry{}, false
	}
	likelier := 1.0
	for range maxMisses {
		e := t.draw(b.rand)
		if !e.resting(now) && b.rand.Float64() < e.chance(now)*likelier {
			return e.copy(), true
		}
		likelier *= 1.2
	}
	return Entry{}, false
}

func (b *Book) chooseTable(o PickOptions) *table { // mu held
	switch {
	case o.Table == New, o.Table == "" && b.tried.size == 0:
		return &b.fresh
	case o.Table == Tried, b.fresh.size == 0, b.rand.IntN(2) == 0:
		return &b.tried
	}
	return &b.fresh
}

// search gives the next peers that fit, each table's in random order, where
// either will do those of one before those of the other. It finds what draws did
// not: the one peer of a large book that Skip leaves, after some searches.
func (b *Book) search(o PickOptions) (found []peer.ID) {
	now := time.Now()
	limit := cmp.Or(o.Search, maxSearch)
	b.mu.Lock()
	defer b.mu.Unlock()
	c := o.Cursor
	if c == nil {
		c = &Cursor{next: [2]int{b.rand.IntN(len(b.fresh.slot)), b.rand.IntN(len(b.tried.slot))}}
	}
	order := []int{0, 1}
	if b.chooseTable(o) == &b.tried {
		order = []int{1, 0}
	}
	for _, i := range order {
		t := []*table{&b.fresh, &b.tried}[i]
		if o.Table != "" && (o.Table == Tried) != (t == &b.tried) {
			continue
		}
		from := len(found)
		for range min(len(t.slot), maxScan) {
			if len(found) == limit {
				break
			}
			at := c.next[i] % len(t.slot) // the tables may have grown
			if e := t.slot[at]; e != nil && !e.resting(now) && e.home() == int32(at) {
				found = append(found, e.id)
			}
			if c.next[i] = at + 1; c.next[i] == len(t.slot) {
				c.next[i] = 0
				c.rounds[i]++
			}
		}
		part := found[from:]
		b.rand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	return found
}
