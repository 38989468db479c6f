package addrbook

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxDraws  = 64   // before the search
	maxMisses = 1000 // in one draw
	maxSearch = 4096 // entries that one search looks at
)

// AgedAfter is how long ago a peer was first good that counts as aged.
const AgedAfter = 7 * 24 * time.Hour

// PickOptions narrow what Pick gives.
type PickOptions struct {
	Table Table // "" = either, one in two
	// Aged wants only who was first good AgedAfter ago: an attack that
	// is younger than that has none.
	Aged bool
	// Skip leaves out what it reports true for. It is called while the book is
	// not locked, and may call it.
	Skip func(Entry) bool
}

// Pick draws a peer to dial: a random bucket and in it a random entry, so that
// who fills few buckets is drawn seldom. Who failed or was tried just now is
// less likely. Resting and banned peers are left out. It reports false when
// nobody is left.
func (b *Book) Pick(o PickOptions) (Entry, bool) {
	for range maxDraws {
		e, ok := b.draw(o)
		if !ok {
			break
		}
		if b.takes(o, e) {
			return e, true
		}
	}
	for _, id := range b.shuffled(o) {
		if e, ok := b.Get(id); ok && b.takes(o, e) {
			return e, true
		}
	}
	return Entry{}, false
}

func (b *Book) takes(o PickOptions, e Entry) bool {
	return !b.Banned(e) && (o.Skip == nil || !o.Skip(e))
}

// fits judges what needs no lock to be let go.
func (o PickOptions) fits(e *entry, now time.Time) bool {
	return !e.resting(now) && (!o.Aged || e.firstGood != 0 && e.firstGood.ago(now, AgedAfter))
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
		if o.fits(e, now) && b.rand.Float64() < e.chance(now)*likelier {
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
	case o.Table == Tried, o.Aged, b.fresh.size == 0, b.rand.IntN(2) == 0: // few of new were ever good
		return &b.tried
	}
	return &b.fresh
}

// shuffled gives the peers that fit in random order, where either table will
// do those of one before those of the other. It finds what draws did not: the
// one peer of a large book that Skip leaves.
func (b *Book) shuffled(o PickOptions) []peer.ID {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	var first, second []peer.ID
	front := b.chooseTable(o) == &b.tried
	for _, t := range []*table{&b.tried, &b.fresh} {
		if o.Table != "" && (o.Table == Tried) != (t == &b.tried) {
			continue
		}
		list := &second
		if front == (t == &b.tried) {
			list = &first
		}
		for slot, e := range t.slot {
			if e != nil && o.fits(e, now) && e.home() == int32(slot) {
				*list = append(*list, e.id)
			}
		}
	}
	b.rand.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
	b.rand.Shuffle(len(second), func(i, j int) { second[i], second[j] = second[j], second[i] })
	all := append(first, second...)
	return all[:min(len(all), maxSearch)]
}
