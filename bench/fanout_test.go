package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// All sides send what they are told to, and the table has every line.
func TestMeasureFanout(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a node and two other servers")
	}
	p := fanoutPlan{Clients: 8, Rounds: 2, Paced: 3, Burst: 40, Bytes: []int{256}, Idle: 10 * time.Millisecond}
	row, err := measureFanout(t.Context(), t.TempDir(), p, &progress{})
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Cases) != 2 || row.Cases[0].Burst || !row.Cases[1].Burst {
		t.Fatalf("%+v", row.Cases)
	}
	for _, f := range []figure{row.Cases[1].OursUS, row.Cases[1].GwsUS, row.Cases[1].RawUS, row.Delay.P50MS, row.Delay.P99MS, row.Delay.StoppedP50MS, row.Delay.StoppedP99MS} {
		if len(f) != 2 || slices.Max(f) <= 0 {
			t.Errorf("figure %v", f)
		}
	}
	checkTable(t, (&report{Fanout: row}).fanoutTable(), "event to 8 WebSockets", "256 B, at once", "one reads nothing", "aim")
	if new(report).fanoutTable() != "" {
		t.Error("a table of nothing")
	}
}

// checkTable wants whole lines, of at most 100 columns.
func checkTable(t *testing.T, text string, wanted ...string) {
	t.Helper()
	t.Log("\n" + text)
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 || strings.Contains(line, " – ") || strings.HasSuffix(line, "–\n") {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
}

func TestTicked(t *testing.T) {
	for _, bytes := range []int{256, 4096, 60_000} {
		e, err := newTicked(tickType, bytes)
		if err != nil {
			t.Fatal(err)
		}
		e.At = 1_234_567_890_123_456_789
		text, err := json.Marshal(envelopeOf(1<<50, e))
		if err != nil || len(text) < bytes-4 || len(text) > bytes+4 { // a time may be written shorter
			t.Errorf("%d bytes of %d, %v", len(text), bytes, err)
		}
		if at, ok := tickOf(text); !ok || at != e.At {
			t.Errorf("at %d, %v: %.120s", at, ok, text)
		}
		e.name = stuffType
		text, _ = json.Marshal(envelopeOf(1<<50, e))
		if _, ok := tickOf(text); ok {
			t.Error("another type is taken for it")
		}
	}
	if _, err := newTicked(tickType, 10); err == nil {
		t.Error("an event of 10 bytes")
	}
}

func TestFrameHead(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65_535} {
		frame := textFrame(make([]byte, n))
		op, got, err := frameHead(bytes.NewReader(frame))
		if err != nil || op != opText || got != uint64(n) {
			t.Errorf("%d: %d %d %v", n, op, got, err)
		}
		for cut := range len(frame) - n {
			if _, _, err := frameHead(bytes.NewReader(frame[:cut])); err == nil {
				t.Errorf("%d: %d bytes of a head are one", n, cut)
			}
		}
	}
	if _, n, err := frameHead(bytes.NewReader([]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0})); err != nil || n != 1<<16 {
		t.Errorf("%d %v", n, err)
	}
	if _, _, err := frameHead(bytes.NewReader([]byte{0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0})); err == nil {
		t.Error("a frame without an end")
	}
}

// A client that misses an event, or has one twice, fails the run.
func TestCrowdCounts(t *testing.T) {
	c := &crowd{clients: []*viewer{{}, {}}, reached: make(chan struct{}, 1), failed: make(chan error, 1)}
	c.expect(2, false)
	for i, n := range []int64{1, 3} {
		c.clients[i].got.Store(n)
		c.total.Add(n)
	}
	c.reached <- struct{}{}
	if err := c.wait(t.Context()); err == nil || !strings.Contains(fmt.Sprint(err), "client 0 has 1 events of 2") {
		t.Errorf("%v", err)
	}
}
