package api

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/parley-p2p/parley/event"
)

const (
	lookForReaders = 100 * time.Millisecond // whether anybody follows the log by events
	// maxLogEvents is how many lines become events between two looks: they share
	// the ring of events with those that sinks and others may come back for.
	maxLogEvents = 10
)

// tellLog makes events of the lines of the log, at most 100 a second, as long as
// somebody who may follows them. GET logs has every line.
func (s *Server) tellLog(ctx context.Context) error {
	if s.lines == nil {
		return nil
	}
	f := s.lines.follow(0)
	defer s.lines.leave(f)
	var looked time.Time
	wanted, told := false, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		lines, _ := s.lines.take(f) // what is lost here is lost to nobody but who is too slow anyway
		if now := time.Now(); now.Sub(looked) > lookForReaders {
			looked, wanted, told = now, s.hub.wants(event.LogWritten{}.Type()), 0
		}
		for _, line := range lines {
			if !wanted || told >= maxLogEvents {
				break
			}
			if e, ok := logEvent(line); ok {
				s.node.Events().Publish(e)
				told++
			}
		}
	}
}

// wants tells whether a client takes events of a type.
func (h *hub) wants(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for q := range h.clients {
		q.mu.Lock()
		is := q.filter.match(name)
		q.mu.Unlock()
		if is {
			return true
		}
	}
	return false
}

// logEvent reads a line as the log remembers it.
func logEvent(line []byte) (e event.LogWritten, ok bool) {
	if json.Unmarshal(line, &e.Attrs) != nil {
		return e, false
	}
	for key, to := range map[string]*string{"level": &e.Level, "room": &e.Room, "msg": &e.Msg} {
		_ = json.Unmarshal(e.Attrs[key], to) // a room that is no text is none
		delete(e.Attrs, key)
	}
	delete(e.Attrs, "time") // the event has its own
	e.Level = strings.ToLower(e.Level)
	return e, true
}
