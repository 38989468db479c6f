package consensus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/parley-p2p/parley/event"
)

const (
	healthyAfter = time.Minute      // a session of that length clears the marks
	crashWindow  = 10 * time.Minute // in which
	crashLimit   = 3                // crashes at one height stop the engine
	maxWarnings  = 10               // a second: others can provoke them
	maxWarning   = 200              // bytes of one such line
	maxLine      = 1 << 10          // bytes of another
)

// crash is one mark in crashes.json.
type crash struct {
	Time   time.Time `json:"time"`
	Height uint64    `json:"height"`
	Reason string    `json:"reason"`
}

func (e *Engine) crashFile() string { return filepath.Join(e.cfg.WALDir, "crashes.json") }

// die ends the process: the library runs in goroutines of its own, where no
// error can be returned, and what is on disk is good.
func (e *Engine) die(reason string) {
	height := e.ledger.Tip().Head.Height
	e.log.Error("consensus stopped the process", "reason", reason, "height", height)
	if !e.cfg.InMemoryWAL {
		e.markCrash(crash{Time: time.Now(), Height: height, Reason: reason})
	}
	if e.cfg.End != nil {
		e.cfg.End()
	}
	if died := e.cfg.Memory; died != nil && died.Died != nil {
		died.Died(reason)
		runtime.Goexit()
	}
	panic("consensus: " + reason)
}

func (e *Engine) markCrash(c crash) {
	marks := append(e.readCrashes(), c)
	if b, err := json.Marshal(marks[max(0, len(marks)-crashLimit):]); err == nil {
		_ = os.WriteFile(e.crashFile(), b, 0o600)
	}
}

// PanicFile is where the trace of the last process is, in the directory of the
// write-ahead log, if it ended by a panic that nobody could tell the engine of.
const PanicFile = "panic.last"

// countPanic counts such a panic of the library as a crash.
func (e *Engine) countPanic() {
	path := filepath.Join(e.cfg.WALDir, PanicFile)
	info, err := os.Stat(path)
	if err != nil {
		return
	}
	trace, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(trace, []byte("SmartBFT")) {
		return
	}
	first, _, _ := strings.Cut(string(trace), "\n")
	e.log.Error("the last process ended by a panic of the engine", "reason", cut(first, maxLine), "trace", path)
	e.markCrash(crash{Time: info.ModTime(), Height: e.ledger.Tip().Head.Height, Reason: cut(first, maxWarning)})
	if err := os.Rename(path, path+".counted"); err != nil {
		e.log.Warn("trace of a panic not set aside", "err", err)
	}
}

// readCrashes takes an unreadable file for an empty one: it must not keep a
// node from starting.
func (e *Engine) readCrashes() []crash {
	var marks []crash
	b, err := os.ReadFile(e.crashFile())
	if err != nil || json.Unmarshal(b, &marks) != nil {
		return nil
	}
	return marks
}

func (e *Engine) forgetCrashes() {
	if err := os.Remove(e.crashFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.log.Warn("crash marks not removed", "err", err)
	}
}

// mayStart is the brake: an engine that crashed again and again at one height
// would do it again.
func (e *Engine) mayStart() error {
	if e.cfg.InMemoryWAL {
		return nil
	}
	e.countPanic()
	height := e.ledger.Tip().Head.Height
	var recent []crash
	for _, c := range e.readCrashes() {
		if age := time.Since(c.Time); c.Height == height && age >= 0 && age < crashWindow {
			recent = append(recent, c)
		}
	}
	n := len(recent)
	held := event.FindingChanged{Code: "PLY-606", Severity: "ok", Title: "engine_held_back", Why: "the engine runs again"}
	if n < crashLimit {
		e.found(held)
		return nil
	}
	brake := &BrakeError{Until: recent[n-crashLimit].Time.Add(crashWindow), crashes: n, height: height, last: recent[n-1].Reason}
	e.log.Error("engine held back after crashes at one height", "crashes", n, "height", height, "until", brake.Until, "reason", brake.last)
	held.Severity, held.Why = "crit", brake.Error()+"; reads go on; report the reason, and see the log"
	e.found(held)
	return brake
}

// BrakeError is an ErrQuarantined after crashes. It ends with the next block,
// and at Until too.
type BrakeError struct {
	Until   time.Time
	crashes int
	height  uint64
	last    string // reason
}

func (b *BrakeError) Error() string {
	return fmt.Sprintf("%d crashes at height %d, the last: %s: this validator does not vote before the next block, or before %s", b.crashes, b.height, b.last, b.Until.UTC().Format(time.RFC3339))
}

// Is makes it an ErrQuarantined.
func (b *BrakeError) Is(target error) bool { return target == ErrQuarantined }

// logger is the library's logger. Its own words go to Debug, but for warnings,
// which others can provoke and which are therefore limited.
type logger struct {
	*session

	mu     sync.Mutex // guards below
	second int64
	count  int
}

// lateNewView is what the library dies of where a sync overtakes a new view that
// it has already taken: see outdated for those that it has not.
const lateNewView = "Node %d got an in flight proposal with sequence %d while its last decision was on sequence %d"

// The lines about a vote to change the view that does not count: when it is for
// another view than the next one, and when the voter was helped on.
const (
	voteElsewhere = "Node %d got viewChange message %v from %d with view %d, expected view %d"
	voteHelped    = voteElsewhere + ", help the lagging nodes"
)

// isLateVote reports whether a line is about a vote for a view that this node
// is in, or past: a quorum was enough, and the rest of the votes come after it
// in each change. One for a view to come is another matter.
func isLateVote(template string, args []any) bool {
	if template != voteElsewhere && template != voteHelped {
		return false
	}
	vote, ok := number(args, 3)
	next, ok2 := number(args, 4)
	return ok && ok2 && vote < next
}

// viewLine is the line by which the library tells its view.
const viewLine = "Starting view with number %d, sequence %d, and decisions %d"

func (l *logger) Debugf(template string, args ...any) { l.note(template, args) }

func (l *logger) Infof(template string, args ...any) {
	l.note(template, args)
	l.log.Debug("smartbft", "line", lazyLine{template, args, maxLine})
}

func (l *logger) Warnf(template string, args ...any)  { l.warn(template, args) }
func (l *logger) Errorf(template string, args ...any) { l.warn(template, args) }

// Panicf ends the process.
func (l *logger) Panicf(template string, args ...any) {
	l.fence()
	if template == lateNewView {
		l.anew(whyAhead)
		runtime.Goexit()
	}
	l.die(line(template, args, maxLine))
}

func (l *logger) warn(template string, args []any) {
	l.mayAccuse(template)
	l.gate.line(template)
	if isLateVote(template, args) {
		l.log.Debug("smartbft", "line", lazyLine{template, args, maxLine})
		l.mayAccuse(template)
		return
	}
	l.mu.Lock()
	if now := time.Now().Unix(); now != l.second {
		l.second, l.count = now, 0
	}
	l.count++
	ok := l.count <= maxWarnings
	l.mu.Unlock()
	if ok {
		l.log.Warn("smartbft", "line", lazyLine{template, args, maxWarning})
	}
	l.mayAccuse(template) // the view may have changed while the line was written
}

// note acts on the lines by which the library tells what it is about to do.
func (l *logger) note(template string, args []any) {
	l.mayAccuse(template)
	l.gate.line(template)
	l.handover(template)
	l.controller.line(template)
	l.syncLine(template)
	switch template {
	case controllerStarts:
		l.complained(false) // the view changer is a new one too
		if view, ok := number(args, 0); ok {
			l.early.restart(view)
		}
		l.confirms.reset()
		l.asked.reset()
		l.syncEnd.clear() // the view changer that a sync waited for may have ended
		l.syncing.Store(false)
	case abortLine:
		l.meetController()
	case viewLine:
		if view, ok := number(args, 0); ok {
			l.viewStarted(view)
		}
	case complaintLine:
		l.complained(true)
	case joinedLine, informedLine:
		l.complained(false)
		if view, ok := number(args, 1); ok {
			if template == informedLine {
				l.early.dropNewViews(view)
				l.confirms.drop(view)
			}
			l.reached(view, 0)
		}
		if template == joinedLine {
			l.awaitNewView()
			l.joined()
		}
	case inFlightLine:
		l.awaitInFlight(true)
	case inFlightStarted:
		l.handOver(l.early.deciding(true))
	case inFlightBehind:
		l.anew(whyInFlight)
		runtime.Goexit()
	case inFlightDecided, inFlightSynced, inFlightLate, inFlightStopped:
		l.early.deciding(false)
		l.awaitInFlight(false)
	case reconfigLine:
		l.reconfiguring(true)
	case reconfigDone, reconfigEvicted, reconfigForeign:
		l.reconfiguring(false)
		l.turn.end()
	}
}

// number is the i-th argument of a line.
func number(args []any, i int) (n uint64, ok bool) {
	if i < len(args) {
		n, ok = args[i].(uint64)
	}
	return n, ok
}

// lazyLine is put together only where it is written.
type lazyLine struct {
	template string
	args     []any
	max      int // bytes
}

func (l lazyLine) LogValue() slog.Value { return slog.StringValue(line(l.template, l.args, l.max)) }

func line(template string, args []any, limit int) string {
	return cut(fmt.Sprintf(template, args...), limit)
}

// cut keeps limit bytes of s, on one line.
func cut(s string, limit int) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
}
