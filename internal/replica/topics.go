package replica

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	topicBlock    = "block"
	topicRecord   = "record"
	topicSubtree  = "subtree"
	topicMiningOn = "mining_on"
	topicRejected = "rejected_tx"

	maxRecords = 256 << 10 // bytes of one message of records
	// recordsAtOnce are verified together: a bad one costs so many checks, and
	// of the inversion that they share hardly a thing is left for each.
	recordsAtOnce = 32

	// subtreeRate is how many subtrees a second a leader may tell of: at an
	// interval of 20 ms it makes 50 blocks, and those of 500 records have two.
	subtreeRate = 100
)

// topics are the chain's own; limits as in INTERFACES 7.
func (w *running) topics() []chain.Topic {
	return []chain.Topic{
		{Name: topicBlock, MaxBytes: 32 << 10, Validate: w.onBlock},
		{Name: topicRecord, MaxBytes: maxRecords, Validate: w.onRecords},
		{Name: topicSubtree, MaxBytes: 16 << 10, Claim: true, Rate: subtreeRate, Validate: w.fromValidator(w.onSubtree)},
		{Name: topicMiningOn, MaxBytes: 2 << 10, Claim: true, Rate: 10, Validate: w.fromValidator(w.onMiningOn)},
		{Name: topicRejected, MaxBytes: 1 << 10, Claim: true, Rate: 10, Validate: w.fromValidator(w.onRejected)},
	}
}

func (w *running) protocols() []chain.Protocol {
	return []chain.Protocol{
		{ID: protocolGenesis, MaxStreams: 1, Handle: w.serveGenesis},
		{ID: w.recordsProtocol(), MaxStreams: 4, Handle: w.takeRecords},
		{ID: consensus.Protocol(w.net), MaxStreams: 2, Handle: w.engine.Handle},
		w.syncer.Protocol(),
	}
}

func (w *running) recordsProtocol() string { return "/parley/" + w.net + "/records/1" }

func (w *running) onBlock(ctx context.Context, m chain.Message) error {
	a, err := wire.DecodeBlockAnnouncement(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	if m.From == w.services.Self() {
		return nil
	}
	return w.syncer.Announced(ctx, m.From, a)
}

func (w *running) onRecords(_ context.Context, m chain.Message) error {
	records, err := wire.DecodeRecords(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	if m.From == w.services.Self() {
		return nil // they came out of our own pool
	}
	return w.addAll(records, m.From)
}

// addAll puts records that came from a peer into the pool. One bad record
// spoils the message; one new one makes it worth relaying.
func (w *running) addAll(records [][]byte, from peer.ID) error {
	bytes := 0
	for _, raw := range records {
		bytes += len(raw)
	}
	if !w.limits.allow(from, len(records), bytes, time.Now()) {
		return fmt.Errorf("records of %s: over its rate: %w", from, chain.ErrUnready)
	}
	verdict := chain.ErrKnown
	for some := range slices.Chunk(records, recordsAtOnce) {
		for _, err := range w.pool.AddAll(some, from) {
			var bad *consortium.RecordError
			switch {
			case err == nil:
				verdict = nil
			case errors.Is(err, chain.ErrKnown):
			case errors.As(err, &bad):
				if o, guilty := guilt(bad.Reason); guilty {
					return chain.Invalid(o, "record: %s", bad.Detail)
				}
			default:
				return err
			}
		}
	}
	return verdict
}

// guilt tells whether a refusal is the sender's fault, whatever our state.
func guilt(r consortium.Reason) (chain.Offence, bool) {
	switch r {
	case consortium.Malformed, consortium.BadSubject, consortium.BadMediaType, consortium.BadSignature:
		return chain.InvalidTx, true
	case consortium.TooLarge:
		return chain.Oversize, true
	}
	return "", false
}

// fromValidator drops claims of nodes that are not in the current set. The set
// changes with the chain, so nobody is charged.
func (w *running) fromValidator(next func(chain.Message) error) func(context.Context, chain.Message) error {
	return func(_ context.Context, m chain.Message) error {
		for _, v := range w.ledger.Tip().Config.Validators {
			if id, err := v.Key.PeerID(); err == nil && id == m.Origin {
				return next(m)
			}
		}
		return chain.ErrUnready
	}
}

func (w *running) onSubtree(m chain.Message) error {
	s, err := wire.DecodeSubtree(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	if consortium.SubtreeID(s.Records) != s.ID {
		return chain.Invalid(chain.Malformed, "subtree id does not fit its records")
	}
	w.syncer.Foretold(m.From, m.Origin, s)
	w.bus.Publish(event.SubtreeAnnounced{ID: s.ID, Height: s.Height, Index: int(s.Index), Records: len(s.Records), From: m.Origin})
	return nil
}

func (w *running) onMiningOn(m chain.Message) error {
	b, err := wire.DecodeMiningOn(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	w.bus.Publish(event.MiningOn{Hash: b.Hash, PrevHash: b.PrevHash, Height: b.Height, Miner: b.Miner,
		RecordCount: int(b.RecordCount), SizeBytes: int(b.SizeBytes), From: m.Origin})
	return nil
}

func (w *running) onRejected(m chain.Message) error {
	x, err := wire.DecodeRejectedTx(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	if m.Origin != w.services.Self() {
		w.bus.Publish(event.RecordRejected{ID: x.ID, Reason: x.Reason, Detail: x.Detail, Height: x.Height, Author: hex.EncodeToString(x.Author[:]), Peer: m.Origin, Final: true})
	}
	return nil
}
