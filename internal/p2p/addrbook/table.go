package addrbook

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	slots        = 64 // of a bucket
	newBuckets   = 1024
	triedBuckets = 256
	smallNew     = 256 // of a small book: in a wide table an entry alone in its bucket is drawn far too often
	smallTried   = 64
	growAt       = 4000 // entries
	sourceReach  = 64   // buckets of new that one source group reaches: 6.25 %
	groupReach   = 8    // buckets of tried that one address group reaches: 3.1 %
	saltSize     = 32
)

// table is one half of the book. It knows its buckets that are not empty, so
// that a draw never searches.
type table struct {
	slot []*entry
	used []uint8 // entries of a bucket
	full []int32 // buckets that are not empty, in no order
	at   []int32 // place of a bucket in full, or none
	size int
}

func newTable(buckets int) table {
	t := table{slot: make([]*entry, buckets*slots), used: make([]uint8, buckets), at: make([]int32, buckets)}
	for i := range t.at {
		t.at[i] = none
	}
	return t
}

func (t *table) buckets() int { return len(t.used) }

// put needs an empty slot.
func (t *table) put(slot int32, e *entry) {
	t.slot[slot] = e
	t.size++
	b := slot / slots
	if t.used[b]++; t.used[b] == 1 {
		t.at[b] = int32(len(t.full))
		t.full = append(t.full, b)
	}
}

// clear needs a slot that is not empty.
func (t *table) clear(slot int32) {
	t.slot[slot] = nil
	t.size--
	b := slot / slots
	if t.used[b]--; t.used[b] == 0 {
		last := t.full[len(t.full)-1]
		t.full[t.at[b]], t.at[last] = last, t.at[b]
		t.full, t.at[b] = t.full[:len(t.full)-1], none
	}
}

// draw gives a random entry: a random bucket that is not empty, and in it the
// first entry from a random slot on. The table MUST hold one.
func (t *table) draw(r *rand.Rand) *entry {
	b := t.full[r.IntN(len(t.full))]
	for from, i := r.IntN(slots), 0; ; i++ {
		if e := t.slot[int(b)*slots+(from+i)%slots]; e != nil {
			return e
		}
	}
}

// keyed gives places that nobody can foresee without the salt.
type keyed struct {
	mac hash.Hash
	in  []byte
	out []byte
}

func newKeyed(salt []byte) keyed { return keyed{mac: hmac.New(sha256.New, salt)} }

// sum is HMAC-SHA-256 over the parts, each after its length, cut to 8 bytes.
func (k *keyed) sum(what byte, n uint64, parts ...string) uint64 {
	k.in = binary.BigEndian.AppendUint64(append(k.in[:0], what), n)
	for _, p := range parts {
		k.in = append(binary.BigEndian.AppendUint16(k.in, uint16(len(p))), p...)
	}
	k.mac.Reset()
	k.mac.Write(k.in) // never fails
	k.out = k.mac.Sum(k.out[:0])
	return binary.BigEndian.Uint64(k.out)
}

// newSlot is the place that a source of sourceGroup gives a peer in new.
func (b *Book) newSlot(id peer.ID, group, sourceGroup string) int32 {
	reach := b.key.sum('g', 0, group, sourceGroup) % sourceReach
	bucket := b.key.sum('n', reach, sourceGroup) % uint64(b.fresh.buckets())
	return int32(bucket*slots + b.key.sum('N', bucket, string(id))%slots)
}

// triedSlot is the one place of a peer in tried.
func (b *Book) triedSlot(id peer.ID, group string) int32 {
	reach := b.key.sum('p', 0, string(id)) % groupReach
	bucket := b.key.sum('t', reach, group) % uint64(b.tried.buckets())
	return int32(bucket*slots + b.key.sum('T', bucket, string(id))%slots)
}

// refer gives e one more place in new, that of a source. A newcomer whose
// place is taken is dropped, unless the other may be replaced, or force says
// that e is worth more than whoever is there. Anchors always stay.
func (b *Book) refer(e *entry, s Source, now time.Time, force bool) bool {
	group := b.sourceGroup(s)
	slot := b.newSlot(e.id, e.group, group)
	if other := b.fresh.slot[slot]; other != nil {
		if other == e || other.anchor || !force && !other.replaceable(now) {
			return other == e
		}
		b.unrefer(other, slot)
	}
	b.fresh.put(slot, e)
	e.refs = append(e.refs, ref{Source: s, group: group, slot: slot})
	b.live[s.Peer]++
	return true
}

// unrefer takes one place in new from e, and e from the book with the last.
func (b *Book) unrefer(e *entry, slot int32) {
	if i := slices.IndexFunc(e.refs, func(r ref) bool { return r.slot == slot }); i >= 0 {
		b.dropRef(e, i)
	}
	if e.tried == none && !slices.ContainsFunc(e.refs, func(r ref) bool { return r.slot != none }) {
		b.forget(e)
	}
}

func (b *Book) dropRef(e *entry, i int) {
	b.unplace(&e.refs[i])
	e.refs = slices.Delete(e.refs, i, i+1)
}

// unplace empties the place of r; the source is kept.
func (b *Book) unplace(r *ref) {
	if r.slot == none {
		return
	}
	b.fresh.clear(r.slot)
	r.slot = none
	if b.live[r.Peer]--; b.live[r.Peer] <= 0 {
		delete(b.live, r.Peer)
	}
}

// promote puts e into its slot of tried, which MUST be empty.
func (b *Book) promote(e *entry, slot int32) {
	for i := range e.refs {
		b.unplace(&e.refs[i])
	}
	b.uncount(e)
	b.tried.put(slot, e)
	e.tried = slot
	b.count(e)
}

// uproot takes e out of both tables. Its sources are kept, without places.
func (b *Book) uproot(e *entry) {
	for i := range e.refs {
		b.unplace(&e.refs[i])
	}
	if e.tried != none {
		b.uncount(e)
		b.tried.clear(e.tried)
		e.tried = none
		b.count(e)
	}
}

// plant puts an uprooted e where its sources give it a place in new, or where
// it has one as its own source, and forgets it where there is none. force takes
// the places of all but anchors: e was good once.
func (b *Book) plant(e *entry, now time.Time, force bool) {
	refs := e.refs
	e.refs = make([]ref, 0, max(1, len(refs)))
	for _, r := range refs {
		b.refer(e, r.Source, now, force)
	}
	if len(refs) == 0 {
		b.refer(e, Source{Kind: Inbound, Peer: e.id, IP: e.addrs[0].ip}, now, force)
	}
	if len(e.refs) == 0 {
		b.forget(e)
	}
}

// enter makes e known: by its id, its group and its places.
func (b *Book) enter(e *entry) {
	b.entries[e.id] = e
	b.count(e)
	b.occupy(e)
}

// forget takes e out of everything.
func (b *Book) forget(e *entry) {
	for i := range e.refs {
		b.unplace(&e.refs[i])
	}
	b.uncount(e)
	if e.tried != none {
		b.tried.clear(e.tried)
		e.tried = none
	}
	b.vacate(e)
	if b.entries[e.id] == e {
		delete(b.entries, e.id)
	}
}

func (b *Book) count(e *entry) { b.groups[e.table()][e.group]++ }

func (b *Book) uncount(e *entry) {
	in := b.groups[e.table()]
	if in[e.group]--; in[e.group] <= 0 {
		delete(in, e.group)
	}
}

// occupy and vacate keep who is at which IP.
func (b *Book) occupy(e *entry) {
	for _, a := range e.addrs {
		if p := a.place(); a.ip.IsValid() && !slices.Contains(b.places[p], e) {
			b.places[p] = append(b.places[p], e)
		}
	}
}

func (b *Book) vacate(e *entry) {
	for _, a := range e.addrs {
		p := a.place()
		at := b.places[p]
		if i := slices.Index(at, e); i >= 0 {
			if at = slices.Delete(at, i, i+1); len(at) == 0 {
				delete(b.places, p)
			} else {
				b.places[p] = at
			}
		}
	}
}

// grow widens the tables once the book is large, and puts everything anew.
func (b *Book) grow(now time.Time) {
	if b.grown || len(b.entries) < growAt {
		return
	}
	all := make([]*entry, 0, len(b.entries))
	for _, e := range b.entries {
		all = append(all, e)
	}
	b.grown = true
	b.refill(all, now)
	b.log.Info("address book grew", "entries", len(b.entries))
}

// refill makes the tables and puts all into them. Places are found anew, by
// worth; what finds none in tried goes to new, and what finds
// none there is gone.
func (b *Book) refill(all []*entry, now time.Time) {
	b.reset()
	slices.SortFunc(all, worth)
	for _, e := range all {
		wasTried := e.tried != none
		e.tried = none
		for i := range e.refs {
			e.refs[i].slot = none
			e.refs[i].group = b.sourceGroup(e.refs[i].Source)
		}
		if !b.admit(e) {
			continue
		}
		b.enter(e)
		if slot := b.triedSlot(e.id, e.group); wasTried && b.tried.slot[slot] == nil {
			b.promote(e, slot)
		} else {
			b.plant(e, now, false)
		}
	}
}

// worth puts first whom the book would miss most.
func worth(x, y *entry) int {
	return cmp.Or(b2i(y.anchor)-b2i(x.anchor), b2i(y.tried != none)-b2i(x.tried != none),
		cmp.Compare(y.lastGood, x.lastGood), cmp.Compare(y.lastSeen, x.lastSeen), cmp.Compare(x.id, y.id))
}

// admit reads group and limits of an entry anew, for a book that is filled.
func (b *Book) admit(e *entry) bool {
	addrs := e.addrs[:0:0]
	for _, a := range e.addrs {
		if p := a.place(); !a.ip.IsValid() || len(b.places[p]) < p.limit() {
			addrs = append(addrs, a)
		}
	}
	if e.addrs = addrs; len(addrs) == 0 {
		return false
	}
	e.group = b.groupOf(addrs[0])
	return true
}

// reset empties the tables and what counts them.
func (b *Book) reset() {
	n, t := smallNew, smallTried
	if b.grown {
		n, t = newBuckets, triedBuckets
	}
	b.fresh, b.tried = newTable(n), newTable(t)
	b.entries = map[peer.ID]*entry{}
	b.live = map[peer.ID]int{}
	b.places = map[place][]*entry{}
	b.groups = map[Table]map[string]int{New: {}, Tried: {}}
}
