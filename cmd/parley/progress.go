package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

const (
	barCells = 24
	barEach  = 100 * time.Millisecond // on a terminal
	lineEach = 2 * time.Second        // elsewhere
)

// bar shows how long work goes on: one line that is drawn anew on a terminal,
// a line now and then elsewhere, nothing with -q. It is for one goroutine.
type bar struct {
	w     io.Writer
	width int // of the terminal, 0 = none
	quiet bool
	began time.Time
	last  time.Time
	drawn bool
}

func newBar(g *globals) *bar {
	b := &bar{w: g.err, quiet: g.quiet, began: time.Now(), last: time.Now()}
	b.width, _ = terminal(g.err)
	return b
}

// show draws done of total, below 0 where nobody knows it, when it is time to.
func (b *bar) show(done, total int64, text string) {
	each := lineEach
	if b.width > 0 {
		each = barEach
	}
	now := time.Now()
	if b.quiet || now.Sub(b.last) < each {
		return
	}
	b.last, b.drawn = now, true
	if total < 0 {
		if b.width > 0 {
			fmt.Fprint(b.w, clearLine, fit(text, b.width))
		} else {
			fmt.Fprintln(b.w, text)
		}
		return
	}
	part := 1.0
	if total > 0 {
		part = min(float64(done)/float64(total), 1)
	}
	left := ""
	if part > 0 && part < 1 {
		left = ", " + age(time.Duration(float64(now.Sub(b.began))*(1-part)/part)) + " left"
	}
	if b.width == 0 {
		fmt.Fprintf(b.w, "%3.0f%%  %s%s\n", part*100, text, left)
		return
	}
	fmt.Fprint(b.w, clearLine, fit(fmt.Sprintf("%s  %s%s", cells(part, barCells), text, left), b.width))
}

// clearLine goes back to the start of a terminal's line and wipes it.
const clearLine = "\r\x1b[K"

// cells draws a part of 1 in n cells, which is not shown as whole before it is.
func cells(part float64, n int) string {
	full := int(part * float64(n))
	return fmt.Sprintf("%s%s %3.0f%%", strings.Repeat("█", full), strings.Repeat("░", n-full), math.Floor(part*100))
}

// fit cuts a line to what one line of the terminal takes.
func fit(line string, width int) string {
	if r := []rune(line); len(r) >= width {
		return string(r[:width-1])
	}
	return line
}

// end takes the line away.
func (b *bar) end() {
	if b.drawn && b.width > 0 {
		fmt.Fprint(b.w, clearLine)
	}
}
