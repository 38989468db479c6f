package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/lmittmann/tint"

	"github.com/parley-p2p/parley/config"
)

// newLog makes the log of a node: on stderr, with a level for each room.
func newLog(cfg config.Log, w io.Writer) (*slog.Logger, error) {
	root, rooms, err := config.ParseLogLevel(cfg.Level)
	if err != nil {
		return nil, err
	}
	return slog.New(&roomHandler{Handler: formatHandler(cfg.Format, w), rooms: rooms, level: root}), nil
}

func formatHandler(format string, w io.Writer) slog.Handler {
	_, tty := terminal(w)
	if format == "auto" {
		format = "json"
		if toJournal, err := journal.StderrIsJournalStream(); tty {
			format = "text"
		} else if err == nil && toJournal {
			format = "journal"
		}
	}
	all := &slog.HandlerOptions{Level: slog.LevelDebug} // roomHandler decides
	switch format {
	case "text":
		return tint.NewTextHandler(w, &tint.Options{Level: all.Level, TimeFormat: time.TimeOnly + ".000", NoColor: !tty || noColor()})
	case "journal":
		return newJournalHandler(w)
	}
	all.ReplaceAttr = plain
	return slog.NewJSONHandler(w, all)
}

// plain writes addresses and durations as people write them.
func plain(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case time.Duration:
		a.Value = slog.StringValue(v.String())
	case net.Addr:
		a.Value = slog.StringValue(v.String())
	}
	return a
}

// roomHandler lets through what the level of the logger's room asks for. The
// room is the attribute of that name; p2p stands for p2p.gossip too.
type roomHandler struct {
	slog.Handler
	rooms map[string]slog.Level
	level slog.Level
}

func (h *roomHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *roomHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.Handler = h.Handler.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == "room" {
			next.level = h.levelOf(a.Value.String())
		}
	}
	return &next
}

func (h *roomHandler) WithGroup(name string) slog.Handler {
	next := *h
	next.Handler = h.Handler.WithGroup(name)
	return &next
}

func (h *roomHandler) levelOf(room string) slog.Level {
	for {
		if level, ok := h.rooms[room]; ok {
			return level
		}
		i := strings.LastIndexByte(room, '.')
		if i < 0 {
			return h.level
		}
		room = room[:i]
	}
}

// journalHandler writes lines for the journal of systemd: it reads the level
// from their beginning and knows the time itself.
type journalHandler struct {
	slog.Handler // writes to buf
	out          *journalOut
}

type journalOut struct {
	mu  sync.Mutex // guards below
	buf bytes.Buffer
	w   io.Writer
}

func newJournalHandler(w io.Writer) *journalHandler {
	out := &journalOut{w: w}
	return &journalHandler{out: out, Handler: slog.NewTextHandler(&out.buf, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})}
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.buf.Reset()
	h.out.buf.WriteString(priority(r.Level))
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.out.w.Write(h.out.buf.Bytes())
	return err
}

func priority(l slog.Level) string { // of syslog, as sd-daemon(3) has it
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.Handler.WithAttrs(attrs), h.out}
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.Handler.WithGroup(name), h.out}
}
