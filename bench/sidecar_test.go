package main

import (
	"context"
	"slices"
	"testing"
	"time"
)

// Both pairs carry every message, and each line of the table is measured.
func TestMeasureSidecar(t *testing.T) {
	if testing.Short() {
		t.Skip("runs two nodes with programs, and two hosts")
	}
	row, err := measureSidecar(t.Context(), t.TempDir(), sidecarPlan{Bytes: []int{256}, Rounds: 2, Load: 200, Paced: 10, Large: []int{1 << 20}}, &progress{})
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Cases) != 2 || row.Cases[0].Validate || !row.Cases[1].Validate {
		t.Fatalf("%+v", row.Cases)
	}
	for _, c := range row.Cases {
		for _, f := range []figure{c.OursPS, c.BarePS, c.Ratio, c.P50MS, c.P99MS, c.BareP50, c.BareP99} {
			if len(f) != 2 || slices.Min(f) <= 0 {
				t.Errorf("figure %v", f)
			}
		}
	}
	if len(row.Large) != 1 || len(row.Large[0].OursMS) != 2 || slices.Min(row.Large[0].OursMS) <= 0 || slices.Min(row.Large[0].RawMS) <= 0 {
		t.Errorf("%+v", row.Large)
	}
	checkTable(t, (&report{Sidecar: row}).sidecarTable(), "256 B, with verdicts", "aim", "1 MiB: publish to receive")
	if new(report).sidecarTable() != "" {
		t.Error("a table of nothing")
	}
}

// echo carries messages in memory: each as often as it is told to.
type echo struct {
	got   chan []byte
	times int
}

func (e *echo) publish(_ context.Context, data []byte) error {
	for range e.times {
		e.got <- data
	}
	return nil
}
func (e *echo) arrived() <-chan []byte               { return e.got }
func (e *echo) failed() <-chan error                 { return nil }
func (e *echo) cpu() (a, b time.Duration, err error) { return }
func (e *echo) close() error                         { return nil }

// A message that is missing, or comes twice, fails the run.
func TestCarry(t *testing.T) {
	for times, ok := range map[int]bool{0: false, 1: true, 2: false} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		took, err := carry(ctx, &echo{make(chan []byte, 100), times}, 30, 16, 0)
		if (err == nil) != ok || ok && len(took) != 30 {
			t.Errorf("each %d times: %d took a time, %v", times, len(took), err)
		}
		cancel()
	}
}
