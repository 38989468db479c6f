package main

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// Lookups of both DHTs and dials of both kinds are measured, and the table has
// every line of them.
func TestMeasureDiscovery(t *testing.T) {
	if testing.Short() {
		t.Skip("runs 24 hosts and two nodes on loopback")
	}
	row, err := measureDiscovery(t.Context(), t.TempDir(), discoveryPlan{Hosts: 12, Rounds: 2, Lookups: 12, Dials: 3}, &progress{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []lookupRow{row.Ours, row.Stock} {
		for _, f := range []figure{l.PerS, l.P50MS, l.P99MS, l.CPUMS} {
			if len(f) != 2 || slices.Min(f) <= 0 {
				t.Errorf("figure %v", f)
			}
		}
	}
	for _, d := range []dialRow{row.Ready, row.Connect} {
		if len(d.P50MS) != 2 || slices.Min(d.P50MS) <= 0 || len(d.CPUMS) != 2 || slices.Min(d.CPUMS) <= 0 {
			t.Errorf("%+v", d)
		}
	}
	r := &report{Discovery: row}
	text := r.discoveryTable()
	t.Log("\n" + text)
	if strings.Contains(text, "–\n") || !strings.Contains(text, "among 12 hosts") {
		t.Error("a line is missing")
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
	if new(report).discoveryTable() != "" {
		t.Error("a table of nothing")
	}
}
