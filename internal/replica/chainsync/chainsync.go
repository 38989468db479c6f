// Package chainsync owns how blocks that others have come to this node: it
// verifies headers ahead, fetches bodies from several peers at once, appends
// them in order, and serves the same to others.
package chainsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// States of [event.SyncChanged].
const (
	Waiting = "waiting" // nobody to ask
	Syncing = "syncing"
	Synced  = "synced"
)

// SlackBlocks is how far behind a synced node stays synced: readyz allows the
// same.
const SlackBlocks = 3

const (
	catchUpTime = 10 * time.Second // of one CatchUp, LEDGER 4
	maxStreams  = 16               // served to one peer at once; a session of ours opens at most 10
)

// Config of a Syncer.
type Config struct {
	Net string // 8 hex digits, part of the protocol id

	// Pending looks for a record among those that wait for a block; its bytes
	// are not changed. nil: this node has none, and fetches whole bodies.
	Pending func(id chain.Hash) (raw []byte, ok bool)
	// Take puts a record that was asked for ahead of its block among those that
	// wait, by its own rules. nil: none is asked for.
	Take func(raw []byte, from peer.ID)
	// Found is told what an operator should know, and when it is over. It MUST
	// NOT block, and it may be nil.
	Found func(event.FindingChanged)
	// Tracer makes spans of requests, and of storing the blocks that a traced
	// announcement told of; nil = none.
	Tracer trace.Tracer
}

// Peers is what a Syncer needs of [chain.Services].
type Peers interface {
	Peers() []chain.Peer
	Open(ctx context.Context, p peer.ID, protocol string) (chain.Stream, error)
	Validated(p peer.ID, h chain.Head)
	Report(p peer.ID, o chain.Offence, detail string)
	Credit(p peer.ID, c chain.Credit)
}

// Syncer brings the ledger up to what its peers hold. All methods are safe for
// concurrent use; of Follow and CatchUp one at a time works, the other waits.
type Syncer struct {
	cfg      Config
	protocol string
	ledger   *ledger.Ledger
	peers    Peers
	bus      *event.Bus
	log      *slog.Logger
	metrics  *metrics
	genesis  chain.Hash

	run   run           // verified headers above the tip
	told  foretold      // subtrees of blocks to come
	asked *budgets      // of those whom we serve
	busy  chan struct{} // holds one token while somebody may append
	wake  chan struct{} // the run grew, or there are hints
	halt  chan struct{} // closed when fork is set

	mu        sync.Mutex            // guards below
	stores    map[uint64]trace.Span // of announced blocks that are not stored yet, by height
	known     map[uint64]chain.Hash // blocks that were announced, by height
	hints     map[peer.ID]uint64    // who told of a head that we cannot reach yet
	fork      error                 // *ledger.ForkError, the first one seen
	state     event.SyncChanged
	damaged   map[uint64]bool // blocks on disk; true when no peer served it so far
	published time.Time       // when the last SyncChanged went out
	said      time.Time       // when the last log line was written
}

// New wires a Syncer over a ledger that has its genesis. It starts nothing.
func New(cfg Config, l *ledger.Ledger, s Peers, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) *Syncer {
	y := &Syncer{
		cfg: cfg, protocol: "/parley/" + cfg.Net + "/sync/1", genesis: l.Genesis().Hash(),
		ledger: l, peers: s, bus: bus, log: log,
		asked: newBudgets(), busy: make(chan struct{}, 1), wake: make(chan struct{}, 1), halt: make(chan struct{}),
		known: map[uint64]chain.Hash{}, hints: map[peer.ID]uint64{}, damaged: map[uint64]bool{},
		state: event.SyncChanged{State: Waiting, Target: l.Tip().Head.Height},
	}
	y.metrics = newMetrics(y, reg)
	return y
}

// Protocol serves the chain to others, one request a stream.
func (y *Syncer) Protocol() chain.Protocol {
	return chain.Protocol{ID: y.protocol, MaxStreams: maxStreams, Handle: y.handle}
}

// Follow keeps the ledger at the head until ctx ends. A peer's fault never
// ends it: other errors are ours, a fork (ledger.ErrFork) or a certified block
// that our rules refuse.
func (y *Syncer) Follow(ctx context.Context) error {
	return y.exclusively(ctx, func() error { return y.work(ctx, false) })
}

// CatchUp appends until no ready peer shows a valid certificate above our tip,
// for at most 10 s. It returns nil when it is done, when its time is over, and
// when there is nobody to ask.
func (y *Syncer) CatchUp(ctx context.Context) error {
	return y.exclusively(ctx, func() error {
		pass, cancel := context.WithTimeout(ctx, catchUpTime)
		defer cancel()
		err := y.work(pass, true)
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			y.log.Warn("catch-up stopped at its time limit", "height", y.ledger.Tip().Head.Height, "target", y.State().Target)
			return nil
		}
		return err
	})
}

func (y *Syncer) exclusively(ctx context.Context, work func() error) error {
	select {
	case y.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-y.busy }()
	return work()
}

// State tells how far this node is behind what it knows to exist.
func (y *Syncer) State() event.SyncChanged {
	y.mu.Lock()
	defer y.mu.Unlock()
	s := y.state
	tip := y.ledger.Tip().Head.Height
	s.Target = max(s.Target, tip)
	s.LagBlocks = s.Target - tip
	return s
}

// publishEvery is the least time between two events of one state.
const publishEvery = time.Second

// setState notes where we stand and tells of it: at once when the state
// changes, once a second while only the figures do.
func (y *Syncer) setState(anybody bool, target uint64, speed speed) {
	tip := y.ledger.Tip().Head.Height
	next := event.SyncChanged{Target: max(target, tip)}
	next.LagBlocks = next.Target - tip
	now := time.Now()

	y.mu.Lock()
	was := y.state
	switch {
	case next.LagBlocks == 0 && !anybody:
		next.State = Waiting
	case next.LagBlocks == 0, was.State == Synced && next.LagBlocks <= SlackBlocks:
		next.State = Synced
	default:
		next.State = Syncing
		next.BlocksS, next.BytesS = speed.blocks, speed.bytes
		if speed.blocks > 0 {
			next.ETAS = float64(next.LagBlocks) / speed.blocks
		}
	}
	y.state = next
	tell := was.State != next.State || next.State == Syncing && now.Sub(y.published) >= publishEvery
	if tell {
		y.published = now
	}
	say := was.State != next.State || next.State == Syncing && now.Sub(y.said) >= sayEvery
	if say {
		y.said = now
	}
	y.mu.Unlock()
	if say {
		y.say(tip, next)
	}
	if tell && y.bus != nil {
		y.bus.Publish(next)
	}
}

// sayEvery is the least time between two log lines of one state.
const sayEvery = 10 * time.Second

func (y *Syncer) say(tip uint64, s event.SyncChanged) {
	if s.State != Syncing {
		y.log.Info("sync", "state", s.State, "height", tip)
		return
	}
	y.log.Info("sync", "state", s.State, "height", tip, "target", s.Target, "percent", math.Floor(1000*float64(tip)/float64(s.Target))/10,
		"blocks_s", math.Round(s.BlocksS), "mb_s", math.Round(s.BytesS/1e5)/10, "eta", time.Duration(s.ETAS*float64(time.Second)).Round(time.Second))
}

// nudge wakes the session, if one runs.
func (y *Syncer) nudge() {
	select {
	case y.wake <- struct{}{}:
	default:
	}
}

// noteFork keeps the evidence for whoever appends next, who halts.
func (y *Syncer) noteFork(err error) {
	y.mu.Lock()
	if y.fork == nil {
		y.fork = err
		close(y.halt)
	}
	y.mu.Unlock()
	y.nudge()
}

// AwaitFork returns the *ledger.ForkError as soon as one was seen, by whatever
// path, or ctx's error. The caller halts the node: an engine that runs meanwhile
// knows nothing of it.
func (y *Syncer) AwaitFork(ctx context.Context) error {
	select {
	case <-y.halt:
		return y.forked()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (y *Syncer) forked() error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.fork != nil {
		return fmt.Errorf("sync: %w", y.fork)
	}
	return nil
}
