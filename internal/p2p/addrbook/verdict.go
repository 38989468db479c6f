package addrbook

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxCollisions = 10
	stays         = 4 * time.Hour    // the old entry was good within it: no test
	testFor       = 60 * time.Second // a dial that has not ended well by then has not
	undecided     = 40 * time.Minute // then the newcomer wins
	testEvery     = 2 * time.Minute
)

// collision is a peer that we reached, and whose slot in tried is taken. Whose
// it is is found anew each time: it can change meanwhile.
type collision struct {
	id     peer.ID
	since  time.Time
	tested time.Time // when the old entry's test began; zero = not yet
	failed bool      // it ended badly
}

// Attempt is called before a dial.
func (b *Book) Attempt(id peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[id]; e != nil {
		e.lastTry = at(time.Now())
	}
}

// Seen says that id is connected now, whoever dialled.
func (b *Book) Seen(id peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[id]; e != nil {
		e.lastSeen = at(time.Now())
	}
}

// Good says that our own dial of addr reached id, and that identify and the
// handshake on our network ended well: the only way into tried. Where its slot
// there is taken, the other is tested first. addr may be nil for one that is
// not worth keeping; a peer that the book does not know needs it.
func (b *Book) Good(id peer.ID, addr ma.Multiaddr) {
	proved, ok := parse(addr, id)
	ok = ok && (proved.class == public || b.cfg.Private)
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	if e == nil {
		if !ok || id == b.cfg.Self {
			return
		}
		if e = b.adopt(id, proved, now); e == nil {
			return
		}
	}
	t := at(now)
	e.lastSeen, e.lastTry, e.lastGood, b.lastGood = t, t, t, t
	if e.firstGood == 0 {
		e.firstGood = t
	}
	e.fails, e.class, e.marks, e.notBefore = 0, "", 0, 0
	if ok && !b.prove(e, proved, now) {
		return // two others were reached at its address
	}
	if b.entries[id] != e || e.tried != none {
		b.settle(now)
		return
	}
	slot := b.triedSlot(id, e.group)
	if b.tried.slot[slot] == nil {
		b.promote(e, slot)
		b.unsaved = true
		return
	}
	if !slices.ContainsFunc(b.collisions, func(c collision) bool { return c.id == id }) && len(b.collisions) < maxCollisions {
		b.collisions = append(b.collisions, collision{id: id, since: now})
	}
	b.settle(now)
}

// adopt makes an entry of a peer that was dialled from elsewhere.
func (b *Book) adopt(id peer.ID, a address, now time.Time) *entry { // mu held
	e := &entry{id: id, tried: none, addrs: []address{a}, group: b.groupOf(a), firstSeen: at(now), firstGood: at(now)}
	src := Source{Kind: Operator}
	if len(b.room(e, src, known{id: id, addrs: e.addrs})) == 0 || !b.refer(e, src, now, true) {
		return nil
	}
	b.enter(e)
	return e
}

// prove puts the address that was reached first, which can move e to another
// group. It reports false where it has no room.
func (b *Book) prove(e *entry, a address, now time.Time) bool { // mu held
	if e.addrs[0] == a {
		return true
	}
	p := a.place()
	if at := b.places[p]; a.ip.IsValid() && !slices.Contains(at, e) && len(at) >= p.limit() &&
		!slices.ContainsFunc(at, func(o *entry) bool { return !o.provenAt(p) }) {
		return false
	}
	b.vacate(e)
	e.addrs = slices.Insert(slices.DeleteFunc(e.addrs, func(o address) bool { return o.raw == a.raw }), 0, a)
	e.addrs = e.addrs[:min(len(e.addrs), maxAddrs)]
	b.occupy(e)
	b.evictUnproven(e)
	b.regroup(e, now)
	return b.entries[e.id] == e
}

// Failed says that a dial of id did not end well. class is the dialer's. A
// failure counts only if anybody was good since the last one that counted: a
// node whose own line is down must not lose its book. Classes that do not mend
// themselves (identity, not_allowed) let the peer rest for an hour, doubling to
// a day; "self" forgets it.
func (b *Book) Failed(id peer.ID, class string) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	if e == nil {
		return
	}
	if class == "self" {
		b.forget(e)
		return
	}
	e.lastTry, e.class = at(now), class
	if e.counted <= b.lastGood {
		e.counted = at(now) + 1 // after a success of the same ms
		e.fails = min(e.fails+1, 1000)
	}
	if lasting[class] {
		e.mark(now, class)
	}
	for i := range b.collisions {
		c := &b.collisions[i]
		if n := b.entries[c.id]; n != nil && !c.tested.IsZero() && b.tried.slot[b.triedSlot(n.id, n.group)] == e {
			c.failed = true
		}
	}
	b.settle(now)
}

// WrongNetwork says that id answered and is of another network: it is not
// dialled, taken or given out for an hour, doubling to a day, and not charged.
func (b *Book) WrongNetwork(id peer.ID) { b.Failed(id, wrongClass) }

// Test gives the entry of tried that a newcomer wants to replace, when a test
// is due: one in two minutes. The caller dials it and answers by Good or Failed
// within 60 s; a peer that is connected by our own dial is Good without one.
func (b *Book) Test() (old Entry, ok bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now)
	if !b.lastTest.IsZero() && now.Sub(b.lastTest) < testEvery {
		return Entry{}, false
	}
	for i := range b.collisions {
		c := &b.collisions[i]
		if c.tested.IsZero() {
			n := b.entries[c.id]
			c.tested, b.lastTest = now, now
			return b.tried.slot[b.triedSlot(n.id, n.group)].copy(), true
		}
	}
	return Entry{}, false
}

// settle ends the collisions that are decided.
func (b *Book) settle(now time.Time) { // mu held
	b.collisions = slices.DeleteFunc(b.collisions, func(c collision) bool {
		e := b.entries[c.id]
		if e == nil || e.tried != none {
			return true
		}
		slot := b.triedSlot(e.id, e.group)
		old := b.tried.slot[slot]
		switch {
		case old == nil:
			b.promote(e, slot)
		case old.anchor, !old.lastGood.ago(now, stays):
			return true // it stays, the newcomer stays new
		case c.failed, !c.tested.IsZero() && now.Sub(c.tested) >= testFor, now.Sub(c.since) >= undecided:
			b.uproot(old)
			b.promote(e, slot)
			b.plant(old, now, true)
		default:
			return false
		}
		return true
	})
}
