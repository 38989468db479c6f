package chainsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	mendFirst = 5 * time.Second // between two rounds of asking for a damaged block, then doubled
	mendMost  = time.Minute
	mendTime  = 30 * time.Second // for one peer to serve it
	mendDepth = 128              // blocks in a row that are damaged
)

// Mend repairs the blocks that the ledger finds damaged when it reads them,
// until ctx ends. A fault of ours, such as a store that cannot write, ends it.
func (y *Syncer) Mend(ctx context.Context) error {
	for {
		select {
		case height := <-y.ledger.Damaged():
			if _, err := y.ledger.Block(height); err == nil {
				continue // repaired meanwhile
			}
			if err := y.MendBlock(ctx, height); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// MendBlock fetches the block of a height that we passed from whoever has it,
// as often as it takes, and writes it in place of the damaged bytes.
func (y *Syncer) MendBlock(ctx context.Context, height uint64) error {
	y.log.Error("block is damaged on disk: asking peers for it", "height", height)
	y.noteDamage(height, false)
	for wait := mendFirst; ; wait = min(2*wait, mendMost) {
		from, err := y.mend(ctx, height, mendDepth)
		if err == nil {
			y.log.Warn("block is repaired: check the disk", "height", height, "peer", from)
			y.noteRepair(height)
			return nil
		}
		if !errors.Is(err, errNobody) {
			return err
		}
		y.log.Warn("damaged block not repaired yet: no peer serves it", "height", height, "again_in", wait)
		y.noteDamage(height, true)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// noteDamage makes a finding of a damaged block. unserved says that every peer
// was asked for it.
func (y *Syncer) noteDamage(height uint64, unserved bool) {
	y.mu.Lock()
	y.damaged[height] = unserved
	f := y.damage()
	y.mu.Unlock()
	y.found(f)
}

// noteRepair ends what noteDamage began.
func (y *Syncer) noteRepair(height uint64) {
	y.mu.Lock()
	delete(y.damaged, height)
	f := y.damage()
	y.mu.Unlock()
	if f.Severity == "ok" {
		f.Why = fmt.Sprintf("block %d is repaired", height)
	}
	y.found(f)
}

// damage tells of the lowest block that no peer serves, else of the lowest that
// is being fetched. y.mu is held.
func (y *Syncer) damage() event.FindingChanged {
	f := event.FindingChanged{Code: "PLY-104", Title: "block_damaged", Severity: "ok"}
	const look = "look at the disk; for all damage stop the node and run parley chain check"
	for _, height := range slices.Sorted(maps.Keys(y.damaged)) {
		if y.damaged[height] {
			f.Severity = "crit"
			f.Why = fmt.Sprintf("block %d is damaged on disk and no peer serves it: connect a node that has it, or restore a backup; %s", height, look)
			return f
		}
		if f.Severity == "ok" {
			f.Severity = "warn"
			f.Why = fmt.Sprintf("block %d is damaged on disk and is being fetched from peers; %s", height, look)
		}
	}
	return f
}

func (y *Syncer) found(f event.FindingChanged) {
	if y.cfg.Found != nil {
		y.cfg.Found(f)
	}
}

// errNobody means that no peer serves a block.
var errNobody = errors.New("no peer serves it")

// mend asks each peer once. Where the blocks above are damaged too, they come
// first: a block is proven by the one above it.
func (y *Syncer) mend(ctx context.Context, height uint64, depth int) (peer.ID, error) {
	peers := y.peers.Peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		if p.Genesis != y.genesis || max(p.Claimed.Height, p.Validated.Height) < height {
			continue
		}
		b, err := y.fetchBlock(ctx, p.ID, height)
		if err == nil {
			err = y.ledger.Repair(b)
		}
		if errors.Is(err, ledger.ErrUnproven) && depth > 0 {
			if _, err = y.mend(ctx, height+1, depth-1); err == nil {
				err = y.ledger.Repair(b)
			}
		}
		var bad *chain.InvalidError
		var quiet *silence
		switch {
		case err == nil:
			return p.ID, nil
		case ctx.Err() != nil:
			return "", ctx.Err()
		case errors.As(err, &bad):
			y.peers.Report(p.ID, bad.Offence, "sync: "+bad.Detail)
		case errors.As(err, &quiet):
			y.peers.Report(p.ID, quiet.Offence(), "sync: "+quiet.Error())
		case errors.Is(err, errNobody), errors.Is(err, errNotServed):
		default:
			y.log.Warn("block not repaired", "height", height, "peer", p.ID, "err", err)
		}
	}
	return "", fmt.Errorf("block %d: %w", height, errNobody)
}

// errNotServed means that a request for one block was answered with nothing,
// or that its stream broke.
var errNotServed = errors.New("not served")

// fetchBlock fetches one block, whose body fits its header. Nothing else about
// it is checked.
func (y *Syncer) fetchBlock(ctx context.Context, p peer.ID, height uint64) (*consortium.Block, error) {
	headers, _, err := y.fetchHeaders(ctx, p, height, 1, mendTime)
	if err != nil || len(headers) == 0 {
		return nil, notServed(err)
	}
	if got := headers[0].header.Height; got != height {
		return nil, chain.Invalid(chain.Violation, "header of block %d where %d was asked for", got, height)
	}
	l := link{sealed: headers[0], hash: headers[0].header.Hash(), from: p}
	if l.header.BodyBytes > wire.MaxSyncAnswer*maxBodyFrames {
		return nil, chain.Invalid(chain.ForgedBlock, "block %d: body of %d bytes", height, l.header.BodyBytes)
	}
	bodies, _, err := y.fetchBodies(ctx, p, []link{l}, mendTime)
	if err != nil || len(bodies) == 0 {
		return nil, notServed(err)
	}
	return bodies[0].Block(), nil
}

// maxBodyFrames bounds what an unproven header makes us read.
const maxBodyFrames = 32

// notServed keeps what tells of a peer's fault; all else is nobody's.
func notServed(err error) error {
	if errors.As(err, new(*chain.InvalidError)) || errors.As(err, new(*silence)) {
		return err
	}
	return fmt.Errorf("%w: %v", errNotServed, err)
}
