package replica

import (
	"slices"
	"sync"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	offerFirst = 2 * time.Second  // after which an own record that is not committed is offered again
	offerMost  = 30 * time.Second // between offers of one record
	offerBytes = 2 << 20          // of records offered in one second: a peer may lack them all
	ownQueue   = 8192             // records between Submit and gossip; a full queue pushes back on Submit
)

// own is a record that a client gave to this node.
type own struct {
	id  chain.Hash
	raw []byte
}

// offers holds the records that this node took from clients, until they have
// their place in the chain, and who waits for that.
type offers struct {
	fresh    chan own
	rejected chan event.RecordRejected // final ones, to gossip

	mu      sync.Mutex // guards below
	waiters map[chain.Hash][]chan end
	open    map[chain.Hash]*offerOf
}

// end is how a record ended: its place, or its refusal.
type end struct {
	at  ledger.Position
	err error
}

type offerOf struct {
	raw  []byte
	wait time.Duration
	due  time.Time
	held *held // nil: it may be committed now
}

// held is why a record cannot be committed in this epoch, although it may be in
// a later one.
type held struct {
	epoch    uint64
	notAfter uint64
	refusal  *consortium.RecordError
}

func newOffers() *offers {
	return &offers{
		fresh: make(chan own, ownQueue), rejected: make(chan event.RecordRejected, rejectedMost),
		waiters: map[chain.Hash][]chan end{}, open: map[chain.Hash]*offerOf{},
	}
}

// wait returns a channel that gets the end of id.
func (o *offers) wait(id chain.Hash) (done <-chan end, forget func()) {
	c := make(chan end, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiters[id] = append(o.waiters[id], c)
	return c, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		rest := o.waiters[id][:0]
		for _, w := range o.waiters[id] {
			if w != c {
				rest = append(rest, w)
			}
		}
		if o.waiters[id] = rest; len(rest) == 0 {
			delete(o.waiters, id)
		}
	}
}

// end tells those who wait for id how it ended, and offers it no more.
func (o *offers) end(id chain.Hash, at ledger.Position, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, id)
	for _, w := range o.waiters[id] {
		select {
		case w <- end{at, err}:
		default: // told already
		}
	}
}

// add notes a record, and reports whether it is a new one.
func (o *offers) add(r own, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[r.id] != nil {
		return false
	}
	o.open[r.id] = &offerOf{raw: r.raw, wait: offerFirst, due: now.Add(offerFirst)}
	return true
}

// due takes the records to offer now, those that wait longest first, up to
// offerBytes and one message of ids, and doubles their wait. The others are due at the next tick.
func (o *offers) due(now time.Time) []own {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []own
	for id, f := range o.open {
		if f.held == nil && !now.Before(f.due) {
			list = append(list, own{id, f.raw})
		}
	}
	slices.SortFunc(list, func(a, b own) int { return o.open[a.id].due.Compare(o.open[b.id].due) })
	size := 0
	for i, r := range list {
		if size += len(r.raw); (size > offerBytes || i == wire.MaxOfferIDs) && i > 0 {
			return list[:i]
		}
		f := o.open[r.id]
		f.wait = min(2*f.wait, offerMost)
		f.due = now.Add(f.wait)
	}
	return list
}

// hurry makes every record that was offered before due again soon.
func (o *offers) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.open {
		if f.wait > offerFirst {
			f.wait, f.due = offerFirst, time.Time{}
		}
	}
}

// hold offers a record no more until the epoch changes.
func (o *offers) hold(r own, epoch uint64, refusal *consortium.RecordError) {
	rec, err := consortium.DecodeRecord(r.raw)
	if err != nil {
		return // it was decoded when it was accepted
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.open[r.id]; f != nil {
		f.held = &held{epoch: epoch, notAfter: rec.NotAfter, refusal: refusal}
	}
}

// heldBack tells why a record of this node is held, nil where it is not.
func (o *offers) heldBack(id chain.Hash) *consortium.RecordError {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.open[id]; f != nil && f.held != nil {
		return f.held.refusal
	}
	return nil
}

// find lists those of ids that are offered.
func (o *offers) find(ids []chain.Hash) (list []own) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		if f := o.open[id]; f != nil {
			list = append(list, own{id, f.raw})
		}
	}
	return list
}

// release makes the records that were held in another epoch due again, and
// lists the held ones that cannot be in the block at height, the next one.
func (o *offers) release(epoch, height uint64) (expired []own) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, f := range o.open {
		switch {
		case f.held == nil:
		case f.held.notAfter != 0 && f.held.notAfter < height:
			expired = append(expired, own{id, f.raw})
		case f.held.epoch != epoch:
			f.held, f.wait, f.due = nil, offerFirst, time.Time{}
		}
	}
	return expired
}

// unsettled lists every id that is waited for or offered.
func (o *offers) unsettled() []chain.Hash {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := make([]chain.Hash, 0, len(o.open)+len(o.waiters))
	for id := range o.open {
		ids = append(ids, id)
	}
	for id := range o.waiters {
		if o.open[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}
