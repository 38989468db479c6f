package consensus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	smartbft "github.com/hyperledger-labs/SmartBFT/pkg/consensus"
	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

// stopTimeout is how long the library may take to end. It can hang when it is
// stopped in the middle of a view change that meets a sync.
const stopTimeout = 10 * time.Second

// session is one life of the library, from a start to an eviction or the end.
// It implements what the library calls, in app.go.
type session struct {
	*Engine
	id    uint64 // our own, in the set
	bft   *smartbft.Consensus
	peers *peers
	gate  *gate        // nil outside virtual time
	pull  func() error // catches up, bounded by Run's context

	started    chan struct{} // closed when the library takes messages
	evicted    chan struct{} // closed when the set no longer holds us
	room       chan struct{} // something left the library's pool
	view       atomic.Uint64
	named      atomic.Pointer[named] // the record that the library asked about last
	early      early
	help       help
	asked      asked
	said       said
	confirms   confirms
	ballot     *ballot
	ending     chan struct{} // closed before the library is stopped
	controller controllerWatch
	wal        walFile
	turn       turn
	work       sync.WaitGroup // messages that are handed over late

	jammed  chan reason   // why the session has to begin anew
	passed  chan struct{} // a while has passed since we left a view
	overdue chan struct{} // votes for the block in flight are

	overtaken atomic.Uint64 // height of the first block that a sync brought or may bring, until the view that it begins is there; 0: none

	syncing  atomic.Bool // a sync of the library lasts
	syncEnd  alarm       // finds its end
	holdEnd  alarm       // bounds how long a new view waits for it
	settling atomic.Bool // the view changer waits for votes for the block in flight
	taking   atomic.Bool // a reconfiguration waits for who may complain
	hangs    atomic.Bool // a reconfiguration does not end
	reconfig alarm       // finds a reconfiguration that hangs
	answer   alarm       // finds a controller that waits for ever
	inFlight alarm       // finds a view for the block in flight that does
	behind   alarm       // finds that a view change passes us by

	dead atomic.Bool   // the library may do nothing more
	left chan struct{} // closed when it did not stop, and stays behind

	mu        sync.Mutex             // guards below
	epoch     uint64                 // that the library knows
	fed       map[chain.Hash]request // in the library's pool
	bytes     int                    // of fed
	pace      feedPace
	complaint complaint
	gone      bool      // evicted is closed
	look      time.Time // when to catch up while the leader is ahead
	sound     soundness // of the last proposal that somebody voted for
}

// newSession builds the library on the ledger's tip. It starts nothing.
func (e *Engine) newSession(id uint64, wal walFile, entries [][]byte, own *ballot) (*session, error) {
	s := &session{
		Engine: e, id: id, started: make(chan struct{}), evicted: make(chan struct{}), room: make(chan struct{}, 1),
		jammed: make(chan reason, 1), passed: make(chan struct{}, 1), overdue: make(chan struct{}, 1),
		fed: map[chain.Hash]request{}, ballot: own, ending: make(chan struct{}), left: make(chan struct{}),
	}
	s.wal = fencedWAL{wal, s}
	if e.cfg.InMemoryWAL {
		s.gate = newGate(s.left)
	}
	tip := e.ledger.Tip()
	s.epoch = tip.Config.Epoch
	own.alone(tip.Set.Len() == 1)
	s.peers = newPeers(e, s)
	last, err := s.tipDecision()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStalled, err) // and awaitTip comes next
	}
	md, err := metadataOf(last.Proposal.Metadata)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", tip.Head.Height, err)
	}
	s.view.Store(md.ViewId)
	s.early.joined, s.early.begun = md.ViewId, md.ViewId
	s.bft = &smartbft.Consensus{
		Config: settings(id, tip.Config.Params), Application: s, Assembler: s, WAL: s.wal, WALInitialContent: entries,
		Comm: s, Signer: s, Verifier: s, MembershipNotifier: s, RequestInspector: s, Synchronizer: s,
		Logger: &logger{session: s}, Metadata: md, LastProposal: last.Proposal, LastSignatures: last.Signatures,
	}
	return s, nil
}

func (s *session) tipDecision() (types.Decision, error) {
	tip := s.ledger.Tip()
	if tip.Head.Height == 0 {
		return types.Decision{}, nil
	}
	b, err := s.ledger.Block(tip.Head.Height)
	if err != nil {
		return types.Decision{}, fmt.Errorf("read the tip: %w", err)
	}
	return decision(b), nil
}

// run starts the library and ends with it. It returns errStalled when a new
// session has to follow.
func (s *session) run(ctx context.Context, entries [][]byte, atLeast time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.pull = func() error {
		ctx, cancel := context.WithTimeout(ctx, syncTimeout)
		defer cancel()
		return s.catchUp(ctx)
	}
	every := heartbeat(s.ledger.Tip().Config.Params) / ticks
	beat, change := time.NewTicker(every), time.NewTicker(every)
	defer beat.Stop() // after stop: the end of a view change waits for ticks
	defer change.Stop()
	s.bft.Scheduler, s.bft.ViewChangerTicker = beat.C, change.C

	s.live.Store(s)
	defer s.live.Store(nil)
	var wg sync.WaitGroup
	wg.Go(func() { s.peers.run(ctx) })
	wg.Go(func() { s.peers.redialReady(ctx) })
	err := s.bft.Start()
	if err != nil {
		err = fmt.Errorf("start the engine: %w", err)
	} else {
		close(s.started)
		s.log.Info("engine started", "validator", s.id, "height", s.ledger.Tip().Head.Height, "view", s.view.Load())
		s.nudge()
		s.proposeAgain(entries)
		wg.Go(func() { s.feed(ctx) })
		err = s.await(ctx, atLeast)
		cancel()                           // a sync that runs, the feeder, the streams
		if hung := s.stop(); hung != nil { // and the feeder may hang with the library
			s.dead.Store(true)
			close(s.left)
			if err != nil {
				return s.abandon()
			}
			return hung
		}
	}
	cancel()
	wg.Wait()
	s.work.Wait()
	return err
}

// await returns when the session has to end, errStalled when it has to begin
// anew.
func (s *session) await(ctx context.Context, atLeast time.Duration) error {
	healthy := time.NewTimer(healthyAfter)
	defer healthy.Stop()
	tick := time.NewTicker(aheadEvery)
	defer tick.Stop()
	w := watch{until: time.Now().Add(atLeast), stuck: stuck{since: time.Now()}}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.evicted:
			s.log.Info("no longer a validator", "height", s.ledger.Tip().Head.Height)
			return nil
		case <-healthy.C:
			s.forgetCrashes()
		case why := <-s.jammed:
			s.restarts(why)
			return errStalled
		case <-s.passed:
			if s.isBehind(ctx) {
				s.restarts(whyAhead)
				return errStalled
			}
		case <-s.overdue:
			if s.inFlightIsOver(ctx) {
				s.restarts(whyInFlight)
				return errStalled
			}
		case now := <-tick.C:
			if s.stalls(ctx, &w, now) {
				return errStalled
			}
		}
	}
}

// stop ends the library, whose goroutines have ended when it returns nil.
func (s *session) stop() error {
	defer s.reconfiguring(false)
	defer s.awaitAnswer(false)
	defer s.awaitInFlight(false)
	defer s.behind.clear()
	defer s.syncEnd.clear()
	defer s.holdEnd.clear()
	close(s.ending)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.gate.enter()
		defer s.gate.leave()
		s.bft.Stop()
	}()
	most := stopTimeout
	if s.hangs.Load() {
		most = 0 // it holds the lock that stopping needs
	}
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-done:
		s.log.Info("engine stopped", "validator", s.id, "height", s.ledger.Tip().Head.Height)
		return nil
	case <-late.C:
		return errHung
	}
}

// proposeAgain sends the proposal that the log of a leader ends with: the
// library sends its vote for it again and takes the proposal for known, so that
// who never got it waits for a complaint.
func (s *session) proposeAgain(entries [][]byte) {
	set, later := s.ledger.Tip().Set, uint64(0) // view that began after the proposal
	for _, b := range slices.Backward(entries) {
		m := &smartbftprotos.SavedMessage{}
		if err := proto.Unmarshal(b, m); err != nil {
			return
		}
		p := m.GetProposedRecord().GetPrePrepare()
		if p == nil {
			later = max(later, m.GetNewView().GetViewId())
			continue
		}
		ids := set.IDs()
		if p.Seq != s.ledger.Tip().Head.Height+1 || p.View < later || ids[p.View%uint64(len(ids))] != s.id {
			return
		}
		for _, id := range ids {
			s.peers.send(id, &smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: p}})
		}
		return
	}
}

// nudge makes a starting follower ask the others for their view: after a view
// change on an idle chain it would hear of it by a timeout of seconds only. A
// heartbeat of a later view by the leader that we believe in does just that,
// and no more. The leader learns by the answers to its own heartbeats.
func (s *session) nudge() {
	set := s.ledger.Tip().Set
	ids := set.IDs()
	leader := ids[s.view.Load()%uint64(len(ids))]
	if leader == s.id {
		return
	}
	s.bft.HandleMessage(leader, &smartbftprotos.Message{Content: &smartbftprotos.Message_HeartBeat{
		HeartBeat: &smartbftprotos.HeartBeat{View: s.view.Load() + 1},
	}})
}

// lags reports whether we should catch up after a heartbeat of the leader at
// seq. The library takes a view that waits for its first block for one that has
// it, and so never sees that it missed just that one. A leader with a new view
// says the same while it is not behind, so the answer is yes only now and then.
func (s *session) lags(seq uint64, now time.Time) bool {
	tip := s.ledger.Tip()
	wait := heartbeat(tip.Config.Params)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case seq <= tip.Head.Height:
		s.look = time.Time{}
	case s.look.IsZero():
		s.look = now.Add(wait)
	case !now.Before(s.look):
		s.look = now.Add(5 * wait)
		return true
	}
	return false
}

// adopt reports whether the set or the parameters changed since the library
// was told, and what it has to know then.
func (s *session) adopt() (changed bool, nodes []uint64, cfg types.Configuration) {
	tip := s.ledger.Tip()
	nodes, cfg = tip.Set.IDs(), settings(s.id, tip.Config.Params)
	_, member := tip.Set.ByKey(s.self)
	s.mu.Lock()
	changed = s.epoch != tip.Config.Epoch
	s.epoch = tip.Config.Epoch
	evict := changed && !member && !s.gone
	s.gone = s.gone || evict
	s.mu.Unlock()
	if changed {
		if member {
			s.ballot.alone(len(nodes) == 1)
		}
		s.turn.begin(tip.Head.Height) // ends with the library's reconfiguration
		s.peers.update()
		s.judgeAgain()
		s.votersLeft()
	} else {
		s.turn.end()
	}
	if evict {
		close(s.evicted)
	}
	return changed, nodes, cfg
}

// viewStarted notes a view that the library began.
func (s *session) viewStarted(view uint64) {
	s.overtaken.Store(0)
	s.reached(view, view)
	if s.view.Swap(view) == view {
		return
	}
	ids := s.ledger.Tip().Set.IDs()
	s.metrics.viewChanges.Inc()
	s.log.Info("view changed", "view", view, "leader", ids[view%uint64(len(ids))])
	s.bus.Publish(event.ViewChanged{View: view, Leader: ids[view%uint64(len(ids))], Why: "leader_failed"})
}
