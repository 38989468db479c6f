package api

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

func newTestLog(t *testing.T, level string) (*Log, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	l, err := NewLog(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), level, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l, &out
}

// A logger that was made before asks for its level anew.
func TestLevelsChangeUnderLoggers(t *testing.T) {
	l, out := newTestLog(t, "warn,p2p=info")
	log := slog.New(l.Handler())
	gossip, dialer := log.With("room", "p2p.gossip").With("topic", "block"), log.With("room", "p2p.dialer").WithGroup("g")
	says := func() (words string) {
		out.Reset()
		for _, x := range []struct {
			name string
			log  *slog.Logger
		}{{"root", log}, {"gossip", gossip}, {"dialer", dialer}} {
			for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
				before := out.Len()
				x.log.Log(t.Context(), level, "said")
				if out.Len() > before {
					words += x.name + " " + level.String() + "\n"
				}
			}
		}
		return words
	}
	for _, c := range []struct{ level, want string }{
		{"", "root WARN\ngossip INFO\ngossip WARN\ndialer INFO\ndialer WARN\n"},
		{"error,p2p.gossip=debug", "gossip DEBUG\ngossip INFO\ngossip WARN\n"},
		{"info,p2p=error,p2p.dialer=warn", "root INFO\nroot WARN\ndialer WARN\n"},
	} {
		if c.level != "" {
			if err := l.SetLevel(c.level); err != nil {
				t.Fatal(err)
			}
		}
		if got := says(); got != c.want {
			t.Errorf("at %q it says\n%s, want\n%s", c.level, got, c.want)
		}
	}
	if err := l.SetLevel("loud"); err == nil || l.Level() != "info,p2p=error,p2p.dialer=warn" {
		t.Errorf("level is %s after one that is none: %v", l.Level(), err)
	}
}

// What a log keeps, and what a reader who stands still holds, has an end.
func TestLogIsBounded(t *testing.T) {
	l, _ := newTestLog(t, "info")
	log := slog.New(l.Handler())
	f := l.follow(0)
	defer l.leave(f)
	for range lineQueue + 7 {
		log.Info("line")
	}
	if lines, lost := l.take(f); len(lines) != lineQueue || lost != 7 {
		t.Errorf("%d lines waited and %d were lost, want %d and 7", len(lines), lost, lineQueue)
	}
	log.Info("after")
	if lines, lost := l.take(f); len(lines) != 1 || lost != 0 || !strings.Contains(string(lines[0]), "after") {
		t.Errorf("%d lines, %d lost, after it read again", len(lines), lost)
	}
	for range lastLines {
		log.Info("x", "v", strings.Repeat("v", maxLogLine/2))
	}
	if len(l.last) > lastLines || l.bytes > lastBytes || l.bytes < lastBytes-maxLogLine {
		t.Errorf("%d lines of %d bytes are kept", len(l.last), l.bytes)
	}
	for range lastLines {
		log.Info("line")
	}
	late := l.follow(lastLines) // more than what waits for one who reads
	defer l.leave(late)
	for range lineQueue + 7 {
		log.Info("line")
	}
	if lines, lost := l.take(late); len(lines) != lastLines+lineQueue || lost != 7 {
		t.Errorf("%d lines waited beside the first ones and %d were lost, want %d and 7", len(lines)-lastLines, lost, lineQueue)
	}
	log.Info("long", "v", strings.Repeat("v", maxLogLine))
	last := l.lastWritten(1)[0]
	var line struct {
		Msg string `json:"msg"`
		Cut int    `json:"cut_bytes"`
	}
	if err := json.Unmarshal(last, &line); err != nil || line.Msg != "long" || line.Cut <= maxLogLine || len(last) > maxLogLine {
		t.Errorf("a long line is kept as %.200s (%v)", last, err)
	}
}

// Levels, lines and readers may come and go at once; -race looks.
func TestLogInUse(t *testing.T) {
	l, err := NewLog(slog.DiscardHandler, "info", nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		log := slog.New(l.Handler()).With("room", "p2p.gossip", "i", i)
		wg.Go(func() {
			for range 500 {
				log.Debug("some")
			}
		})
		wg.Go(func() {
			for range 100 {
				f := l.follow(10)
				_, _ = l.take(f)
				l.leave(f)
				_ = l.SetLevel([]string{"info", "debug"}[i%2])
			}
		})
	}
	wg.Wait()
	_ = l.Handler().Handle(context.Background(), slog.Record{Message: "end"})
	if got := l.lastWritten(1); len(got) != 1 || !bytes.Contains(got[0], []byte(`"msg":"end"`)) {
		t.Errorf("last line %s", got)
	}
}

func TestLevelText(t *testing.T) {
	text, err := levelText(map[string]string{"default": "info", "p2p.gossip": "debug", "api": "warn"})
	if err != nil || text != "info,api=warn,p2p.gossip=debug" {
		t.Errorf("%q, %v", text, err)
	}
	for _, bad := range []map[string]string{nil, {"p2p": "debug"}, {"default": "info", "a,b": "debug"}, {"default": "info", strings.Repeat("r", maxRoomName+1): "debug"}} {
		if text, err := levelText(bad); err == nil {
			t.Errorf("%v became %q", bad, text)
		}
	}
}
