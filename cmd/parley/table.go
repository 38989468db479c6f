package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"regexp"
	"slices"
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
	// On a terminal that is too narrow for a row:
	tight func(string) string // how a cell is written there, nil = as anywhere
	under bool                // the cell is on lines of its own, below the row
}

// table is rows for people. Without columns it is a list of facts: name and
// value.
type table struct {
	columns []column
	rows    [][]string
	empty   string // what to say, on stderr, where there is no row
	whole   bool   // facts are wrapped at the edge of a terminal, not cut
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
			names[i] = col.key()
		}
		if err := c.Write(names); err != nil {
			return err
		}
	}
	return c.WriteAll(t.rows)
}

// print aligns the columns. On a terminal a line that would be too long is
// made tight and then cut, or wrapped where the table is to be whole.
func (t *table) print(w io.Writer, wide bool) error {
	room := 0
	if !wide {
		room, _ = terminal(w)
	}
	for _, line := range t.lines(wide, room) {
		if _, err := lipgloss.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// lines are those of the table for a terminal of room columns, 0 = no bound.
func (t *table) lines(wide bool, room int) (lines []string) {
	l := layout{columns: t.columns, room: room}
	if t.columns == nil {
		l.columns = []column{{}, {}}
	}
	rows := t.printable()
	l.measure(rows, wide)
	if t.columns == nil {
		return l.facts(rows, t.whole)
	}
	if l.room > 0 && l.total() > l.room {
		rows = t.printable()
		l.tighten(rows)
	}
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = bold(c.name)
	}
	lines = append(lines, l.line(names))
	for _, cells := range rows {
		lines = append(append(lines, l.line(cells)), l.below(cells)...)
	}
	return lines
}

// printable are the rows without what would move the terminal.
func (t *table) printable() [][]string {
	rows := make([][]string, len(t.rows))
	for n, row := range t.rows {
		for _, cell := range row {
			rows[n] = append(rows[n], strings.Map(printable, cell))
		}
	}
	return rows
}

func bold(s string) string { return lipgloss.NewStyle().Bold(true).Render(s) }

// layout is how wide the columns of a table are.
type layout struct {
	columns []column
	shown   []int // columns, by index
	under   []int // columns that are below their row
	widths  []int
	room    int // of the terminal, 0 = no bound
}

// measure chooses the columns and finds how wide they are.
func (l *layout) measure(rows [][]string, wide bool) {
	l.shown, l.widths = nil, make([]int, len(l.columns))
	for i, c := range l.columns {
		if c.wide && !wide || slices.Contains(l.under, i) {
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
}

// total is how wide the widest row is.
func (l *layout) total() int {
	n := len(gap) * max(0, len(l.shown)-1)
	for _, i := range l.shown {
		n += l.widths[i]
	}
	return n
}

// tighten makes the rows narrower, as their columns allow it.
func (l *layout) tighten(rows [][]string) {
	for i, c := range l.columns {
		if c.under {
			l.under = append(l.under, i)
		}
		if c.tight == nil {
			continue
		}
		for _, row := range rows {
			row[i] = c.tight(row[i])
		}
	}
	l.measure(rows, false)
}

// below are the lines that follow a row.
func (l *layout) below(cells []string) (lines []string) {
	var texts []string
	for _, i := range l.under {
		if cells[i] != "" {
			texts = append(texts, cells[i])
		}
	}
	if len(texts) == 0 {
		return nil
	}
	for _, line := range l.wrap(strings.Join(texts, ": "), len(gap)) {
		lines = append(lines, gap+line)
	}
	return lines
}

// wrap breaks a text into lines that fit beside used columns.
func (l *layout) wrap(text string, used int) []string {
	if l.room == 0 {
		return []string{text}
	}
	const bound = "\u2011" // no line ends within a word such as PLY-604
	text = ansi.Wrap(strings.ReplaceAll(text, "-", bound), max(l.room-used, leastCut), " ")
	return strings.Split(strings.ReplaceAll(text, bound, "-"), "\n")
}

// facts are lines of a name and a value each.
func (l *layout) facts(rows [][]string, whole bool) (lines []string) {
	for _, cells := range rows {
		values := []string{cells[1]}
		if whole {
			values = l.wrap(cells[1], l.widths[0]+len(gap))
		}
		for n, value := range values {
			name := ""
			if n == 0 {
				name = bold(cells[0])
			}
			lines = append(lines, l.line([]string{name, value}))
		}
	}
	return lines
}

const (
	lineWidth = 80 // columns, where there is no terminal
	leastCut  = 20 // columns that a cut cell keeps
)

// cut leaves the cells of column i the room beside the columns before it.
func (l *layout) cut(rows [][]string, i int) {
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

func (l *layout) line(cells []string) string {
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

var idForm = regexp.MustCompile(`\b(?:12D3KooW|16Uiu2HA|Qm)[1-9A-HJ-NP-Za-km-z]{40,50}\b`)

// shortIDs shortens the peer ids in a text.
func shortIDs(text string) string { return idForm.ReplaceAllStringFunc(text, short) }

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
