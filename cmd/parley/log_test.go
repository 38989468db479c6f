package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A time in a line has no more than milliseconds, in every format.
func TestLogTimes(t *testing.T) {
	next := time.Date(2026, 11, 29, 4, 5, 6, 123456789, time.UTC)
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		slog.New(formatHandler(format, &out)).Warn("static peer failed", "next", &next, "at", next, "none", (*time.Time)(nil), "after", 1500*time.Millisecond)
		if got := out.String(); strings.Count(got, "2026-11-29T04:05:06.123Z") != 2 || strings.Contains(got, "123456") || !strings.Contains(got, "1.5s") || !strings.Contains(got, "WRN") && !strings.Contains(got, "WARN") {
			t.Errorf("%s: %s", format, got)
		}
	}
}
