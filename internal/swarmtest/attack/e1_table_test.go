//go:build attack

package attack

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	out   = flag.String("out", "", "directory for the table, such as docs/attack")
	seeds = flag.Int("seeds", 0, "this many runs a column, for a short look; 0 = as committed")
)

// columns of E1. In one two rows have so many runs that none lost in all is at
// most .01.
var columns = []strength{
	{1000, 1, 1, 24, 30}, {5000, 64, 4, 24, 30}, {5000, 512, 64, 1, 30}, {5000, 512, 64, 24, 400}, {5000, 512, 64, 144, 30},
	{5000, 512, 64, 240, 30}, {20000, 512, 64, 24, 30}, {20000, 512, 64, 240, 30},
}

const fullSeeds = 30 // of a column; beyond that the two rows of ours alone

// rows of E1, beside the flat list, which needs no book.
var rows = []policy{
	{"Bitcoin-like: 8 + 2 block-only, anchors lost by kill -9", 0, 2, without},
	{"ours, all of it, anchors up", agedSlots, blockSlots, up},
	{"ours, anchors down", agedSlots, blockSlots, down},
	{"ours, anchors attacked (only the attacker's own answer)", agedSlots, blockSlots, attacked},
	{"ours without anchors and aged slots, 8 slots", 0, 0, without},
	{"ours without block-only slots and anchors", agedSlots, 0, without},
	{"ours without aged slots, anchors up", 0, blockSlots, up},
}

// flaws are run in one column each.
var flaws = []struct {
	name string
	flaw flaw
	at   strength
}{
	{"nothing left out", sound, day},
	{"groups", noGroups, day}, {"test before evict", noTest, day}, {"limits of sources", noSourceLimit, day},
	{"nothing left out", sound, tenDays},
	{"aged slots before kill -9", noAged, tenDays},
	{"anchors by who was good first (they are those connected the longest)", longTitles, tenDays},
	{"a past: the attack begins with the node, which has been at 30 honest peers", newNode, tenDays},
}

var day, tenDays = columns[3], columns[5]

// tally sums results of one row and column.
type tally struct {
	runs, lost, noHonest int
	bad, all             int
	dials                []int
}

func (a *tally) add(r result) {
	a.runs++
	a.lost += b2i(r.bad == r.all)
	a.bad, a.all = a.bad+r.bad, a.all+r.all
	if r.dials == 0 {
		a.noHonest++
	} else {
		a.dials = append(a.dials, r.dials)
	}
}

func (a *tally) lostText() string {
	if a.runs == 0 {
		return "not run"
	}
	low, high := Wilson(a.lost, a.runs)
	return fmt.Sprintf("%s (%s–%s)", share(float64(a.lost)/float64(a.runs)), share(low), share(high))
}

func (a *tally) shareText() string {
	if a.runs == 0 {
		return "not run"
	}
	slices.Sort(a.dials)
	dials := "–"
	if n := len(a.dials); n > 0 {
		dials = fmt.Sprintf("%d, %d", a.dials[n/2], a.dials[n*95/100])
	}
	return share(float64(a.bad)/float64(max(1, a.all))) + "; " + dials
}

func share(v float64) string {
	if v < .1 && v > 0 {
		return strings.TrimPrefix(fmt.Sprintf("%.3f", v), "0")
	}
	return strings.TrimPrefix(fmt.Sprintf("%.2f", v), "0")
}

// stage is a part of the experiment: some seeds of a column.
type stage struct {
	at       strength
	flaw     flaw
	from, to int // seeds, both with
	rows     []policy
	cells    []*tally // of the flat list, where it is run, and of rows
}

// TestE1 prints the table. It fails where a target of DEFENCE 14 is missed.
func TestE1(t *testing.T) {
	begin := time.Now()
	cells, weak := make([][]*tally, len(columns)), make([][]*tally, len(flaws))
	fresh := func(n int) (list []*tally) {
		for range n {
			list = append(list, &tally{})
		}
		return list
	}
	for i := range columns {
		cells[i] = fresh(1 + len(rows))
	}
	for i, f := range flaws {
		if weak[i] = cells[slices.Index(columns, f.at)][2:4]; f.flaw != sound {
			weak[i] = fresh(2)
		}
	}
	for _, s := range stages(cells, weak) {
		s.run(t)
		fmt.Fprintf(os.Stderr, "%s, seeds %d to %d: CPU %.0f s, clock %.0f s\n", s.at.text(), s.from, s.to, cpu().Seconds(), time.Since(begin).Seconds())
		text, _ := e1Page(cells, weak)
		save(t, "E1.md", text) // a run that is cut leaves what it has
	}
	text, missed := e1Page(cells, weak)
	fmt.Println(text)
	for _, m := range missed {
		t.Error(m)
	}
}

// stages lists all that is run: ten seeds of every column and flaw, ten more,
// and last the many of one column.
func stages(cells, weak [][]*tally) (list []stage) {
	const step = 10
	most := fullSeeds
	if *seeds > 0 {
		most = *seeds
	}
	two := rows[1:3] // ours, anchors up and down
	for from := 1; from <= most; from += step {
		to := min(from+step-1, most)
		for i, s := range columns {
			list = append(list, stage{s, sound, from, to, rows, cells[i]})
		}
		for i, f := range flaws {
			if f.flaw != sound {
				list = append(list, stage{f.at, f.flaw, from, to, two, weak[i]})
			}
		}
	}
	for i, s := range columns {
		if *seeds == 0 && s.seeds > fullSeeds {
			list = append(list, stage{s, sound, fullSeeds + 1, s.seeds, two, append([]*tally{{}}, cells[i][2:4]...)})
		}
	}
	return list
}

// run adds the results of all seeds to the cells.
func (s stage) run(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	all := make([][]result, s.to-s.from+1)
	each(len(all), func(i int) {
		seed := uint64(s.from + i)
		all[i] = run(t, s.at, s.flaw, seed, s.rows, filepath.Join(dir, fmt.Sprint(seed)))
	})
	for _, results := range all {
		for i, r := range results {
			s.cells[i].add(r)
		}
	}
}

// judge compares the measured share, not the end of its interval, with the
// target; the interval stands in the table.
func judge(s strength, row string, a *tally, aimed bool, target float64) (missed []string) {
	if got := float64(a.lost) / float64(max(1, a.runs)); aimed && got > target {
		missed = append(missed, fmt.Sprintf("%s, %s: %.3f, aim %.2f", s.text(), row, got, target))
	}
	return missed
}

func (s strength) text() string {
	n := fmt.Sprint(s.addrs)
	if s.addrs%1000 == 0 {
		n = fmt.Sprintf("%dk", s.addrs/1000)
	}
	return fmt.Sprintf("%s/%d/%d/%d", n, s.groups, s.sources, s.hours)
}

// e1Page also says which targets are missed.
func e1Page(cells, weak [][]*tally) (text string, missed []string) {
	names := []string{"flat list, 8 slots"}
	for _, p := range rows {
		names = append(names, p.name)
	}
	for i, s := range columns {
		missed = append(missed, judge(s, "anchors up", cells[i][2], s.addrs <= 5000 && s.hours <= 24, .01)...)
		missed = append(missed, judge(s, "anchors down", cells[i][3], s.addrs <= 5000 && s.hours < 7*24, .05)...)
	}
	var b strings.Builder
	fmt.Fprintf(&b, head, honestPeers, triedPeers, int(100*newOnline), int(100*triedOnline), anchorAnswer)
	grid(&b, "P(all outbound slots are the attacker's), 95 % interval", columns, names, cells, (*tally).lostText)
	grid(&b, "the attacker's part of the outbound slots; dials until the first honest peer where there is one, median and 95th of 100", columns, names, cells, (*tally).shareText)
	b.WriteString("## Ablation\n\n| at | without | runs | P, anchors up | P, anchors down | part, anchors up | part, anchors down |\n|---|---|---|---|---|---|---|\n")
	for i, f := range flaws {
		up, down := weak[i][0], weak[i][1]
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %s | %s |\n", f.at.text(), f.name, up.runs, up.lostText(), down.lostText(),
			share(float64(up.bad)/float64(max(1, up.all))), share(float64(down.bad)/float64(max(1, down.all))))
	}
	b.WriteString("\nTargets: P at most .01 with anchors up to 5k addresses and 24 h, at most .05 with anchors down below 7 days. ")
	if len(missed) == 0 {
		b.WriteString("None is missed.\n")
	} else {
		fmt.Fprintf(&b, "Missed: %s.\n", strings.Join(missed, "; "))
	}
	b.WriteString(foot)
	return b.String(), missed
}

func grid(b *strings.Builder, title string, columns []strength, names []string, cells [][]*tally, text func(*tally) string) {
	fmt.Fprintf(b, "## %s\n\n| addresses/groups/source groups/hours |", title)
	for _, s := range columns {
		fmt.Fprintf(b, " %s |", s.text())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n| runs |")
	for i := range columns {
		all, own := cells[i][0].runs, cells[i][2].runs
		if fmt.Fprintf(b, " %d", all); own > all {
			fmt.Fprintf(b, "; ours, anchors up and down: %d", own)
		}
		b.WriteString(" |")
	}
	b.WriteString("\n")
	for row, name := range names {
		fmt.Fprintf(b, "| %s |", name)
		for i := range columns {
			fmt.Fprintf(b, " %s |", text(cells[i][row]))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

const head = `# E1: poison the address book, kill -9, restart

Written by ` + "`make attack NAME=E1`" + `. A **model**: the address book is the real code with its real files, in virtual time; who
answers a dial and the connection slots are played. It is never "measured on a node". Seeds are 1, 2, 3 … of each column.

The world: %d honest peers, %d of them in tried for ten days; %d %% of the others and %d %% of those answer a dial; the
attacker's always do. It tells of all its addresses within the first hour and again every 12 h, through peer exchange and the
DHT out of its source groups, and by coming itself; it has as many ids as it likes, so the rate of one source is left out.
Meanwhile feelers run every 2 min, connections with honest peers last a day in the mean, those with the attacker for ever.
Two of the slots are for aged peers: one of the 64 of tried that were good first. Anchors are the four of those connected
that were good first. The last save of the book is up to 5 min old, the anchors are those of the last second. An anchor that
is up answers with %.1f; the attacker's own anchors always answer. All rows of ours share this life before the kill; a row
"without" leaves its part out afterwards.

`

const foot = `
What holds against ten days is the past: an attacker's connections never end and come to fill the slots that are drawn, but
it was not there before the honest peers of the first days. A node without a past has nothing of the kind, and the attacker's
part of the slots stays large in the long columns: one honest peer shows the chain, but others see the node through the rest.

Not in it: address rates, real churn of addresses, honest peers of the first days that are gone for good, an attack on the
routes. A stock libp2p host has no row, for nothing of it is tested here: it keeps no addresses over a restart, so all its
slots are the attacker's where its bootstrap nodes, or the peers they name, are.
`
