package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
)

// TestHistoryFolds: what a stranger does again and again is one row, with how
// often, from when to when and whence; programs get each of it.
func TestHistoryFolds(t *testing.T) {
	stranger, err := peer.Decode(aPeerID)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 29, 0, 10, 0, 0, time.UTC)
	refusal := func(minutes int, addr string) parley.HistoryEntry {
		return parley.HistoryEntry{At: at.Add(-time.Duration(minutes) * time.Minute), Event: "refused", Peer: stranger, Direction: "inbound", Addr: addr, By: "us", Reason: "its peer id is banned"}
	}
	gone := func(minutes int, lasted float64) parley.HistoryEntry {
		e := refusal(minutes, "/ip4/192.0.2.9/tcp/9906")
		e.Event, e.DurationS = "disconnected", lasted
		return e
	}
	l := list[parley.HistoryEntry]{Items: []parley.HistoryEntry{ // newest first
		refusal(0, "/ip4/192.0.2.7/tcp/50003"), refusal(1, "/ip4/192.0.2.7/udp/50002/quic-v1"), refusal(2, "/ip4/192.0.2.7/tcp/50001"),
		refusal(3, "/ip4/192.0.2.8/tcp/50001"),
		gone(4, 2), gone(5, 7),
		refusal(6, "/dns4/node.example.org/tcp/9906"), refusal(20, "/dns4/node.example.org/tcp/9906"),
		refusal(21, ""),
	}}
	show := func(format string) string {
		var out bytes.Buffer
		g := newGlobals()
		g.out, g.output = &out, format
		tab := g.viewHistory(l, true)
		if format == "csv" {
			err = tab.csv(&out)
		} else {
			err = tab.print(&out, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := `WHEN                           TIMES  EVENT         DIR  LASTED  BY  PEER       ADDRESS                REASON
2026-11-29T00:08:00–00:10:00Z     ×3  refused       in           us  …k4kBRAcR  192.0.2.7              its peer id is banned
2026-11-29T00:07:00Z                  refused       in           us  …k4kBRAcR  192.0.2.8:50001        its peer id is banned
2026-11-29T00:05:00–00:06:00Z     ×2  disconnected  in      ≤7s  us  …k4kBRAcR  192.0.2.9:9906         its peer id is banned
2026-11-28T23:50–11-29T00:04Z     ×2  refused       in           us  …k4kBRAcR  node.example.org:9906  its peer id is banned
2026-11-28T23:49:00Z                  refused       in           us  …k4kBRAcR                         its peer id is banned
`
	if got := show("table"); got != want {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
	if got := show("csv"); strings.Count(got, "\n") != 1+len(l.Items) || strings.Count(got, "its peer id is banned") != len(l.Items) {
		t.Errorf("csv has not each entry:\n%s", got)
	}
	for _, line := range (&globals{}).viewHistory(l, true).lines(false, 80) {
		if strings.HasSuffix(line, "…") {
			t.Errorf("cut at 80 columns: %s", line)
		}
	}
}
