package swarmtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

// life is one run of a node, from its start to its stop or its death.
//
// A killed process cannot be made in one process. So at the moment of death
// the disk is copied as a power cut would leave it, the socket sends no more,
// and nothing that the run tells afterwards counts. Then it is stopped, on the
// disk that nobody will read again. The next run has the copy.
type life struct {
	node    *Node
	run     *parley.Node
	sockets *quicreuse.ConnManager // of a host that is no node
	cancel  context.CancelFunc
	done    chan error
	ending  chan struct{} // closed when the run is asked to end
	ended   chan struct{} // closed when a killed run has ended

	dead atomic.Bool

	mu     sync.Mutex // guards below; held over what a client is told and over the moment of death
	closed bool       // nobody enters or kills it any more
	calls  sync.WaitGroup
	told   checker.Run
	sub    *event.Subscription
	heard  bool   // told is complete
	after  uint64 // events above this number were told by a dead node; 0 while it lives
	writes int    // until a kill; 0 is never
	depth  int    // percent of what was not synced that survives that kill
}

// enter lets a caller use the run until it calls done. It fails once the run is
// dead or about to be stopped.
func (l *life) enter() (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.dead.Load() {
		return nil, false
	}
	l.calls.Add(1)
	return l.calls.Done, true
}

// whenEnding calls cancel when the run is asked to end before ctx ends.
func (l *life) whenEnding(ctx context.Context, cancel context.CancelFunc) {
	go func() {
		select {
		case <-l.ending:
			cancel()
		case <-ctx.Done():
		}
	}()
}

// tell runs f, unless the run is dead: then nobody heard what it said.
func (l *life) tell(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dead.Load() {
		f()
	}
}

// die is the moment of death, of which only the first counts. It does not wait:
// it may be called by a goroutine of the run.
func (l *life) die(unsynced int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.dead.Swap(true) {
		return
	}
	n := l.node
	l.after = l.run.Events().Seq()
	// The log first: a store that is ahead of the log is what a crash leaves, a
	// log that is ahead of the store is not.
	n.wal = n.wal.Clone()
	n.disk = n.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(n.swarm.seed, n.swarm.cuts.Add(1)))})
	go func() {
		defer close(l.ended)
		l.settle()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = l.end() // whatever it says, it is dead
		}()
		select {
		case <-done:
		case <-time.After(patient): // a process would be gone: it stays behind, cut off
		}
	}()
}

// patient is how long a dead run may take to end.
const patient = 30 * time.Second

// listen keeps what the run tells.
func (l *life) listen(ctx context.Context) {
	for {
		select {
		case <-l.sub.Wake():
			l.drain()
		case <-ctx.Done():
			l.drain()
			return
		}
	}
}

func (l *life) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.heard {
		events, lost := l.sub.Take(1000)
		for i, e := range events {
			if l.after == 0 || e.Seq <= l.after {
				if i > 0 {
					lost = 0
				}
				l.told.Add(lost, e.Data)
			}
		}
		if len(events) < 1000 {
			return
		}
	}
}

// end stops the run and waits for all that uses it.
func (l *life) end() error {
	l.mu.Lock()
	l.closed = true
	l.told.Whole = !l.dead.Load() // Run says all before it returns
	l.mu.Unlock()
	close(l.ending)
	l.cancel()
	l.calls.Wait()
	return l.close(<-l.done)
}

// settle takes the last that the run told. Nothing is told afterwards.
func (l *life) settle() {
	l.drain()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.heard {
		l.heard = true
		l.sub.Close()
		l.node.runs = append(l.node.runs, l.told)
	}
}

func (l *life) close(err error) error {
	l.settle()
	return errors.Join(err, l.run.Close())
}

// Kill cuts the power. Of what was not synced, unsynced percent survives. It
// needs Swarm.PowerCuts.
func (n *Node) Kill(unsynced int) {
	if l := n.life.Load(); l != nil {
		l.die(unsynced)
	}
}

// KillAtWrite kills the node just before its disk is asked for the count-th
// next change.
func (n *Node) KillAtWrite(count, unsynced int) {
	if l := n.life.Load(); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.writes, l.depth = count, unsynced
	}
}

// Alive reports whether the node runs. A node that was killed by KillAtWrite
// does not.
func (n *Node) Alive() bool {
	l := n.life.Load()
	return l != nil && !l.dead.Load()
}

// Use lets f use the running node, which is not closed before f returns. It
// reports false when the node does not run.
func (n *Node) Use(f func(*parley.Node)) bool {
	l := n.life.Load()
	if l == nil {
		return false
	}
	done, ok := l.enter()
	if !ok {
		return false
	}
	defer done()
	f(l.run)
	return true
}

// MaybeError implements errorfs.Injector: it never fails, it dies.
func (l *life) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	l.mu.Lock()
	due := false
	if l.writes > 0 {
		l.writes--
		due = l.writes == 0
	}
	depth := l.depth
	l.mu.Unlock()
	if due {
		l.die(depth)
	}
	return nil
}

// String implements errorfs.Injector.
func (l *life) String() string { return "death of " + l.node.Name }
