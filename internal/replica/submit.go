package replica

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	offerFirst = 2 * time.Second  // after which an own record that is not committed is offered again
	offerMost  = 30 * time.Second // between offers of one record
	offerWrite = 10 * time.Second // for one peer to take an offer
	batchWait  = 5 * time.Millisecond
	busyWait   = 20 * time.Millisecond
	ownQueue   = 8192 // records between Submit and gossip; a full queue pushes back on Submit
)

// ErrNoChain means that this node does not know its chain yet.
var ErrNoChain = errors.New("the chain is not known yet: no peer has answered with its genesis")

// Submit puts a signed record into the pool and sends it to all. With wait it
// returns when the record is in a block on this node's disk. A refusal is a
// *consortium.RecordError; a ctx that ends while waiting gives ctx's error,
// and the record stays on its way.
func (r *Replica) Submit(ctx context.Context, raw []byte, wait bool) (chain.Hash, error) {
	p := r.live.Load()
	if p == nil {
		return chain.Hash{}, ErrNoChain
	}
	id := consortium.RecordID(raw)
	done, forget := p.offers.wait(id)
	defer forget()
	_, err := p.pool.Add(raw, "")
	var bad *consortium.RecordError
	switch {
	case err == nil:
		select {
		case p.offers.fresh <- own{id, raw}:
		case <-ctx.Done(): // the pool has it; tell of it when asked again
			return id, ctx.Err()
		}
	case errors.Is(err, chain.ErrKnown):
	case errors.As(err, &bad) && bad.Reason == consortium.Duplicate:
		return id, nil
	default:
		return id, err
	}
	if !wait || r.ledger.Committed(id) {
		return id, nil
	}
	select {
	case end := <-done:
		return id, end
	case <-ctx.Done():
		return id, ctx.Err()
	}
}

// own is a record that a client gave to this node.
type own struct {
	id  chain.Hash
	raw []byte
}

// offers holds the records that this node took from clients, until they have
// their place in the chain, and who waits for that.
type offers struct {
	fresh chan own

	mu      sync.Mutex // guards below
	waiters map[chain.Hash][]chan error
	open    map[chain.Hash]*offerOf
}

type offerOf struct {
	raw  []byte
	wait time.Duration
	due  time.Time
}

func newOffers() *offers {
	return &offers{fresh: make(chan own, ownQueue), waiters: map[chain.Hash][]chan error{}, open: map[chain.Hash]*offerOf{}}
}

// wait returns a channel that gets nil when id is committed, or its refusal.
func (o *offers) wait(id chain.Hash) (done <-chan error, forget func()) {
	c := make(chan error, 1)
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
func (o *offers) end(id chain.Hash, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, id)
	for _, w := range o.waiters[id] {
		select {
		case w <- err:
		default: // told already
		}
	}
}

func (o *offers) add(r own, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open[r.id] = &offerOf{raw: r.raw, wait: offerFirst, due: now.Add(offerFirst)}
}

// due takes the records to offer now, and doubles their wait.
func (o *offers) due(now time.Time) []own {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []own
	for id, f := range o.open {
		if now.Before(f.due) {
			continue
		}
		f.wait = min(2*f.wait, offerMost)
		f.due = now.Add(f.wait)
		list = append(list, own{id, f.raw})
	}
	return list
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

// settleWaiters watches the chain for the records that somebody waits for. An
// event is a wake-up: where some were lost, the ledger is asked for each id.
func (w *running) settleWaiters(ctx context.Context) error {
	sub := w.bus.Subscribe()
	defer sub.Close()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	w.settleAll()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-sweep.C:
			w.pool.Sweep(w.ledger.Tip().Head.Height+1, now)
		case <-sub.Wake():
			events, lost := sub.Take(eventsAtOnce)
			if lost > 0 {
				w.settleAll()
			}
			var committed []chain.Hash
			for _, e := range events {
				switch e := e.Data.(type) {
				case event.RecordCommitted:
					committed = append(committed, e.ID)
					w.offers.end(e.ID, nil)
				case event.RecordRejected:
					if e.Peer == "" {
						w.keepRejection(e)
						w.offers.end(e.ID, &consortium.RecordError{Reason: consortium.Reason(e.Reason), Detail: e.Detail})
					}
				}
			}
			w.pool.Remove(committed...)
		}
	}
}

// keepRejection makes a final answer outlive a restart.
func (w *running) keepRejection(e event.RecordRejected) {
	if err := w.ledger.Reject(e.ID, e.Reason, e.Detail); err != nil {
		w.log.Warn("rejection not kept", "id", e.ID, "err", err)
	}
}

func (w *running) settleAll() {
	for _, id := range w.offers.unsettled() {
		if w.ledger.Committed(id) {
			w.offers.end(id, nil)
		}
	}
	open := func(id chain.Hash) bool { return !w.ledger.Committed(id) }
	for _, raw := range w.pool.Next(w.pool.Len(), math.MaxInt, open) {
		w.pool.Remove(consortium.RecordID(raw))
	}
}

// spread gossips what clients gave to this node, in batches.
func (w *running) spread(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case first := <-w.offers.fresh:
			batch, rest := w.gather(ctx, first)
			for batch != nil {
				if err := w.gossipRecords(ctx, batch); err != nil {
					return err
				}
				batch = nil
				if rest != nil {
					batch, rest = w.gather(ctx, *rest)
				}
			}
		}
	}
}

// gather collects a batch that fits one message, and the first record that
// does not fit any more.
func (w *running) gather(ctx context.Context, first own) (batch [][]byte, rest *own) {
	w.offers.add(first, time.Now())
	batch = [][]byte{first.raw}
	size := 4 + len(first.raw)
	timer := time.NewTimer(batchWait)
	defer timer.Stop()
	for {
		select {
		case o := <-w.offers.fresh:
			if size+4+len(o.raw) > maxRecords {
				return batch, &o
			}
			w.offers.add(o, time.Now())
			size += 4 + len(o.raw)
			batch = append(batch, o.raw)
		case <-timer.C:
			return batch, nil
		case <-ctx.Done():
			return batch, nil
		}
	}
}

func (w *running) gossipRecords(ctx context.Context, batch [][]byte) error {
	data := wire.EncodeRecords(batch)
	for {
		err := w.services.Publish(ctx, topicRecord, data)
		if !errors.Is(err, chain.ErrBusy) {
			if err != nil && ctx.Err() == nil {
				w.log.Debug("records not gossiped; they are offered again", "records", len(batch), "err", err)
			}
			return ctx.Err()
		}
		select {
		case <-time.After(busyWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// offer sends own records that are still not committed straight to the
// validators, for gossip may have lost them.
func (w *running) offer(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			due := w.offers.due(now)
			var open [][]byte
			for _, o := range due {
				if w.ledger.Committed(o.id) {
					w.offers.end(o.id, nil)
					continue
				}
				if !w.pool.Has(o.id) {
					_, _ = w.pool.Add(o.raw, "") // a full pool or an epoch may have dropped it
				}
				open = append(open, o.raw)
			}
			if len(open) > 0 {
				w.offerTo(ctx, open)
			}
		}
	}
}

// offerTo sends records to every connected validator, or to 4 peers where
// there is none.
func (w *running) offerTo(ctx context.Context, records [][]byte) {
	var to, others []peer.ID
	for _, p := range w.services.Peers() {
		if p.Services&chain.Validator != 0 {
			to = append(to, p.ID)
		} else if len(others) < 4 {
			others = append(others, p.ID)
		}
	}
	if len(to) == 0 {
		to = others
	}
	frames := frameRecords(records)
	var wg sync.WaitGroup
	for _, p := range to {
		wg.Go(func() {
			if err := w.sendRecords(ctx, p, frames); err != nil {
				w.log.Debug("offer not taken", "peer", p, "err", err)
			}
		})
	}
	wg.Wait()
}

func frameRecords(records [][]byte) (frames [][]byte) {
	var batch [][]byte
	size := 0
	for _, raw := range records {
		if size+4+len(raw) > maxRecords && len(batch) > 0 {
			frames, batch, size = append(frames, wire.EncodeRecords(batch)), nil, 0
		}
		batch, size = append(batch, raw), size+4+len(raw)
	}
	return append(frames, wire.EncodeRecords(batch))
}

func (w *running) sendRecords(ctx context.Context, p peer.ID, frames [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, offerWrite)
	defer cancel()
	st, err := w.services.Open(ctx, p, w.recordsProtocol())
	if err != nil {
		return err
	}
	if err := st.SetDeadline(time.Now().Add(offerWrite)); err != nil {
		return errors.Join(err, st.Reset())
	}
	for _, f := range frames {
		if err := wire.WriteFrame(st, f); err != nil {
			return errors.Join(err, st.Reset())
		}
	}
	return st.Close()
}
