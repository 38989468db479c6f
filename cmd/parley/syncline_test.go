package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/charmbracelet/x/term"

	"github.com/parley-p2p/parley"
)

func TestSyncText(t *testing.T) {
	for _, tt := range []struct {
		sync parley.Sync
		want string
	}{
		{parley.Sync{State: "synced", Target: 812}, "synced"},
		{parley.Sync{State: "waiting"}, "waiting"},
		{parley.Sync{State: "synced", Target: 812, LagBlocks: 2}, "synced, 2 blocks behind 812"},
		{parley.Sync{State: "syncing", Target: 10_000, LagBlocks: 5_000}, "syncing ██████░░░░░░  50%  5,000 of 10,000 blocks"},
		{
			parley.Sync{State: "syncing", Target: 10_000, LagBlocks: 1, ETAS: 192, BlocksS: 811.6, BytesS: 12_340_000},
			"syncing ███████████░  99%  9,999 of 10,000 blocks, 812 blocks/s, 12 MB/s, 3m left",
		},
	} {
		if got := syncText(tt.sync); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.sync, got, tt.want)
		}
	}
	for _, target := range []uint64{999_999, 9_999_999, 123_456_789} {
		y := parley.Sync{State: "syncing", Target: target, LagBlocks: 1, ETAS: 35_999, BlocksS: 12_345, BytesS: 123_400_000}
		if line := "sync        " + syncText(y); utf8.RuneCountInString(line) > 100 {
			t.Errorf("%d columns: %q", utf8.RuneCountInString(line), line)
		}
	}
}

// paper is a terminal in memory, which is none to [terminal].
type paper struct {
	term.File
	bytes.Buffer
}

func (p *paper) Fd() uintptr                       { return ^uintptr(0) }
func (p *paper) Read(b []byte) (int, error)        { return p.Buffer.Read(b) }
func (p *paper) Write(b []byte) (int, error)       { return p.Buffer.Write(b) }
func (p *paper) WriteString(s string) (int, error) { return p.Buffer.WriteString(s) }

// TestScreen: log lines go by above the line that stays, and no piece of it is
// left behind.
func TestScreen(t *testing.T) {
	p := &paper{}
	if w, s := onScreen(p); w != p || s != nil {
		t.Error("what is no terminal got a line that stays")
	}
	s := &screen{File: p}
	put := func(text string) {
		if n, err := s.Write([]byte(text)); n != len(text) || err != nil {
			t.Error(n, err)
		}
	}
	put("one\n")
	s.line = "line" // as show sets it on a terminal
	put("two\n")
	s.show("")
	put("three\n")
	if got, want := p.String(), "one\n"+clearLine+"two\nline"+clearLine+"three\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if strings.Contains(fit("█████", 4), "████") || fit("███", 4) != "███" {
		t.Error("a line is not cut to the terminal's width")
	}
}
