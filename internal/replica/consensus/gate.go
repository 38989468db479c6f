package consensus

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// gate lets the library run in virtual time. There, time stands still while a
// goroutine waits for a mutex, and the library holds mutexes over time: for
// two ticks before it commits what was in flight, during a sync, and during a
// reconfiguration. The gate sees these coming in the log lines that the
// library writes right before and after, and makes the others wait for a
// channel instead. Outside virtual time it is nil, and does nothing.
type gate struct {
	turn chan struct{}   // holds one token: who may sync or deliver
	left <-chan struct{} // closed when the library stays behind: nobody enters it any more

	informing atomic.Bool // a sync waits for the view changer

	mu     sync.Mutex // guards below; nothing waits under it
	inside int        // messages and other calls in the library
	open   chan struct{}
	empty  chan struct{} // not nil: closed when inside is 0
}

// gateWait bounds each wait: a gate that is wrong about the library must not
// stop it.
const gateWait = time.Second

func newGate(left <-chan struct{}) *gate {
	g := &gate{turn: make(chan struct{}, 1), left: left, open: make(chan struct{})}
	g.turn <- struct{}{}
	close(g.open)
	return g
}

// gated are the log lines that move the gate.
var gated = map[string]func(*gate){
	inFlightLine:    (*gate).shut,
	inFlightStarted: (*gate).reopen,
	reconfigLine:    (*gate).settle,
	reconfigDone:    (*gate).reopen,
	reconfigForeign: (*gate).reopen,
	reconfigEvicted: (*gate).reopen,

	syncTaken:        (*gate).take,
	stateTimeout:     (*gate).synced,
	stateCollected:   (*gate).synced,
	informsLine:      (*gate).informs,
	informedLine:     (*gate).informed,
	controllerStarts: (*gate).informed, // the view changer that a sync waited for has ended
	informedOfOld:    (*gate).informed,
	"Delivering to app from Controller decide the last decision proposal":   (*gate).take,
	"Node %d delivered proposal":                                            (*gate).give,
	"Delivering to app from deliverDecision the last decision proposal":     (*gate).take,
	"Delivering end to app from deliverDecision the last decision proposal": (*gate).give,
	"Delivering to app from Decide the last decision proposal":              (*gate).take,
	"Delivering end to app from Decide the last decision proposal":          (*gate).give,
}

// line is told of each line that the library logs.
func (g *gate) line(template string) {
	if g == nil {
		return
	}
	if act, ok := gated[template]; ok {
		act(g)
	}
}

// enter waits until the library takes messages; leave MUST follow. It ends the
// goroutine where the library was left behind.
func (g *gate) enter() {
	if g == nil {
		return
	}
	for {
		g.mu.Lock()
		open := g.open
		select {
		case <-open:
			g.inside++
			g.mu.Unlock()
			return
		default:
		}
		g.mu.Unlock()
		select {
		case <-open:
		case <-g.left:
			runtime.Goexit()
		}
	}
}

func (g *gate) leave() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// settle shuts once no sync is under way: a reconfiguration waits for its end
// with the lock held, and it ends by a timeout.
func (g *gate) settle() {
	g.take()
	g.give()
	g.shut()
}

// shut keeps messages out and waits until none is in the library.
func (g *gate) shut() {
	g.mu.Lock()
	g.open = make(chan struct{})
	var empty chan struct{}
	if g.inside > 0 {
		if g.empty == nil {
			g.empty = make(chan struct{})
		}
		empty = g.empty
	}
	g.mu.Unlock()
	if empty == nil {
		return
	}
	select {
	case <-empty:
	case <-time.After(gateWait):
	}
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

func (g *gate) take() {
	select {
	case <-g.turn:
	case <-time.After(20 * gateWait):
	}
}

// synced gives the turn back when the sync has come to its end, which no line tells,
// or waits for the view changer: that may be at a block in flight, which has to be
// delivered, and cannot be while the sync holds its lock.
func (g *gate) synced() {
	time.AfterFunc(time.Nanosecond, func() { // all others wait for something by then
		if !g.informing.Load() {
			g.give()
		}
	})
}

func (g *gate) informs() { g.informing.Store(true) }

func (g *gate) informed() {
	if g.informing.Swap(false) {
		g.give()
	}
}

func (g *gate) give() {
	select {
	case g.turn <- struct{}{}:
	default:
	}
}
