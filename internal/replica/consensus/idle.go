package consensus

import (
	"runtime"
	"sync"
)

// The lines around what the library's controller does. Its view changer hands it
// an abort and waits until it is taken, for ever where the controller has ended
// or never gets out of a decision: a reconfiguration, and the end of the library,
// then wait for the view changer.
const (
	controllerStarts  = "Starting controller with view %d, sequence %d, and decisions %d"
	controllerEnds    = "Exiting controller run; ID: %d"
	controllerDecides = "Delivering to app from Controller decide the last decision proposal"
	controllerDecided = "view(%d) + (decisionsInView(%d) / decisionsPerLeader(%d)), N(%d), blacklist(%v)"
	newViewTaken      = "get newView from viewChange"
	syncTaken         = "get msg from syncChan"
	viewIsOld         = "Got view change to %d but already at %d"
	viewIsRunning     = "Got view change to %d but view is already running"
	abortTaken        = "view for abort %d, current view %d" // or the controller changes the view
	abortLine         = "AbortView, the current view num is %d"
)

// controllerWatch knows whether the controller takes anything.
type controllerWatch struct {
	mu   sync.Mutex    // guards below
	gone bool          // it has ended
	own  bool          // the next abort is its own: it changes the view, which ends the one before
	idle chan struct{} // closed when it is out of its decision, nil outside one
	held chan struct{} // closed when it takes the abort that waits, nil without one; there is room for one
}

func (w *controllerWatch) line(template string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch template {
	case controllerStarts:
		w.gone, w.own = false, false
		w.taken() // nobody takes what waited for the one before
	case newViewTaken, syncTaken:
		w.own = true
	case viewIsOld, viewIsRunning:
		w.own = false
	case abortTaken:
		if !w.own {
			w.taken()
		}
		w.own = false
	case controllerDecides:
		if w.idle == nil {
			w.idle = make(chan struct{})
		}
	case controllerEnds, controllerDecided:
		if w.gone = template == controllerEnds; w.gone {
			w.taken()
		}
		if w.idle != nil {
			close(w.idle)
			w.idle = nil
		}
	}
}

// taken ends the wait for the abort. mu held.
func (w *controllerWatch) taken() {
	if w.held != nil {
		close(w.held)
		w.held = nil
	}
}

// abort reports whether the controller takes an abort now, which counts as handed
// over; else it is gone, or busy until a channel is closed.
func (w *controllerWatch) abort() (ok, gone bool, busy chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.gone:
		return false, true, nil
	case w.idle != nil:
		return false, false, w.idle
	case w.held != nil:
		return false, false, w.held
	}
	w.held = make(chan struct{})
	return true, false, nil
}

// meetController is called by the view changer, which waits here instead of
// there, and ends where there is nobody to take its abort any more.
func (s *session) meetController() {
	for {
		ok, gone, busy := s.controller.abort()
		if ok {
			return
		}
		if !gone {
			select {
			case <-busy:
				continue
			case <-s.ending:
			}
		}
		s.log.Debug("view changer ends: nobody takes its abort")
		runtime.Goexit()
	}
}
