package api

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/parley-p2p/parley/config"
)

const (
	lastLines   = 2000    // that a log remembers
	lastBytes   = 1 << 20 // and their bytes at most
	maxLogLine  = 8 << 10 // bytes of one that is remembered or followed
	lineQueue   = 1024    // that wait for one follower
	maxRooms    = 64      // with a level of their own
	maxRoomName = 64      // bytes
	defaultRoom = "default"
)

// Log is the log of a process: a level for each room, which can change while it
// runs, and the last lines. Make a [slog.Logger] of its Handler. All methods are
// safe for concurrent use.
type Log struct {
	next   slog.Handler
	write  func(groups []string, a slog.Attr) slog.Attr // attributes of a remembered line
	levels atomic.Pointer[levels]

	mu        sync.Mutex // guards below
	last      [][]byte   // the newest lines, as JSON
	bytes     int        // of last
	followers map[*follower]struct{}
	buf       bytes.Buffer // line writes to it
}

// levels never change: a new level is a new one.
type levels struct {
	text  string
	root  slog.Level
	rooms map[string]slog.Level
}

// follower is somebody who reads the log as it is written.
type follower struct {
	wake  chan struct{} // holds one
	lines [][]byte      // guarded by the log's mu, as all below
	room  int           // for so many
	lost  int           // lines that had none
}

// NewLog makes a log that writes to next what level lets through, which is as
// in log.level: info,p2p.gossip=debug. next MUST take every level. write, which
// may be nil, is the ReplaceAttr of the lines that the log remembers.
func NewLog(next slog.Handler, level string, write func(groups []string, a slog.Attr) slog.Attr) (*Log, error) {
	l := &Log{next: next, write: write, followers: map[*follower]struct{}{}}
	return l, l.SetLevel(level)
}

// Level is what SetLevel was given last.
func (l *Log) Level() string { return l.levels.Load().text }

// SetLevel changes what the log lets through from now on.
func (l *Log) SetLevel(text string) error {
	act, err := l.judge(text)
	if err == nil {
		act()
	}
	return err
}

// TakeLevel judges log.level, and act takes it over, for [parley.Env.Live].
func (l *Log) TakeLevel(cfg config.Config) (act func(), err error) { return l.judge(cfg.Log.Level) }

func (l *Log) judge(text string) (act func(), err error) {
	root, rooms, err := config.ParseLogLevel(text)
	return func() { l.levels.Store(&levels{text, root, rooms}) }, err
}

// Handler takes records for the log. The room of a logger is its attribute of
// that name; a level of p2p stands for p2p.gossip too.
func (l *Log) Handler() slog.Handler {
	return &roomHandler{log: l, next: l.next, line: l.toMemory()}
}

// toMemory writes to buf, as long as mu is held.
func (l *Log) toMemory() slog.Handler {
	return slog.NewJSONHandler(&l.buf, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: l.write})
}

// of returns the level of a room.
func (v *levels) of(room string) slog.Level {
	for room != "" {
		if level, ok := v.rooms[room]; ok {
			return level
		}
		room = room[:max(0, strings.LastIndexByte(room, '.'))]
	}
	return v.root
}

// view tells levels as people name them, the room "default" for all others.
func (v *levels) view() map[string]string {
	m := map[string]string{defaultRoom: levelName(v.root)}
	for room, level := range v.rooms {
		m[room] = levelName(level)
	}
	return m
}

func levelName(l slog.Level) string { return strings.ToLower(l.String()) }

// levelText makes what SetLevel takes of what view returns.
func levelText(m map[string]string) (string, error) {
	root, ok := m[defaultRoom]
	if !ok {
		return "", fmt.Errorf("the level of %q is missing: it is that of all rooms that are not named", defaultRoom)
	}
	if len(m) > maxRooms {
		return "", fmt.Errorf("%d rooms have a level of their own, at most %d may", len(m)-1, maxRooms-1)
	}
	parts := []string{root}
	for _, room := range slices.Sorted(maps.Keys(m)) {
		if len(room) > maxRoomName || strings.ContainsAny(room, ",=") {
			return "", fmt.Errorf("%q is no name of a room", room[:min(len(room), maxRoomName)])
		}
		if room != defaultRoom {
			parts = append(parts, room+"="+m[room])
		}
	}
	return strings.Join(parts, ","), nil
}

// roomHandler is the log for one logger.
type roomHandler struct {
	log  *Log
	next slog.Handler
	line slog.Handler // writes to log.buf
	room string

	cached atomic.Pointer[roomLevel]
}

// roomLevel is the level of a room, and what it was read from.
type roomLevel struct {
	from  *levels
	level slog.Level
}

func (h *roomHandler) Enabled(_ context.Context, level slog.Level) bool {
	now, c := h.log.levels.Load(), h.cached.Load()
	if c == nil || c.from != now {
		c = &roomLevel{now, now.of(h.room)}
		h.cached.Store(c)
	}
	return level >= c.level
}

func (h *roomHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.next.Handle(ctx, r)
	h.log.keep(ctx, h.line, r)
	return err
}

func (h *roomHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	room := h.room
	for _, a := range attrs {
		if a.Key == "room" {
			room = a.Value.String()
		}
	}
	return &roomHandler{log: h.log, next: h.next.WithAttrs(attrs), line: h.line.WithAttrs(attrs), room: room}
}

func (h *roomHandler) WithGroup(name string) slog.Handler {
	return &roomHandler{log: h.log, next: h.next.WithGroup(name), line: h.line.WithGroup(name), room: h.room}
}

// keep remembers a line and gives it to those who follow.
func (l *Log) keep(ctx context.Context, line slog.Handler, r slog.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
	if line.Handle(ctx, r) != nil {
		return // a value that is no JSON is told of in the line itself
	}
	b := bytes.TrimSuffix(bytes.Clone(l.buf.Bytes()), []byte("\n"))
	if len(b) > maxLogLine { // cut JSON would be none
		l.buf.Reset()
		short := slog.NewRecord(r.Time, r.Level, r.Message[:min(len(r.Message), maxLogLine/8)], r.PC)
		short.AddAttrs(slog.Int("cut_bytes", len(b)))
		_ = l.toMemory().Handle(ctx, short) // memory takes it
		b = bytes.TrimSuffix(bytes.Clone(l.buf.Bytes()), []byte("\n"))
	}
	l.last, l.bytes = append(l.last, b), l.bytes+len(b)
	for len(l.last) > lastLines || l.bytes > lastBytes {
		l.bytes -= len(l.last[0])
		l.last = l.last[1:]
	}
	for f := range l.followers {
		if len(f.lines) >= f.room {
			f.lost++
			continue
		}
		f.lines = append(f.lines, b)
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// lastWritten returns the newest lines, at most n.
func (l *Log) lastWritten(n int) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.last[max(0, len(l.last)-n):])
}

// follow begins with the newest n lines. Who follows MUST leave.
func (l *Log) follow(n int) *follower {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &follower{wake: make(chan struct{}, 1), lines: slices.Clone(l.last[max(0, len(l.last)-n):])}
	f.room = len(f.lines) + lineQueue
	f.wake <- struct{}{}
	l.followers[f] = struct{}{}
	return f
}

func (l *Log) leave(f *follower) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.followers, f)
}

// take returns what was written since, and how many lines were lost after it.
func (l *Log) take(f *follower) (lines [][]byte, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines, lost = f.lines, f.lost
	f.lines, f.lost, f.room = nil, 0, lineQueue
	return lines, lost
}
