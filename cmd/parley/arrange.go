package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/parley-p2p/parley/config"
)

// arrange is what the user wants to see of a list: which rows, in which order,
// and which columns.
type arrange struct {
	sort    string // a column, with - before it the other way round
	filters []string
	columns []string
	done    bool // a list was shown
}

func (a *arrange) register(f *pflag.FlagSet) {
	f.StringVar(&a.sort, "sort", "", "order a list by this column, -COL = downwards")
	f.StringArrayVar(&a.filters, "filter", nil, "rows with COL=TEXT, !=, ~ (has), >, >=, < or <=; repeatable")
	f.StringSliceVar(&a.columns, "columns", nil, "show these of a list, as A,B")
}

func (a *arrange) wanted() bool { return a.sort != "" || len(a.filters) > 0 || len(a.columns) > 0 }

// key is the name of a column for flags and in csv.
func (c column) key() string { return strings.ToLower(strings.ReplaceAll(c.name, " ", "_")) }

// find returns the index of a column by its name.
func (t *table) find(flag, name string) (int, error) {
	var names []string
	for i, c := range t.columns {
		if c.key() == strings.ToLower(strings.TrimSpace(name)) {
			return i, nil
		}
		names = append(names, c.key())
	}
	return 0, fail(exitUsage, "--%s: no column %q%s", flag, name, config.Nearest(name, names, names))
}

// apply changes a list, and returns which rows are left of it, in their order.
// Facts are left as they are.
func (a *arrange) apply(t *table) ([]int, error) {
	order := make([]int, len(t.rows))
	for i := range order {
		order[i] = i
	}
	if !a.wanted() || t.columns == nil {
		return order, nil
	}
	a.done = true
	for _, text := range a.filters {
		fits, err := t.condition(text)
		if err != nil {
			return nil, err
		}
		order = slices.DeleteFunc(order, func(i int) bool { return !fits(t.rows[i]) })
	}
	if len(order) == 0 && len(t.rows) > 0 {
		t.empty = "no row fits --filter " + strings.Join(a.filters, " --filter ")
	}
	if name, down := strings.CutPrefix(a.sort, "-"); a.sort != "" {
		col, err := t.find("sort", name)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(order, func(i, j int) int { return compareCells(t.rows[i][col], t.rows[j][col], down) })
	}
	rows := make([][]string, len(order))
	for n, i := range order {
		rows[n] = t.rows[i]
	}
	t.rows = rows
	return order, t.choose(a.columns)
}

// choose leaves the columns of these names, in their order.
func (t *table) choose(names []string) error {
	if len(names) == 0 {
		return nil
	}
	var columns []column
	rows := make([][]string, len(t.rows))
	for n, name := range names {
		i, err := t.find("columns", name)
		if err != nil {
			return err
		}
		c := t.columns[i]
		c.wide, c.cut = false, c.cut && n == len(names)-1
		columns = append(columns, c)
		for r, row := range t.rows {
			rows[r] = append(rows[r], row[i])
		}
	}
	t.columns, t.rows = columns, rows
	return nil
}

var conditionForm = regexp.MustCompile(`^([^=!~<>]+)(=|!=|~|>=|<=|>|<)(.*)$`)

// condition reads one --filter.
func (t *table) condition(text string) (func(row []string) bool, error) {
	m := conditionForm.FindStringSubmatch(text)
	if m == nil {
		return nil, fail(exitUsage, "--filter %q: want COL=TEXT, or with !=, ~, >, >=, < or <= between them", text)
	}
	i, err := t.find("filter", m[1])
	if err != nil {
		return nil, err
	}
	op, want := m[2], strings.TrimSpace(m[3])
	limit, isAmount := amountOf(want)
	if strings.ContainsAny(op, "<>") && !isAmount {
		return nil, fail(exitUsage, "--filter %q: %s wants an amount such as 12, 30s or 4KiB", text, op)
	}
	return func(row []string) bool {
		cell := strings.TrimSpace(row[i])
		have, ok := amountOf(cell)
		switch op {
		case "=":
			return strings.EqualFold(cell, want)
		case "!=":
			return !strings.EqualFold(cell, want)
		case "~":
			return strings.Contains(strings.ToLower(cell), strings.ToLower(want))
		case ">":
			return ok && have > limit
		case ">=":
			return ok && have >= limit
		case "<":
			return ok && have < limit
		}
		return ok && have <= limit
	}, nil
}

// compareCells orders amounts by size before texts, and what is empty last.
func compareCells(a, b string, down bool) int {
	if a == "" || b == "" {
		return cmp.Compare(len(b), len(a))
	}
	x, isX := amountOf(a)
	y, isY := amountOf(b)
	n := strings.Compare(strings.ToLower(a), strings.ToLower(b))
	switch {
	case isX && isY:
		n = cmp.Compare(x, y)
	case isX != isY:
		return map[bool]int{true: -1, false: 1}[isX]
	}
	if down {
		return -n
	}
	return n
}

var amountForm = regexp.MustCompile(`^(-?[0-9]+(?:\.[0-9]+)?) ?([A-Za-zµ%]*)(?: ago)?$`)

// units of cells, by what tables write.
var units = map[string]float64{
	"": 1, "%": 1, "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400,
	"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "kb": 1e3, "mb": 1e6, "gb": 1e9,
}

func amountOf(cell string) (float64, bool) {
	m := amountForm.FindStringSubmatch(strings.TrimSpace(cell))
	if m == nil {
		return 0, false
	}
	unit, known := units[strings.ToLower(m[2])]
	n, err := strconv.ParseFloat(m[1], 64)
	return n * unit, known && err == nil
}

var errNoRows = errors.New("--sort and --filter are for a list of one row an item: use -o table, wide or csv here")

// items arranges the items of an answer as the rows of its table.
func (a *arrange) items(body []byte, view func() (*table, error)) ([]byte, error) {
	if !a.wanted() {
		return body, nil
	}
	t, err := view()
	if err != nil || t.columns == nil {
		return body, err
	}
	if len(a.columns) > 0 {
		return nil, fail(exitUsage, "--columns is for -o table, wide and csv: -o template=T chooses of JSON")
	}
	var answer map[string]json.RawMessage
	var all []json.RawMessage
	if json.Unmarshal(body, &answer) != nil || json.Unmarshal(answer["items"], &all) != nil || len(all) != len(t.rows) {
		return nil, fail(exitUsage, "%w", errNoRows)
	}
	order, err := a.apply(t)
	if err != nil {
		return nil, err
	}
	left := make([]json.RawMessage, len(order))
	for n, i := range order {
		left[n] = all[i]
	}
	if answer["items"], err = json.Marshal(left); err != nil {
		return nil, fmt.Errorf("arrange a list: %w", err)
	}
	answer["count"] = json.RawMessage(strconv.Itoa(len(left)))
	return json.Marshal(answer)
}
