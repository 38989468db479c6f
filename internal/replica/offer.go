package replica

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/mempool"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	offerTime = 10 * time.Second // for a whole offer, on both sides
	offerTo   = 4                // peers, where no validator is connected
)

// offer tells the validators of own records that are still not committed, for
// gossip may have lost them.
func (w *running) offer(ctx context.Context) error {
	sub := w.bus.Subscribe()
	defer sub.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var r rounds
	defer r.all.Wait()
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
				w.offerAll(ctx, &r, open)
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
func (w *running) stillOpen(due []own) (open []own) {
	var ended []event.RecordRejected
	epoch := w.ledger.Tip().Config.Epoch // before the rule is asked
	for _, o := range due {
		if e, over := w.endOf(o.id); over {
			w.offers.end(o.id, e.at, e.err)
			continue
		}
		if !w.pool.Has(o.id) { // it was dropped without our seeing why
			_, err := w.pool.Restore(o.raw)
			if bad, ok := errors.AsType[*consortium.RecordError](err); ok && bad.Reason != consortium.Duplicate {
				if mempool.Final(bad) {
					ended = append(ended, w.ending(o, bad))
				} else {
					w.offers.hold(o, epoch, bad)
				}
				continue
			}
		}
		open = append(open, o)
	}
	w.reject(ended...)
	return open
}

// ending is the final rejection of a record that this node accepted and that
// the rule refuses now.
func (r *Replica) ending(o own, bad *consortium.RecordError) event.RecordRejected {
	x := event.RecordRejected{ID: o.id, Reason: string(bad.Reason), Detail: bad.Detail, Height: r.ledger.Tip().Head.Height, Final: true}
	if rec, err := consortium.DecodeRecord(o.raw); err == nil {
		x.Author = hex.EncodeToString(rec.Author[:])
	}
	return x
}

// rounds are the offers under way, one a peer at most: who stalls holds up
// nobody else.
type rounds struct {
	all  sync.WaitGroup
	busy sync.Map // by peer.ID
}

// offerAll begins to offer records to every connected validator, or to 4 peers
// where there is none, and to none with which a round goes on.
func (w *running) offerAll(ctx context.Context, r *rounds, records []own) {
	var to, others []peer.ID
	for _, p := range w.services.Peers() {
		if p.Services&chain.Validator != 0 {
			to = append(to, p.ID)
		} else {
			others = append(others, p.ID)
		}
	}
	most := len(to)
	if most == 0 {
		to, most = others, offerTo
	}
	for _, p := range to {
		if most == 0 {
			return
		}
		if _, goes := r.busy.LoadOrStore(p, true); goes {
			continue
		}
		most--
		r.all.Go(func() {
			defer r.busy.Delete(p)
			err := w.offerOne(ctx, p, records)
			if bad, ok := errors.AsType[*chain.InvalidError](err); ok {
				w.services.Report(p, bad.Offence, "records: "+bad.Detail)
			} else if err != nil {
				w.log.Debug("offer not taken", "peer", p, "err", err)
			}
		})
	}
}

// offerOne offers records by their ids, and sends those that p lacks.
func (w *running) offerOne(ctx context.Context, p peer.ID, records []own) error {
	ctx, cancel := context.WithTimeout(ctx, offerTime)
	defer cancel()
	st, err := w.services.Open(ctx, p, w.recordsProtocol())
	if err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer unhook()
	if err := offerOver(st, records); err != nil {
		return errors.Join(err, st.Reset())
	}
	return st.Close()
}

func offerOver(st chain.Stream, records []own) error {
	if err := st.SetDeadline(time.Now().Add(offerTime)); err != nil {
		return err
	}
	held := make(map[chain.Hash][]byte, len(records))
	offer := wire.Offer{IDs: make([]chain.Hash, 0, len(records))}
	for _, o := range records {
		held[o.id] = o.raw
		offer.IDs = append(offer.IDs, o.id)
	}
	if err := wire.WriteFrame(st, offer.Encode()); err != nil {
		return err
	}
	frame, err := wire.ReadFrame(st, wire.MaxOffer)
	if err != nil {
		return wire.Fault(err)
	}
	want, err := wire.DecodeWant(frame)
	if err != nil {
		return wire.Fault(err)
	}
	var send [][]byte
	for _, id := range want.IDs {
		raw, ok := held[id]
		if !ok {
			return chain.Invalid(chain.Malformed, "record %s was wanted twice, or never offered", id)
		}
		delete(held, id)
		send = append(send, raw)
	}
	for _, f := range frameRecords(send) {
		if err := wire.WriteFrame(st, f); err != nil {
			return err
		}
	}
	return nil
}

// frameRecords packs records into frames of at most maxRecords bytes.
func frameRecords(records [][]byte) (frames [][]byte) {
	var batch [][]byte
	size := 0
	for _, raw := range records {
		if n := wire.RecordsSize(len(raw)); size+n > maxRecords {
			frames, batch, size = append(frames, wire.EncodeRecords(batch)), nil, 0
		}
		batch, size = append(batch, raw), size+wire.RecordsSize(len(raw))
	}
	if len(batch) > 0 {
		frames = append(frames, wire.EncodeRecords(batch))
	}
	return frames
}

// takeRecords serves /records/1: a peer offers ids of records that it holds and
// that are still not committed; we name those that we lack, and get them.
func (w *running) takeRecords(_ context.Context, st chain.Stream) error {
	if err := st.SetDeadline(time.Now().Add(offerTime)); err != nil {
		return err
	}
	frame, err := wire.ReadFrame(st, wire.MaxOffer)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return wire.Fault(err)
	}
	offer, err := wire.DecodeOffer(frame)
	if err != nil {
		return wire.Fault(err)
	}
	if !w.limits.allowOffer(st.Peer(), len(offer.IDs), time.Now()) {
		return fmt.Errorf("offer of %d ids by %s: over its rate: %w", len(offer.IDs), st.Peer(), chain.ErrUnready)
	}
	want := wire.Want{IDs: w.lacking(offer.IDs)}
	if err := wire.WriteFrame(st, want.Encode()); err != nil {
		return err
	}
	for left := len(want.IDs); left > 0; {
		frame, err := wire.ReadFrame(st, maxRecords)
		if errors.Is(err, io.EOF) { // it has found its end there meanwhile
			return nil
		}
		if err != nil {
			return wire.Fault(err)
		}
		records, err := wire.DecodeRecords(frame)
		if err != nil {
			return wire.Fault(err)
		}
		if left -= len(records); left < 0 {
			return chain.Invalid(chain.Malformed, "more records than the %d that were wanted", len(want.IDs))
		}
		if err := w.addAll(records, st.Peer()); err != nil && !errors.Is(err, chain.ErrKnown) {
			return err
		}
	}
	return nil
}

// lacking are the ids of records that this node has never seen the end of and
// does not hold, each once.
func (w *running) lacking(ids []chain.Hash) (lacks []chain.Hash) {
	seen := make(map[chain.Hash]struct{}, len(ids))
	for _, id := range ids {
		if _, twice := seen[id]; twice {
			continue
		}
		seen[id] = struct{}{}
		if w.pool.Has(id) || w.ledger.Committed(id) {
			continue
		}
		if _, ended := w.ledger.Rejected(id); !ended {
			lacks = append(lacks, id)
		}
	}
	return lacks
}
