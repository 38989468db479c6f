package main

import (
	"slices"
	"strings"
	"testing"
)

// Lists are as long as the plan says, half of what is looked for is in them,
// and every line of the table is measured.
func TestMeasureBans(t *testing.T) {
	row := &bansRow{Arrivals: []arrival{{"tcp", figure{.02, .03}, nil, nil, figure{1, 2}}, {"quic", figure{.02, .03}, figure{.01, .02}, figure{.01, .02}, figure{1, 2}}}}
	l, err := measureBanList(t.Context(), t.TempDir(), 1000, bansPlan{Rounds: 2, Checks: 40_000}, &progress{})
	if err != nil {
		t.Fatal(err)
	}
	row.Lists = append(row.Lists, l)
	for range 2 {
		if err := row.penalize(100_000); err != nil {
			t.Fatal(err)
		}
	}
	if l.Ranges != 1000 || l.RangeBytes < 100 || l.RangeBytes > 10_000 {
		t.Errorf("%+v", l)
	}
	for _, f := range []figure{l.CheckNS, l.LinearNS, row.PenalizeNS, row.MapNS} {
		if len(f) != 2 || slices.Max(f) <= 0 {
			t.Errorf("figure %v", f)
		}
	}
	got := (&report{Bans: row}).bansTable()
	if strings.Contains(got, "–\n") || !strings.Contains(got, "1,000 ranges") || !strings.Contains(got, "refused, tcp") || strings.Count(got, "thrown away") != 1 || strings.Count(got, "at once") != 1 {
		t.Errorf("table:\n%s", got)
	}
	if new(report).bansTable() != "" {
		t.Error("a table of nothing")
	}
}
