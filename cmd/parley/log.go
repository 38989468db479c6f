package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/lmittmann/tint"

	"github.com/parley-p2p/parley/api"
	"github.com/parley-p2p/parley/config"
)

// newLog makes the log of a node: on stderr, with a level for each room.
func newLog(cfg config.Log, w io.Writer) (*api.Log, error) {
	return api.NewLog(formatHandler(cfg.Format, w), cfg.Level, plain)
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
	all := &slog.HandlerOptions{Level: slog.LevelDebug} // api.Log decides
	switch format {
	case "text":
		return tint.NewTextHandler(w, &tint.Options{Level: all.Level, TimeFormat: time.TimeOnly + ".000", NoColor: !tty || noColor(), ReplaceAttr: plain})
	case "journal":
		return newJournalHandler(w)
	}
	all.ReplaceAttr = plain
	return slog.NewJSONHandler(w, all)
}

const logTime = "2006-01-02T15:04:05.000Z" // of an attribute, in UTC

// plain writes addresses, durations and times as people write them; a line's
// own time is the handler's.
func plain(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return a
	}
	switch v := a.Value.Any().(type) {
	case time.Time:
		a.Value = slog.StringValue(v.UTC().Format(logTime))
	case *time.Time:
		a.Value = slog.AnyValue(nil)
		if v != nil {
			a.Value = slog.StringValue(v.UTC().Format(logTime))
		}
	case time.Duration:
		a.Value = slog.StringValue(v.String())
	case net.Addr:
		a.Value = slog.StringValue(v.String())
	}
	return a
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
			return plain(groups, a)
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
