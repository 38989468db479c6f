package replica

import (
	"context"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	offerWrite = 10 * time.Second // for one peer to take an offer
	batchWait  = 5 * time.Millisecond
	busyWait   = 20 * time.Millisecond
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
	case err == nil, errors.Is(err, chain.ErrKnown): // known by gossip: from now on it is ours to offer
		if !p.offers.add(own{id, raw}, time.Now()) {
			break
		}
		select {
		case p.offers.fresh <- own{id, raw}:
		case <-ctx.Done(): // not gossiped, but offered
			return id, ctx.Err()
		}
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
			for _, x := range w.pool.Sweep(w.ledger.Tip().Head.Height+1, now) {
				w.reject(x)
			}
		case <-sub.Wake():
			events, lost := sub.Take(eventsAtOnce)
			if lost > 0 {
				w.settleAll()
			}
			var committed []chain.Hash
			for _, e := range events {
				if e, ok := e.Data.(event.RecordCommitted); ok {
					committed = append(committed, e.ID)
					w.offers.end(e.ID, nil)
				}
			}
			w.pool.Remove(committed...)
		}
	}
}

// reject makes a final answer outlive a restart, and gives it to who waits.
func (w *running) reject(x event.RecordRejected) {
	if err := w.ledger.Reject(x.ID, x.Reason, x.Detail); err != nil {
		w.log.Warn("rejection not kept", "id", x.ID, "err", err)
	}
	w.offers.end(x.ID, &consortium.RecordError{Reason: consortium.Reason(x.Reason), Detail: x.Detail})
}

func (w *running) settleAll() {
	for _, id := range w.offers.unsettled() {
		if w.ledger.Committed(id) {
			w.offers.end(id, nil)
		} else if x, err := w.ledger.Rejection(id); err == nil && !w.pool.Has(id) {
			w.offers.end(id, &consortium.RecordError{Reason: consortium.Reason(x.Reason), Detail: x.Detail})
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
	sub := w.bus.Subscribe()
	defer sub.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sub.Wake():
			if validatorCame(sub) {
				w.offers.hurry()
			}
		case now := <-tick.C:
			if open := w.stillOpen(w.offers.due(now)); len(open) > 0 {
				w.offerTo(ctx, open)
			}
		}
	}
}

// validatorCame drains sub: has a validator become ready? It may have missed
// what was offered while it was away.
func validatorCame(sub *event.Subscription) bool {
	events, _ := sub.Take(eventsAtOnce)
	return slices.ContainsFunc(events, func(e event.Envelope) bool {
		p, ok := e.Data.(event.PeerReady)
		return ok && slices.Contains(p.Services, "validator")
	})
}

// stillOpen ends the offers of records that found their end, and lists the rest.
func (w *running) stillOpen(due []own) (open [][]byte) {
	for _, o := range due {
		if w.ledger.Committed(o.id) {
			w.offers.end(o.id, nil)
			continue
		}
		if !w.pool.Has(o.id) { // it was dropped without our seeing why
			_, err := w.pool.Add(o.raw, "")
			var bad *consortium.RecordError
			if errors.As(err, &bad) && final(bad.Reason) {
				w.refuse(o, bad)
				continue
			}
		}
		open = append(open, o.raw)
	}
	return open
}

// final tells whether a record that was good once and is refused for this reason
// can never be committed (LEDGER 5).
func final(r consortium.Reason) bool {
	switch r {
	case consortium.Expired, consortium.StaleConfig, consortium.NotAuthorised, consortium.UnknownAuthor:
		return true
	}
	return false
}

// refuse ends an own record for good, and tells of it.
func (w *running) refuse(o own, bad *consortium.RecordError) {
	x := event.RecordRejected{ID: o.id, Reason: string(bad.Reason), Detail: bad.Detail, Height: w.ledger.Tip().Head.Height}
	if r, err := consortium.DecodeRecord(o.raw); err == nil {
		x.Author = hex.EncodeToString(r.Author[:])
	}
	w.reject(x)
	w.bus.Publish(x)
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
