package main

import (
	"slices"
	"strings"
	"testing"
)

// The book is as full as the plan says, and every line of the table measured.
func TestMeasureAddrbook(t *testing.T) {
	row, err := measureAddrbook(t.Context(), t.TempDir(), addrbookPlan{Addresses: 2000, Rounds: 2, Ops: 50})
	if err != nil {
		t.Fatal(err)
	}
	if row.Entries != 500 || row.Addresses != 2000 || row.EntryBytes < float64(row.Record) || row.EntryBytes > 20_000 || row.FileMB <= 0 {
		t.Errorf("%+v", row)
	}
	for _, f := range []figure{row.AddUS, row.VerifyUS, row.HearNS, row.PickNS, row.ReadMS} {
		if len(f) != 2 || slices.Min(f) <= 0 {
			t.Errorf("figure %v", f)
		}
	}
	r := &report{Addrbook: row}
	if got := r.addrbookTable(); strings.Contains(got, "–\n") || !strings.Contains(got, "2,000 addresses") {
		t.Errorf("table:\n%s", got)
	}
	if new(report).addrbookTable() != "" {
		t.Error("a table of nothing")
	}
}
