// Package consensus owns the ordering of records into blocks: it runs SmartBFT
// between the ledger, the mempool and the other validators.
package consensus

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// Protocol is the id of the consensus stream on the chain net.
func Protocol(net string) string { return "/parley/" + net + "/consensus/1" }

// ErrQuarantined means that this validator may not vote yet: what it signed
// before is not surely on its disk, or its engine crashed again and again at
// one height. The caller follows the chain, and calls Run again when nothing
// that it signed can be undecided any more. It is a *LostError, or a *BrakeError,
// after which Run may be called at the next block, or at the time that it names.
// A sole validator sets Config.SoleValidator.
var ErrQuarantined = errors.New("this validator may not vote before the others have committed later blocks")

// LostError is an ErrQuarantined where what we signed before is not surely on
// our disk.
type LostError struct{ Why string }

func (l *LostError) Error() string { return l.Why + ": " + ErrQuarantined.Error() }

// Is makes it an ErrQuarantined.
func (l *LostError) Is(target error) bool { return target == ErrQuarantined }

// Config is what the engine is told.
type Config struct {
	Key    ed25519.PrivateKey // node key = validator key
	WALDir string             // write-ahead log and crash marks
	// LedgerDir names the store in errors.
	LedgerDir string
	// SoleValidator lets a validator vote although its write-ahead log is lost
	// or damaged. It is safe only while no other validator can vote, so that
	// among several it covers one loss: it must have been off before.
	SoleValidator bool
	// InMemoryWAL keeps the log in Memory, and holds the engine's waits so that
	// it can run in virtual time. For tests only: a killed process forgets.
	InMemoryWAL bool
	// Memory outlives the engine; nil means one that does not.
	Memory *MemoryWAL
	// Proposed is called with each block that this node proposes, before it
	// is ordered. It MUST NOT block, and it may be nil.
	Proposed func(*consortium.Header, consortium.Body)
	// Ahead reports whether a peer shows a certified head above our tip. It is
	// asked once a second at most, while the tip does not move, and has 2 s.
	// nil means never.
	Ahead func(ctx context.Context) bool
	// Heads are the heads that the ready peers claim, 0 for one without a
	// block. nil means that a validator votes at its first start without
	// having seen the others, for tests only.
	Heads func() map[peer.ID]uint64
	// Found is told what an operator should know, and when it is over. It MUST
	// NOT block, and it may be nil.
	Found func(event.FindingChanged)
	// Fork is given a *ledger.ForkError before the process ends. It keeps the
	// evidence, and it may be nil.
	Fork func(error)
	// End ends the process after the line in the log that says why. nil means a
	// panic.
	End func()
	// Clock is for tests of wrong clocks, nil means time.Now.
	Clock func() time.Time
	// Outgoing is for tests of traitors.
	Outgoing Outgoing
}

// Outgoing makes the engine a traitor: it gives what is sent to validator to in
// the place of m, which it MUST NOT change. It MUST NOT block. nil sends m.
type Outgoing func(to uint64, m *smartbftprotos.Message) []*smartbftprotos.Message

// Opener opens one ordered stream to a validator.
type Opener interface {
	Open(ctx context.Context, p peer.ID, protocol string) (chain.Stream, error)
}

// Ledger is what the engine needs of the store.
type Ledger interface {
	Tip() ledger.Tip
	// AppendPrepared stores a block on top; it is on disk when it returns.
	AppendPrepared(p *ledger.Prepared, source string, from peer.ID) error
	Block(height uint64) (*consortium.Block, error)
	Committed(id chain.Hash) bool
	Committable(r *consortium.Record, id chain.Hash, height uint64) error
	Mark() ([]byte, error)
	SetMark(id []byte) error
	Consent() ([]byte, error)
	SetConsent(mark []byte) error
	Born() (uint64, error)
	SetBorn(height uint64) error
}

// Pool is what the engine needs of the mempool.
type Pool interface {
	// Next lists up to max records of maxBytes in all for which skip is false.
	Next(max, maxBytes int, skip func(id chain.Hash) bool) [][]byte
	// Remove drops what is committed. The pool itself ends what expired.
	Remove(ids ...chain.Hash)
	Wake() <-chan struct{}
	Len() int // records that wait
}

// Engine orders records while this node is a validator. Its methods are safe
// for concurrent use.
type Engine struct {
	cfg     Config
	self    consortium.PublicKey
	ledger  Ledger
	pool    Pool
	net     Opener
	catchUp func(context.Context) error
	bus     *event.Bus
	log     *slog.Logger
	metrics *metrics

	genesis  chain.Hash
	protocol string
	live     atomic.Pointer[session] // nil while no session runs

	since     uint64 // number of the last event before New
	abandoned int    // Run's goroutine only
	behindAt  uint64 // 1 + height of the last session that isBehind ended; Run's goroutine only
	skew      skew
	votes     voteWatch

	mu     sync.Mutex // guards below
	waived uint64     // 1 + height at which the last quarantine began
}

// New builds an engine on a ledger that has its genesis. catchUp fetches blocks
// until no peer shows a certificate above our tip; while Run runs, nobody else
// may append to the ledger, and the engine calls catchUp itself.
func New(cfg Config, l Ledger, pool Pool, net Opener, catchUp func(context.Context) error, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Engine, error) {
	g := l.Tip().Genesis
	if g == nil {
		return nil, errors.New("consensus: the ledger has no genesis yet: store it first")
	}
	if len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("consensus: validator key of %d bytes: want %d", len(cfg.Key), ed25519.PrivateKeySize)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.InMemoryWAL && cfg.Memory == nil {
		cfg.Memory = &MemoryWAL{}
	}
	e := &Engine{
		cfg: cfg, self: consortium.PublicKeyOf(cfg.Key), ledger: l, pool: pool, net: net, catchUp: catchUp,
		bus: bus, log: log, genesis: g.Hash(), protocol: Protocol(g.Net()), since: bus.Seq(),
	}
	e.metrics = newMetrics(e, reg)
	return e, nil
}

// Run orders records while this node is in the validator set. It returns nil
// when ctx ended or the set no longer holds us, ErrQuarantined, or an error
// after which the process must end. A broken invariant of the engine panics in
// a goroutine of the library, or ends the process by Config.End, after one line
// in the log: what is on disk is good, and a restart goes on from there.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.mayStart(); err != nil {
		return err
	}
	if n := e.ledger.Tip().Set.Len(); e.cfg.SoleValidator && n > 1 {
		e.log.Warn("consortium.sole_validator is on although others can vote: take it out of the settings", "validators", n)
	}
	if ok, err := e.firstVote(ctx); !ok || err != nil {
		return err
	}
	defer func() {
		if e.skew.stop() { // the next Run finds it again
			e.clocksAgree()
		}
	}()
	e.meet(ctx)
	p := pace{wait: restartMin}
	for {
		pause := time.NewTimer(restartPause)
		err := e.once(ctx, p.wait)
		if !errors.Is(err, errStalled) {
			pause.Stop()
			return err
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		p.next(e.ledger.Tip().Head.Height)
	}
}

// found tells of a finding.
func (e *Engine) found(f event.FindingChanged) {
	if e.cfg.Found != nil {
		e.cfg.Found(f)
	}
}

// once catches up and runs one session, which does not stall before atLeast.
func (e *Engine) once(ctx context.Context, atLeast time.Duration) error {
	e.sync(ctx)
	e.votersLeft()
	tip := e.ledger.Tip()
	if _, ok := tip.Set.ByKey(e.self); !ok || ctx.Err() != nil {
		return nil
	}
	wal, entries, err := e.openWAL()
	if err != nil {
		return err
	}
	defer wal.Close()
	last, err := lastProposal(entries)
	if err != nil {
		return fmt.Errorf("read write-ahead log %s: %w", e.cfg.WALDir, err)
	}
	if ok, err := e.awaitTip(ctx); !ok || err != nil {
		return err
	}
	if !e.reach(ctx, last) {
		return nil
	}
	own, err := recall(e.genesis, entries)
	if err != nil {
		return fmt.Errorf("read write-ahead log %s: %w", e.cfg.WALDir, err)
	}
	if entries, err = e.begunEntries(entries); err != nil {
		return err
	}
	if e.ledger.Tip().Set.Len() == 1 {
		entries = withoutViewChange(entries)
	}
	entries, err = resume(e.genesis, entries, e.ledger.Tip().Head.Height)
	if err != nil {
		return fmt.Errorf("read write-ahead log %s: %w", e.cfg.WALDir, err)
	}
	self, _ := e.ledger.Tip().Set.ByKey(e.self)
	s, err := e.newSession(self, wal, entries, own)
	if err != nil {
		return err
	}
	return s.run(ctx, entries, atLeast)
}

// begunEntries is the log as the library may know it.
func (e *Engine) begunEntries(entries [][]byte) ([][]byte, error) {
	md := &smartbftprotos.ViewMetadata{}
	if h := e.ledger.Tip().Header; h != nil {
		var err error
		if md, err = metadataOf(h.Metadata); err != nil {
			return nil, fmt.Errorf("block %d: %w", h.Height, err)
		}
	}
	return onlyBegun(withoutConfirmations(entries), md.ViewId), nil
}

// sync catches up once. It fails without peers, which is no fault of ours.
func (e *Engine) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if err := e.catchUp(ctx); err != nil {
		e.log.Debug("not caught up", "height", e.ledger.Tip().Head.Height, "err", err)
	}
}

// reach waits until the ledger ends at most one block before the proposal that
// the log ends with: further apart the library cannot resume.
func (e *Engine) reach(ctx context.Context, proposal uint64) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for told := false; ctx.Err() == nil; {
		tip := e.ledger.Tip()
		if tip.Head.Height+1 >= proposal {
			_, member := tip.Set.ByKey(e.self)
			return member
		}
		if !told {
			e.log.Warn("ledger is behind the write-ahead log: waiting for peers that have the blocks", "height", tip.Head.Height, "proposal", proposal)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
			e.sync(ctx)
		}
	}
	return false
}

// Leader is the id of the validator that leads, 0 while the engine is down.
func (e *Engine) Leader() uint64 {
	_, leader, _, _ := e.State()
	return leader
}

// State tells where the engine is: its view and that view's leader (0 while it
// is down), to how many validators it is connected, itself included, and how
// many are a quorum.
func (e *Engine) State() (view, leader uint64, connected, quorum int) {
	set := e.ledger.Tip().Set
	s := e.live.Load()
	if s == nil {
		return 0, 0, 0, set.Quorum()
	}
	view = s.view.Load()
	ids := set.IDs()
	return view, ids[view%uint64(len(ids))], 1 + s.peers.connected(), set.Quorum()
}

// Handle serves one stream of another validator until it ends. It returns an
// *InvalidError for what only a faulty validator sends, and chain.ErrUnready
// for a peer that is no validator, or while the engine is down.
func (e *Engine) Handle(ctx context.Context, st chain.Stream) error {
	s := e.live.Load()
	if s == nil {
		return chain.ErrUnready
	}
	return s.handle(ctx, st)
}
