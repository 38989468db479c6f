package main

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/charmbracelet/x/term"
	humanize "github.com/dustin/go-humanize"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/event"
)

const syncCells = 12 // with the longest figures beside it the line has 100 columns

// syncText says where a node stands: the state alone, or how far it is, how
// fast, and how long it still takes.
func syncText(s parley.Sync) string {
	if s.LagBlocks == 0 || s.Target == 0 {
		return s.State
	}
	if s.State != "syncing" {
		return fmt.Sprintf("%s, %s behind %d", s.State, count(s.LagBlocks, "block"), s.Target)
	}
	have := s.Target - s.LagBlocks
	text := fmt.Sprintf("syncing %s  %s of %s blocks", cells(float64(have)/float64(s.Target), syncCells), blocks(have), blocks(s.Target))
	if s.BlocksS > 0 {
		text += fmt.Sprintf(", %s/s, %s/s", count(uint64(s.BlocksS+0.5), "block"), humanize.Bytes(uint64(s.BytesS)))
	}
	if s.ETAS > 0 {
		text += ", " + seconds(s.ETAS) + " left"
	}
	return text
}

// blocks is a height, in full as long as the line stays within 100 columns.
func blocks(n uint64) string {
	if n < 1_000_000 {
		return humanize.Comma(int64(n))
	}
	return fmt.Sprintf("%.2fM", float64(n/10_000)/100)
}

// screen is a terminal on which a log goes by above one line that stays.
type screen struct {
	term.File
	mu   sync.Mutex // guards line and what is written
	line string
}

// Write implements [io.Writer]: p is whole lines.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return s.File.Write(p)
	}
	out := append([]byte(clearLine), p...)
	if _, err := s.File.Write(append(out, s.line...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// show draws the line that stays; "" takes it away.
func (s *screen) show(line string) {
	if line != "" {
		width, _ := terminal(s.File)
		line = fit(line, width)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if line != s.line {
		s.line = line
		_, _ = io.WriteString(s.File, clearLine+line)
	}
}

// onScreen is w with a line that stays, where w is a terminal; else w and nil.
func onScreen(w io.Writer) (io.Writer, *screen) {
	if f, ok := w.(term.File); ok {
		if _, ok := terminal(f); ok {
			s := &screen{File: f}
			return s, s
		}
	}
	return w, nil
}

// showSync draws how far the node is, while it catches up.
func (s *screen) showSync(ctx context.Context, n *parley.Node) {
	sub := n.Events().Subscribe()
	defer sub.Close()
	defer s.show("")
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.Wake():
		}
		events, _ := sub.Take(1024)
		for _, e := range events {
			if y, ok := e.Data.(event.SyncChanged); ok {
				line := ""
				if y.State == "syncing" {
					line = syncText(parley.Sync(y))
				}
				s.show(line)
			}
		}
	}
}
