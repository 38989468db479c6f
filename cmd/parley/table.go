package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
	humanize "github.com/dustin/go-humanize"
)

// A column of a table.
type column struct {
	name  string
	wide  bool // only with -o wide, and in csv
	right bool
	cut   bool // the last one: cells are cut so that a row is one line, off a terminal too
	most  int  // columns of a cell but with -o wide, 0 = any number
}

// table is rows for people. Without columns it is a list of facts: name and
// value.
type table struct {
	columns []column
	rows    [][]string
	empty   string // what to say, on stderr, where there is no row
	whole   bool   // lines are not cut at the edge of a terminal, as with -o wide
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// facts makes a table of names and values.
func facts(pairs ...string) *table {
	t := &table{}
	for i := 0; i+1 < len(pairs); i += 2 {
		t.add(pairs[i], pairs[i+1])
	}
	return t
}

func (t *table) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	if t.columns != nil {
		names := make([]string, len(t.columns))
		for i, col := range t.columns {
			names[i] = strings.ToLower(strings.ReplaceAll(col.name, " ", "_"))
		}
		if err := c.Write(names); err != nil {
			return err
		}
	}
	return c.WriteAll(t.rows)
}

// print aligns the columns. On a terminal a line that would be too long is cut.
func (t *table) print(w io.Writer, wide bool) error {
	l := layout{columns: t.columns, bold: t.columns == nil}
	if l.columns == nil {
		l.columns = []column{{}, {}}
	}
	if !wide && !t.whole {
		l.room, _ = terminal(w)
	}
	l.widths = make([]int, len(l.columns))
	rows := make([][]string, len(t.rows))
	for n, row := range t.rows {
		for _, cell := range row {
			rows[n] = append(rows[n], strings.Map(printable, cell))
		}
	}
	for i, c := range l.columns {
		if c.wide && !wide {
			continue
		}
		l.shown = append(l.shown, i)
		if c.cut {
			l.cut(rows, i)
		}
		if c.most > 0 && !wide {
			for _, row := range rows {
				row[i] = ansi.Truncate(row[i], c.most, "…")
			}
		}
		l.widths[i] = lipgloss.Width(c.name)
		for _, row := range rows {
			l.widths[i] = max(l.widths[i], lipgloss.Width(row[i]))
		}
	}
	if t.columns != nil {
		names := make([]string, len(t.columns))
		for i, c := range t.columns {
			names[i] = lipgloss.NewStyle().Bold(true).Render(c.name)
		}
		if _, err := lipgloss.Fprintln(w, l.line(names)); err != nil {
			return err
		}
	}
	for _, cells := range rows {
		if l.bold {
			cells[0] = lipgloss.NewStyle().Bold(true).Render(cells[0])
		}
		if _, err := lipgloss.Fprintln(w, l.line(cells)); err != nil {
			return err
		}
	}
	return nil
}

// layout is how wide the columns of a table are.
type layout struct {
	columns []column
	shown   []int // columns, by index
	widths  []int
	room    int  // of the terminal, 0 = no bound
	bold    bool // the first column
}

const (
	lineWidth = 80 // columns, where there is no terminal
	leastCut  = 20 // columns that a cut cell keeps
)

// cut leaves the cells of column i the room beside the columns before it.
func (l layout) cut(rows [][]string, i int) {
	room := l.room
	if room == 0 {
		room = lineWidth
	}
	for _, width := range l.widths[:i] {
		if width > 0 {
			room -= width + len(gap)
		}
	}
	for _, row := range rows {
		row[i] = ansi.Truncate(row[i], max(room, leastCut), "…")
	}
}

const gap = "  " // between columns

func (l layout) line(cells []string) string {
	var b strings.Builder
	for n, i := range l.shown {
		last := n == len(l.shown)-1
		fill := strings.Repeat(" ", max(0, l.widths[i]-lipgloss.Width(cells[i])))
		if l.columns[i].right {
			b.WriteString(fill)
		}
		b.WriteString(cells[i])
		if last {
			break
		}
		if !l.columns[i].right {
			b.WriteString(fill)
		}
		b.WriteString(gap)
	}
	if l.room > 0 {
		return ansi.Truncate(b.String(), l.room, "…")
	}
	return b.String()
}

// short keeps the end of an id, where peer ids differ.
func short(id string) string {
	if len(id) <= 12 {
		return id
	}
	return "…" + id[len(id)-8:]
}

// head keeps the beginning of a hash.
func head(hash string) string { return hash[:min(len(hash), 12)] }

func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%.0fm", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0fh", d.Hours())
	}
	return fmt.Sprintf("%.0fd", d.Hours()/24)
}

func seconds(s float64) string { return age(time.Duration(s * float64(time.Second))) }

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return age(time.Since(t))
}

func size[T int | int64](bytes T) string { return humanize.IBytes(uint64(max(bytes, 0))) }

func count[T int | uint64](n T, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func when(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
