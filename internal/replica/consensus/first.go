package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// This file is what comes before the first vote.

const (
	meetTime     = time.Second            // for a first validator to be ready
	meetEvery    = 50 * time.Millisecond  // between looks at who is ready
	tellFirst    = 5 * time.Second        // until the first line about who is missing
	tellEvery    = time.Minute            // between such lines
	fetchEvery   = 500 * time.Millisecond // between attempts to fetch a head that was shown
	eventsAtOnce = 1024
)

// others are the names of the validators of set but for us, by their peers.
func (e *Engine) others(validators []consortium.Validator) map[peer.ID]string {
	others := map[peer.ID]string{}
	for _, v := range validators {
		if id, err := v.Key.PeerID(); err == nil && v.Key != e.self {
			others[id] = v.Name
		}
	}
	return others
}

// meet waits a moment for another validator to be ready: who has just started
// has nobody yet to catch up with.
func (e *Engine) meet(ctx context.Context) {
	others := e.others(e.ledger.Tip().Config.Validators)
	if e.cfg.Heads == nil || len(others) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, meetTime)
	defer cancel()
	for ctx.Err() == nil {
		for id := range e.cfg.Heads() {
			if _, ok := others[id]; ok {
				return
			}
		}
		wait(ctx, nil, meetEvery)
	}
}

// firstVote holds a validator of the genesis that never voted on this store
// until every other one was seen without a block: it may have voted on a store
// that is lost. It comes before all else, for the others may make blocks as
// soon as they have seen us. A store that turns out to be a second one is
// marked as such, and openWAL refuses it. It returns false when ctx ended.
func (e *Engine) firstVote(ctx context.Context) (bool, error) {
	missing, err := e.unmet()
	if err != nil || len(missing) == 0 {
		return ctx.Err() == nil, err
	}
	sub, _ := e.bus.SubscribeSince(e.since)
	defer sub.Close()
	tell, fetch := time.Now().Add(tellFirst), time.Time{}
	for ctx.Err() == nil {
		met(sub, missing)
		shown := uint64(0)
		for id, head := range e.cfg.Heads() {
			if _, ok := missing[id]; ok && head == 0 {
				delete(missing, id)
			} else if ok {
				shown = max(shown, head)
			}
		}
		if len(missing) == 0 && e.ledger.Tip().Head.Height == 0 {
			return true, nil
		}
		now := time.Now()
		if shown > 0 && !now.Before(fetch) { // a claim, to be proven by the block
			e.sync(ctx)
			fetch = time.Now().Add(fetchEvery)
		}
		if height := e.ledger.Tip().Head.Height; height > 0 {
			return true, e.ledger.SetBorn(max(height, shown))
		}
		if !now.Before(tell) {
			e.log.Warn("first start of this validator: not voting before every validator of the genesis was seen without a block; start those that are missing",
				"missing", names(missing), "head_shown", shown)
			tell = now.Add(tellEvery)
		}
		wait(ctx, sub.Wake(), meetEvery)
	}
	return false, nil
}

// met takes those out of missing that had no block when we met them. The heads
// of now are not enough: the last one to see all the others would see blocks.
func met(sub *event.Subscription, missing map[peer.ID]string) {
	for {
		events, _ := sub.Take(eventsAtOnce)
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			if r, ok := e.Data.(event.PeerReady); ok && r.Height == 0 {
				delete(missing, r.Peer)
			}
		}
	}
}

// unmet are those that firstVote has to see, none where we may vote, or where
// openWAL knows better.
func (e *Engine) unmet() (map[peer.ID]string, error) {
	tip := e.ledger.Tip()
	genesis := tip.Genesis.Config
	_, member := genesis.Set().ByKey(e.self)
	if e.cfg.Heads == nil || e.cfg.SoleValidator || !member || len(genesis.Validators) < 2 {
		return nil, nil
	}
	if _, err := e.ledger.Mark(); !errors.Is(err, ledger.ErrNotFound) {
		return nil, err
	}
	born, err := e.ledger.Born()
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return nil, err
	}
	if born > 0 {
		return nil, nil
	}
	return e.others(genesis.Validators), nil
}

func names(of map[peer.ID]string) []string {
	var list []string
	for id, name := range of {
		list = append(list, fmt.Sprintf("%s (%s)", name, id))
	}
	slices.Sort(list)
	return list
}

// wait returns after d, on a sign, or when ctx ends.
func wait(ctx context.Context, sign <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-sign:
	case <-t.C:
	}
}
