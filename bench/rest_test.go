package main

import (
	"bufio"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// Both sides answer, and each line of the table is measured.
func TestMeasureRest(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a node and a bare server")
	}
	row, err := measureRest(t.Context(), t.TempDir(), restPlan{Conns: []int{1, 3}, Rounds: 2, Round: 50 * time.Millisecond}, &progress{})
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Cases) != 2 || row.Bytes < 100 {
		t.Fatalf("%+v", row)
	}
	for _, c := range row.Cases {
		for _, f := range []figure{c.OursPS, c.BarePS, c.OursUS, c.BareUS, c.Ratio} {
			if len(f) != 2 || slices.Min(f) <= 0 {
				t.Errorf("figure %v", f)
			}
		}
	}
	checkTable(t, (&report{Rest: row}).restTable(), "1 connection ", "3 connections ")
	if new(report).restTable() != "" {
		t.Error("a table of nothing")
	}
}

// What is no whole answer of 200 fails the run.
func TestAsker(t *testing.T) {
	for text, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\nX: 1\r\ncontent-length: 3\r\n\r\nabc": true, "HTTP/1.1 200 OK\r\n\r\nabc": false,
		"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n": false, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc": false,
	} {
		mine, its := net.Pipe()
		go func() {
			_, _ = its.Read(make([]byte, 100))
			_, _ = its.Write([]byte(text))
			_ = its.Close()
		}()
		a := asker{mine, bufio.NewReader(mine), []byte("GET")}
		if err := a.ask(); (err == nil) != ok {
			t.Errorf("%s: %v", strings.ReplaceAll(text, "\r\n", " "), err)
		}
		_ = mine.Close()
	}
}
