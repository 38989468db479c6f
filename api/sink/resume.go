package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// This file is how a sink goes on behind a gap: the bus forgets, the ledger
// has every block.

// Chain is what the node's ledger has of the events that were published. It is
// safe for concurrent use, and holds up nobody who writes blocks.
type Chain interface {
	// StoredHead is the newest block on disk. All events of the blocks up to it
	// are published by now, or will be next.
	StoredHead() chain.Head
	// StoredEvents are block.stored of a block, and then record.committed of each
	// of its records. It is asked again after an error.
	StoredEvents(height uint64) ([]event.Event, error)
}

// wantsChain tells whether a sink wants what a ledger has.
func wantsChain(cfg config.Sink) bool {
	return cfg.Wants(event.BlockStored{}.Type()) || cfg.Wants(event.RecordCommitted{}.Type())
}

// beginChain goes on behind the last block of which the sink was told in an
// earlier start; one that is new begins with what is stored from now on.
func (k *sink) beginChain(last *position) {
	if k.chain == nil {
		return
	}
	head := k.chain.StoredHead()
	k.head, k.until = head, head
	if last != nil && last.Height != nil {
		switch told := (chain.Head{Height: *last.Height, Hash: last.Hash}); {
		case told.Height < head.Height:
			k.head = told
		case told.Height > head.Height:
			k.log.Warn("the ledger ends below what the sink was told of: it goes on with what is stored from now on", "told", told.Height, "height", head.Height)
		}
	}
	k.seen = k.head
}

// followChain goes on where the same sink came to in this start; nil = there
// was none. It is called after the sink knows behind which event it goes on.
func (k *sink) followChain(old *sink) {
	if k.chain == nil {
		return
	}
	k.head = k.chain.StoredHead()
	if old != nil && old.chain != nil {
		k.head, k.until, k.open = old.head, old.until, old.open
	}
	k.seen = k.head
}

// openBlock is a block of which some events are taken.
type openBlock struct {
	head    chain.Head
	records int // in the whole block
}

// track follows the chain in the events that are taken. It reports false for
// one that the ledger has told already.
func (k *sink) track(e event.Event) bool {
	if k.chain == nil {
		return true
	}
	switch e := e.(type) {
	case event.BlockStored:
		if e.Height <= k.seen.Height {
			return false
		}
		k.open = openBlock{chain.Head{Height: e.Height, Hash: e.Hash}, e.RecordCount}
		if e.RecordCount == 0 {
			k.seen = k.open.head
		}
	case event.RecordCommitted:
		if e.Height <= k.seen.Height {
			return false
		}
		if e.Height == k.open.head.Height && e.Index == k.open.records-1 {
			k.seen = k.open.head
		}
	}
	return true
}

// idOf is the same whenever an event is told, so that a message system drops
// what comes again soon.
func (k *sink) idOf(e event.Envelope) string {
	if k.chain != nil {
		switch d := e.Data.(type) {
		case event.BlockStored:
			return k.peer + "/block/" + d.Hash.String()
		case event.RecordCommitted:
			return k.peer + "/record/" + d.ID.String()
		}
	}
	return fmt.Sprintf("%s/%d", k.boot, e.Seq)
}

// replay tells the sink what the ledger has of the blocks up to k.until, for
// the bus has lost some of their events. It reports false when hard ended before.
func (k *sink) replay(hard context.Context) bool {
	if k.seen.Height >= k.until.Height {
		return true
	}
	k.log.Info("sink is told of blocks from the ledger", "from", k.seen.Height+1, "to", k.until.Height)
	var msgs []message
	for k.seen.Height < k.until.Height {
		events, ok := k.read(hard, k.seen.Height+1)
		if !ok {
			return false
		}
		stored := events[0].(event.BlockStored)
		if k.seen.Height > 0 && stored.PrevHash != k.seen.Hash {
			k.log.Warn("the ledger holds another chain than the sink was told of: it goes on with what is stored from now on", "height", k.until.Height)
			k.seen = k.until
			break
		}
		for i, e := range events {
			if i == len(events)-1 {
				k.seen = chain.Head{Height: stored.Height, Hash: stored.Hash}
			}
			if k.cfg.Wants(e.Type()) {
				m := k.message(event.Envelope{TS: time.Now(), Data: e})
				m.seq = k.taken
				msgs = append(msgs, m)
			}
			if len(msgs) == batch {
				if !k.deliver(hard, msgs) {
					return false
				}
				msgs = nil
			}
		}
	}
	if !k.deliver(hard, msgs) {
		return false
	}
	k.setDone(k.taken, k.seen)
	return true
}

// read tries until the events of a stored block can be read: one that the disk
// has damaged is mended from peers. It reports false when hard ended before.
func (k *sink) read(hard context.Context, height uint64) ([]event.Event, bool) {
	for hard.Err() == nil {
		events, err := k.chain.StoredEvents(height)
		if err == nil {
			k.recovered()
			return events, true
		}
		k.failed(fmt.Errorf("read block %d: %w", height, err))
		k.rest(hard)
	}
	return nil, false
}
