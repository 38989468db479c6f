package chainsync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	mendFirst = 5 * time.Second // between two rounds of asking for a damaged block, then doubled
	mendMost  = time.Minute
	mendTime  = 30 * time.Second // for one peer to serve it
	mendWait  = 256              // stretches that wait for a peer; a read of a further one tells of it again
)

// stretch is blocks [low, high] that are damaged. Those above low have no
// readable header, and so each one is proven only once the one above it is
// repaired.
type stretch struct {
	low, high uint64
	wait      time.Duration // until it is tried again
	due       time.Time
}

// Mend repairs the blocks that the ledger finds damaged when it reads them,
// until ctx ends. What no peer serves waits, and holds up nothing else. A fault
// of ours, such as a store that cannot write, ends it.
func (y *Syncer) Mend(ctx context.Context) error {
	var waiting []stretch
	again := time.NewTimer(mendMost)
	defer again.Stop()
	for {
		select {
		case height := <-y.ledger.Damaged():
			known := slices.ContainsFunc(waiting, func(s stretch) bool { return s.low <= height && height <= s.high })
			if known || len(waiting) >= mendWait || y.readable(height) {
				continue
			}
			y.tellDamage(height)
			waiting = append(waiting, stretch{low: height, high: height})
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		var err error
		if waiting, err = y.mendDue(ctx, waiting); err != nil {
			return err
		}
		next := mendMost
		for _, s := range waiting {
			next = min(next, time.Until(s.due))
		}
		again.Reset(next)
	}
}

// mendDue tries those whose time has come once, and returns what still waits.
func (y *Syncer) mendDue(ctx context.Context, waiting []stretch) ([]stretch, error) {
	var still []stretch
	for _, s := range waiting {
		if time.Now().Before(s.due) {
			still = append(still, s)
			continue
		}
		if y.readable(s.low) {
			y.noteRepair(s.low) // meanwhile
			continue
		}
		high, err := y.mend(ctx, s.low)
		if err == nil {
			y.noteRepair(s.low)
			continue
		}
		if !errors.Is(err, errNobody) {
			return nil, err
		}
		y.noteDamage(s.low, true)
		s.high, s.wait = high, nextMend(s.wait)
		s.due = time.Now().Add(s.wait)
		y.log.Warn("damaged block not repaired yet", "height", s.low, "up_to", high, "again_in", s.wait, "err", err)
		still = append(still, s)
	}
	return still, nil
}

// MendBlock repairs the block of a height that we passed, and returns when that
// is done, however long nobody serves it.
func (y *Syncer) MendBlock(ctx context.Context, height uint64) error {
	y.tellDamage(height)
	for wait := nextMend(0); ; wait = nextMend(wait) {
		high, err := y.mend(ctx, height)
		if err == nil {
			y.noteRepair(height)
			return nil
		}
		if !errors.Is(err, errNobody) {
			return err
		}
		y.noteDamage(height, true)
		y.log.Warn("damaged block not repaired yet", "height", height, "up_to", high, "again_in", wait, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func nextMend(wait time.Duration) time.Duration { return min(max(2*wait, mendFirst), mendMost) }

func (y *Syncer) tellDamage(height uint64) {
	y.log.Error("block is damaged on disk: asking peers for it", "height", height)
	y.noteDamage(height, false)
}

func (y *Syncer) readable(height uint64) bool {
	_, err := y.ledger.Block(height)
	return err == nil
}

// errNobody means that no peer serves a block.
var errNobody = errors.New("no peer serves it")

// mend repairs the block of a height. Those above it whose headers are damaged
// too come first, from the top down. It stops at the first one that no peer
// serves, with errNobody, and returns its height; any other error is ours.
func (y *Syncer) mend(ctx context.Context, low uint64) (high uint64, err error) {
	high = low
	for tip := y.ledger.Tip().Head.Height; high < tip; high++ {
		if ctx.Err() != nil {
			return high, ctx.Err()
		}
		if _, _, err := y.ledger.Header(high + 1); err == nil {
			break
		}
	}
	var from peer.ID
	for ; high >= low; high-- {
		if from, err = y.mendOne(ctx, high, from); err != nil {
			return high, err
		}
		y.log.Warn("block is repaired: check the disk", "height", high, "peer", from)
	}
	return low, nil
}

// mendOne asks each peer once, first before all others, for a block that is
// proven by what is above it, and writes it in place of the damaged bytes.
func (y *Syncer) mendOne(ctx context.Context, height uint64, first peer.ID) (peer.ID, error) {
	peers := y.peers.Peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	if i := slices.IndexFunc(peers, func(p chain.Peer) bool { return p.ID == first }); i > 0 {
		peers[0], peers[i] = peers[i], peers[0]
	}
	for _, p := range peers {
		if p.Genesis != y.genesis || max(p.Claimed.Height, p.Validated.Height) < height {
			continue
		}
		b, err := y.fetchBlock(ctx, p.ID, height)
		if err == nil {
			err = y.ledger.Repair(b)
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
		case errors.Is(err, errNotServed):
		case errors.Is(err, ledger.ErrUnproven): // what proves it got damaged as well: no peer can help here
			return "", fmt.Errorf("block %d: %w: %w", height, errNobody, err)
		default:
			return "", fmt.Errorf("mend block %d: %w", height, err)
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
	if err == nil {
		return errNotServed
	}
	return fmt.Errorf("%w: %w", errNotServed, err)
}
