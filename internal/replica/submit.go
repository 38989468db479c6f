package replica

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/mempool"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	batchWait      = 5 * time.Millisecond
	busyWait       = 20 * time.Millisecond
	rejectedRate   = 10   // messages a second on the topic rejected_tx
	rejectedMost   = 256  // of them that wait; they are hints, and more are not sent
	rejectedAtOnce = 1000 // final rejections in one batch on disk
	farBehind      = 100  // blocks; a node that lags more while it syncs takes no record
)

// ErrNoChain means that this node does not know its chain yet.
var ErrNoChain = errors.New("the chain is not known yet: no peer has answered with its genesis")

// Placed is how far a submitted record came.
type Placed struct {
	ID              chain.Hash
	ledger.Position // zero: accepted, and on its way
}

// Committed tells whether the record is in a block on this node's disk.
func (p Placed) Committed() bool { return p.Height > 0 }

// Submit puts a signed record into the pool and sends it to all. With wait it
// returns when the record is in a block on this node's disk, or when ctx ends
// or the node stops. Without an error the record is committed, or it is
// accepted: in the journal on disk, so that it will be committed or get one
// final rejection, whatever becomes of this process. The journal is written
// only before such an answer: a record that is committed in time needs none. A
// refusal is a *consortium.RecordError.
func (r *Replica) Submit(ctx context.Context, raw []byte, wait bool) (Placed, error) {
	p := r.live.Load()
	if p == nil {
		return Placed{}, ErrNoChain
	}
	id := consortium.RecordID(raw)
	placed := Placed{ID: id}
	var done <-chan end
	if wait { // before the record can be in a block
		var forget func()
		done, forget = p.offers.wait(id)
		defer forget()
	}
	err := chain.ErrKnown
	if p.offers.heldBack(id) == nil { // else it is ours, and waits for another epoch
		err = p.pool.AddOwn(id, raw)
	}
	var bad *consortium.RecordError
	switch {
	case err == nil, errors.Is(err, chain.ErrKnown): // known by gossip: from now on it is ours to offer
	case errors.As(err, &bad) && bad.Reason == consortium.Duplicate:
		placed.Position, err = r.ledger.Place(id)
		return placed, err
	default:
		return placed, err
	}
	if !wait {
		if full := r.ledger.Accept(id, raw); full != nil {
			if err == nil {
				p.pool.Remove(id)
			}
			return placed, full
		}
	}
	if errors.Is(err, chain.ErrKnown) { // its end may have been told before wait
		if e, over := r.endOf(id); over {
			placed.Position = e.at
			return placed, e.err
		}
	}
	if e, over := r.await(ctx, p, own{id, raw}, done); over {
		placed.Position = e.at
		return placed, e.err
	}
	if !wait {
		return placed, nil
	}
	if err := r.ledger.Accept(id, raw); err != nil {
		return placed, err
	}
	e, _ := r.endOf(id) // in the last moment
	placed.Position = e.at
	return placed, e.err
}

// await gossips and offers a record and then waits for its end, if done is not
// nil. over is false where ctx or the node came to its end first; the record is
// offered in any case.
func (r *Replica) await(ctx context.Context, p *parts, o own, done <-chan end) (e end, over bool) {
	gossip := p.offers.fresh
	if !p.offers.add(o, time.Now()) {
		gossip = nil // it was, when it was handed in before
	}
	for gossip != nil || done != nil {
		select {
		case gossip <- o:
			gossip = nil
		case e := <-done:
			return e, true
		case <-ctx.Done():
			return e, false
		case <-r.stopping:
			return e, false
		}
	}
	return e, false
}

// endOf tells the end of a record, if it has one.
func (r *Replica) endOf(id chain.Hash) (e end, over bool) {
	if at, err := r.ledger.Place(id); err == nil {
		return end{at: at}, true
	}
	if x, ok := r.ledger.Rejected(id); ok {
		return end{err: refusal(x)}, true
	}
	return end{}, false
}

// refusal is a final rejection as an error.
func refusal(x ledger.Rejection) error {
	return &consortium.RecordError{Reason: consortium.Reason(x.Reason), Detail: x.Detail}
}

// closed tells why clients have to go elsewhere now, or nil.
func (r *Replica) closed() error {
	select {
	case <-r.stopping:
		return consortium.Refuse(consortium.ShuttingDown, "this node is stopping: ask another one, or try again when it is back")
	default:
	}
	if r.behind.Load() {
		return consortium.Refuse(consortium.Syncing, "this node is more than %d blocks behind: ask another one, or try again when it has caught up", farBehind)
	}
	return r.disk.closed()
}

// readBack takes the records that were accepted in an earlier run: back into
// the pool and the offers, or to their end.
func (r *Replica) readBack(p *parts) error {
	open, epoch := 0, r.ledger.Tip().Config.Epoch
	err := r.ledger.Accepted(func(id chain.Hash, raw []byte) error {
		_, err := p.pool.Restore(raw)
		bad, refused := errors.AsType[*consortium.RecordError](err)
		if refused && bad.Reason != consortium.Duplicate && mempool.Final(bad) {
			p.ended = append(p.ended, r.ending(own{id, raw}, bad))
			return nil
		}
		open++
		p.offers.add(own{id, raw}, time.Now())
		if refused && bad.Reason != consortium.Duplicate {
			p.offers.hold(own{id, raw}, epoch, bad)
		}
		return nil
	})
	if open+len(p.ended) > 0 {
		r.log.Info("accepted records read back", "open", open, "ended", len(p.ended))
	}
	return err
}

// settleWaiters watches the chain for the records that somebody waits for. An
// event is a wake-up: where some were lost, the ledger is asked for each id.
func (w *running) settleWaiters(ctx context.Context) error {
	sub := w.bus.Subscribe()
	defer sub.Close()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	w.tellFinal(w.untold())
	w.reject(w.ended...)
	w.settleAll()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-sweep.C:
			state := w.Sync()
			w.behind.Store(state.State == chainsync.Syncing && state.LagBlocks > farBehind)
			w.sweep(now)
		case <-sub.Wake():
			events, lost := sub.Take(eventsAtOnce)
			if lost > 0 {
				w.settleAll()
			}
			var committed []chain.Hash
			for _, e := range events {
				if e, ok := e.Data.(event.RecordCommitted); ok {
					committed = append(committed, e.ID)
					w.offers.end(e.ID, ledger.Position{Height: e.Height, Index: uint32(e.Index)}, nil)
				}
			}
			w.pool.Remove(committed...)
		}
	}
}

// sweep ends or holds the records that the next block cannot have, and takes up
// those that were held in another epoch.
func (w *running) sweep(now time.Time) {
	tip := w.ledger.Tip() // before the rule is asked
	rejected, unlisted := w.pool.Sweep(tip.Head.Height+1, now)
	w.stillOpen(w.offers.find(unlisted))
	for _, o := range w.offers.release(tip.Config.Epoch, tip.Head.Height+1) {
		rejected = append(rejected, w.ending(o, &consortium.RecordError{Reason: consortium.Expired, Detail: "not_after has passed"}))
	}
	w.reject(rejected...)
}

// Held tells why a record that this node accepted cannot be committed in this
// epoch of the chain, although it may be in a later one; ok is false where
// nothing holds it.
func (r *Replica) Held(id chain.Hash) (why consortium.RecordError, ok bool) {
	p := r.live.Load()
	if p == nil {
		return why, false
	}
	if refusal := p.offers.heldBack(id); refusal != nil {
		return *refusal, true
	}
	return why, false
}

// reject ends records for good: on disk first, in one batch, then for who waits,
// by event and by gossip. What has another end already keeps that one.
func (w *running) reject(list ...event.RecordRejected) {
	for some := range slices.Chunk(list, rejectedAtOnce) { // blocks come between
		w.rejectSome(some)
	}
}

func (w *running) rejectSome(list []event.RecordRejected) {
	refused := make([]ledger.Refused, len(list))
	for i, x := range list {
		refused[i] = ledger.Refused{ID: x.ID, Reason: x.Reason, Detail: x.Detail, Author: x.Author}
	}
	fresh, err := w.ledger.Reject(refused...)
	if err != nil { // the journal and the offers still have them
		w.log.Error("rejections not kept", "records", len(list), "err", err)
		return
	}
	is := make(map[chain.Hash]struct{}, len(fresh))
	for _, x := range fresh {
		is[x.ID] = struct{}{}
	}
	var told []event.RecordRejected
	for _, x := range list {
		if _, ok := is[x.ID]; !ok {
			w.tellEnd(x.ID)
			continue
		}
		delete(is, x.ID)
		w.offers.end(x.ID, ledger.Position{}, &consortium.RecordError{Reason: consortium.Reason(x.Reason), Detail: x.Detail})
		told = append(told, x)
	}
	w.tellFinal(told)
}

// tellFinal tells of final rejections that are kept, by event and by gossip, and
// notes that they are told.
func (w *running) tellFinal(list []event.RecordRejected) {
	if len(list) == 0 {
		return
	}
	ids, events := make([]chain.Hash, len(list)), make([]event.Event, len(list))
	for i, x := range list {
		ids[i], events[i] = x.ID, x
		select {
		case w.offers.rejected <- x:
		default:
		}
	}
	w.bus.Publish(events...)
	if err := w.ledger.Told(ids...); err != nil {
		w.log.Error("final rejections will be told again after a restart", "records", len(ids), "err", err)
	}
}

// untold are the final rejections that an earlier run kept and did not tell.
func (w *running) untold() (list []event.RecordRejected) {
	for _, x := range w.ledger.TakeUntold() {
		list = append(list, event.RecordRejected{ID: x.ID, Reason: x.Reason, Detail: x.Detail, Height: x.Height, Author: x.Author, Final: true})
	}
	return list
}

// tellRejected gossips final rejections while this node is a validator. They
// are hints for others, and few.
func (w *running) tellRejected(ctx context.Context) error {
	pace := rate.NewLimiter(rejectedRate, rejectedRate)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-w.offers.rejected:
			if w.Role() != RoleValidator {
				continue
			}
			if err := pace.Wait(ctx); err != nil {
				return err
			}
			x := wire.RejectedTx{ID: e.ID, Reason: e.Reason, Detail: e.Detail, Height: e.Height}
			if key, err := consortium.ParsePublicKey(e.Author); err == nil {
				x.Author = key
			}
			w.publish(ctx, topicRejected, x.Encode())
		}
	}
}

// tellEnd tells the end of a record, if it has one, to who waits for it.
func (w *running) tellEnd(id chain.Hash) {
	if e, over := w.endOf(id); over {
		w.offers.end(id, e.at, e.err)
	}
}

func (w *running) settleAll() {
	for _, id := range w.offers.unsettled() {
		w.tellEnd(id)
	}
	for _, id := range w.pool.IDs() {
		if w.ledger.Committed(id) {
			w.pool.Remove(id)
		}
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
