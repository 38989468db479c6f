package replica

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

// Run implements [chain.Network]: it learns the chain if it must, then orders
// or follows it, by what the current validator set makes of this node.
func (r *Replica) Run(ctx context.Context, s chain.Services) error {
	unhook := context.AfterFunc(ctx, r.stop)
	defer unhook()
	defer r.stop()
	if r.live.Load() == nil {
		if err := r.join(ctx, s); err != nil {
			return stopped(ctx, err)
		}
	}
	p := r.live.Load()
	work := &running{Replica: r, parts: p, services: s, hints: make(chan wire.Subtree, 64), limits: newLimits()}
	work.syncer = chainsync.New(chainsync.Config{
		Net: p.net, Pending: p.pool.Get,
		Take: func(raw []byte, from peer.ID) {
			if _, err := p.pool.Add(raw, from); err != nil {
				r.log.Debug("record of a coming block not taken", "peer", from, "err", err)
			}
		},
		Found:  r.findings.set,
		Tracer: r.cfg.Tracer,
	}, r.ledger, s, r.bus, r.base.With("room", "replica.chainsync"), r.reg)
	engine, err := consensus.New(
		consensus.Config{
			Key: r.cfg.Key, WALDir: r.walDir(), LedgerDir: filepath.Join(r.cfg.DataDir, "ledger"), SoleValidator: r.cfg.SoleValidator, InMemoryWAL: r.cfg.MemoryWAL != nil, Memory: r.cfg.MemoryWAL,
			Proposed: work.proposed, Ahead: work.syncer.Ahead, Heads: work.heads,
			Found: r.findings.set, Fork: r.keepFork, End: r.cfg.End, Clock: r.cfg.Clock, Outgoing: r.cfg.Outgoing,
		},
		r.ledger, p.pool, s, work.syncer.CatchUp, r.bus, r.base.With("room", "replica.consensus"), r.reg)
	if err != nil {
		return err
	}
	work.engine = engine
	r.work.Store(work)
	if err := s.Serve(ctx, work.topics(), work.protocols()); err != nil {
		return fmt.Errorf("serve chain %s: %w", p.genesis.ChainID, err)
	}
	work.keepValidators()
	g, gctx := errgroup.WithContext(ctx)
	for _, f := range []func(context.Context) error{
		work.order, work.spread, work.offer, work.tell, work.settleWaiters, work.tellRejected, work.look, work.verify, r.disk.watch, work.watchQuorum,
		work.syncer.Mend, work.syncer.AwaitFork, work.ledger.Broken, work.ledger.Learn,
	} {
		g.Go(func() error { return f(gctx) })
	}
	err = stopped(ctx, g.Wait())
	r.keepFork(err)
	return err
}

// lookBack is how many blocks are verified again after each start.
const lookBack = 100

// look verifies the newest blocks on disk, while the node already works, and
// has those repaired that are damaged.
func (w *running) look(ctx context.Context) error {
	if _, err := w.ledger.Unverified(); err == nil {
		return nil // verify looks at all of them
	}
	for last := uint64(0); ; {
		err := w.ledger.CheckLast(ctx, lookBack, nil)
		corrupt, ok := errors.AsType[*ledger.CorruptError](err)
		if !ok || corrupt.Height == 0 || corrupt.Height == last { // a second time: it is no block that is damaged
			return err
		}
		w.log.Error("found at the look at the last blocks", "err", corrupt.Err)
		last = corrupt.Height
		if err := w.syncer.MendBlock(ctx, last); err != nil {
			return err
		}
	}
}

// running is the replica while Run runs.
type running struct {
	*Replica
	*parts
	services chain.Services
	engine   engine
	syncer   *chainsync.Syncer
	limits   *limits
	hints    chan wire.Subtree // out of the engine's goroutine
}

// engine is what the replica needs of a [consensus.Engine].
type engine interface {
	Run(ctx context.Context) error
	Handle(ctx context.Context, st chain.Stream) error
	Leader() uint64
	State() (view, leader uint64, connected, quorum int)
}

// order runs the engine while we are a validator and follows while we are not.
func (w *running) order(ctx context.Context) error {
	for ctx.Err() == nil {
		var err error
		promoted := w.promoted()
		switch {
		case !w.disk.mayStore():
			err = w.idleUntil(ctx, w.disk.mayStore)
		case w.Role() == RoleValidator && w.disk.mayVote():
			err = w.vote(ctx)
		default:
			err = w.followUntil(ctx, time.Time{}, func() bool {
				validator := promoted()
				return !w.disk.mayStore() || validator && w.disk.mayVote()
			})
		}
		if lost, ok := errors.AsType[*consensus.LostError](err); ok {
			err = w.waitToVote(ctx, lost, w.later())
		} else if brake, ok := errors.AsType[*consensus.BrakeError](err); ok {
			at := w.ledger.Tip().Head.Height
			err = w.sitOut(ctx, brake.Until, func() bool { return w.ledger.Tip().Head.Height > at })
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// sitOut follows, while the disk has room for it, until free or a moment, which
// is never where it is zero. free is asked on, however often the disk was full.
func (w *running) sitOut(ctx context.Context, until time.Time, free func() bool) error {
	for ctx.Err() == nil {
		freed := false
		err := w.followUntil(ctx, until, func() bool {
			freed = freed || free()
			return freed || !w.disk.mayStore()
		})
		if err != nil || freed || w.disk.mayStore() {
			return err
		}
		if err := w.idleUntil(ctx, w.disk.mayStore); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// vote runs the engine until ctx ends, the set no longer holds us, or the disk
// has no room for votes.
func (w *running) vote(ctx context.Context) error {
	vctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := make(chan error, 1)
	go func() {
		defer cancel()
		end <- w.engine.Run(vctx)
	}()
	err := w.idleUntil(vctx, func() bool { return !w.disk.mayVote() })
	if err == nil {
		w.log.Warn("not voting: the disk is low", "free_mib", w.disk.free.Load()>>20)
	}
	cancel()
	return stopped(vctx, <-end)
}

// idleUntil waits until done, which is asked after each event and after each
// look at the disk, or ctx ends.
func (w *running) idleUntil(ctx context.Context, done func() bool) error {
	sub := w.bus.Subscribe()
	defer sub.Close()
	tick := time.NewTicker(diskEvery) // not each change of the disk is an event
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-sub.Wake():
			sub.Take(eventsAtOnce)
		}
	}
	return nil
}

// followUntil follows the chain until done, which is asked after each block and
// after each look at the disk, or until a moment, which is never where it is zero.
func (w *running) followUntil(ctx context.Context, until time.Time, done func() bool) error {
	sub := w.bus.Subscribe()
	defer sub.Close()
	fctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := make(chan error, 1)
	go func() { end <- w.syncer.Follow(fctx) }()
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		over = timer.C
	}
	for {
		if done() { // before the subscription
			cancel()
			return stopped(fctx, <-end)
		}
		select {
		case err := <-end:
			return stopped(fctx, err)
		case <-over:
			cancel()
			return stopped(fctx, <-end)
		case <-tick.C:
		case <-sub.Wake():
			sub.Take(eventsAtOnce)
		}
	}
}

const eventsAtOnce = 1024

// heads are those that the ready peers claim.
func (w *running) heads() map[peer.ID]uint64 {
	heads := map[peer.ID]uint64{}
	for _, p := range w.services.Peers() {
		heads[p.ID] = p.Claimed.Height
	}
	return heads
}

// standing tells how far a validator is whose engine runs. Its own tip says
// nothing: it may be cut off.
func (w *running) standing() event.SyncChanged {
	tip := w.ledger.Tip().Head.Height
	s := event.SyncChanged{State: chainsync.Synced, Target: tip}
	for _, p := range w.services.Peers() {
		s.Target = max(s.Target, p.Validated.Height)
	}
	s.LagBlocks = s.Target - tip
	_, _, connected, quorum := w.engine.State()
	switch {
	case s.LagBlocks > chainsync.SlackBlocks:
		s.State = chainsync.Syncing
	case connected < quorum: // nobody orders a block with us
		s.State = chainsync.Waiting
	}
	return s
}

// keepValidators asks for a connection to each other validator.
func (w *running) keepValidators() {
	var members []peer.AddrInfo
	for _, v := range w.ledger.Tip().Config.Validators {
		id, err := v.Key.PeerID()
		if err != nil || id == w.services.Self() {
			continue
		}
		m := peer.AddrInfo{ID: id}
		for _, a := range v.Addresses {
			if ma, err := multiaddr.NewMultiaddr(a); err == nil {
				m.Addrs = append(m.Addrs, ma)
			}
		}
		members = append(members, m)
	}
	w.services.Keep(members)
}

// proposed is called by the engine, in its view goroutine, when this node
// leads and has put a block together; it never blocks.
func (w *running) proposed(h *consortium.Header, body consortium.Body) {
	for i, st := range body {
		ids := st.IDs()
		select {
		case w.hints <- wire.Subtree{ID: consortium.SubtreeID(ids), Height: h.Height, Index: uint32(i), Count: uint32(len(body)), Records: ids}:
		default: // a hint lost costs its readers a fetch
		}
	}
}

// tell spreads what this node knows first: subtrees ahead of its blocks, and
// its blocks once they are committed.
func (w *running) tell(ctx context.Context) error {
	sub := w.bus.Subscribe()
	defer sub.Close()
	epoch := w.ledger.Tip().Config.Epoch
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h := <-w.hints:
			w.publish(ctx, topicSubtree, h.Encode())
		case <-sub.Wake():
			events, _ := sub.Take(eventsAtOnce)
			for _, e := range events {
				w.tellOf(ctx, e.Data)
			}
			if now := w.ledger.Tip().Config.Epoch; now != epoch {
				epoch = now
				w.keepValidators()
			}
		}
	}
}

func (w *running) tellOf(ctx context.Context, e event.Event) {
	switch e := e.(type) {
	case event.BlockStored:
		// a dead leader's block is told by the one that took over
		if e.Source == "own" && (w.isSelf(e.Proposer) || w.isSelf(w.engine.Leader()) || w.leftWith(e)) {
			w.tellBlock(ctx, e)
		}
	}
}

func (w *running) isSelf(validator uint64) bool {
	key, ok := w.ledger.Tip().Set.Key(validator)
	return ok && key == w.self
}

// leftWith reports whether we proposed the very block that takes us out of the
// set: nobody else may be there to tell of it.
func (w *running) leftWith(e event.BlockStored) bool {
	if _, in := w.ledger.Tip().Set.ByKey(w.self); in {
		return false
	}
	h, _, err := w.ledger.Header(e.Height)
	if err != nil {
		return false
	}
	signed, _, err := w.ledger.ConfigAt(h.Epoch)
	if err != nil {
		return false
	}
	key, _ := signed.Set().Key(e.Proposer)
	return key == w.self
}

func (w *running) tellBlock(ctx context.Context, e event.BlockStored) {
	h, cert, err := w.ledger.Header(e.Height)
	if err != nil {
		w.log.Warn("block not announced", "height", e.Height, "err", err)
		return
	}
	b, err := w.ledger.Block(e.Height)
	if err != nil {
		w.log.Warn("block not announced", "height", e.Height, "err", err)
		return
	}
	ids := make([]chain.Hash, len(b.Body))
	for i, st := range b.Body {
		ids[i] = st.ID()
	}
	w.publish(ctx, topicBlock, wire.BlockAnnouncement{Header: h.Encode(), Certificate: cert.Encode(), Subtrees: ids}.Encode())
	w.publish(ctx, topicMiningOn, wire.MiningOn{Hash: e.Hash, PrevHash: e.PrevHash, Height: e.Height, Miner: w.cfg.Name,
		SizeBytes: uint32(e.SizeBytes), RecordCount: uint32(e.RecordCount)}.Encode())
}

// publish sends a hint: who misses it asks for it later, so a full queue
// costs time and nothing else.
func (w *running) publish(ctx context.Context, topic string, data []byte) {
	if err := w.services.Publish(ctx, topic, data); err != nil && ctx.Err() == nil {
		w.log.Debug("not published", "topic", topic, "err", err)
	}
}

// sweepEvery is how often the pool is freed of what can no longer be committed.
const sweepEvery = time.Second
