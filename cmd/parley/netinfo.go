package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/parley-p2p/parley"
)

const (
	maxLevel  = 4  // of the table of peers
	nameWidth = 20 // columns of a name, which its peer may make long
)

// netinfo shows the peers at a level from 0 to 4: 0 is the counts alone, 1 adds
// a row for each peer, 2 where each is and who told of it, 3 what each runs, 4
// all of that.
func (g *globals) netinfo(l list[parley.Peer], level int) error {
	rows, counts := viewLevel(l, level), viewCounts(l)
	if level > 0 {
		if _, err := g.arrange.apply(rows); err != nil {
			return err
		}
		if err := rows.print(g.out, g.output == "wide"); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(g.out); err != nil {
			return err
		}
	}
	if err := counts.print(g.out, false); err != nil {
		return err
	}
	if l.NextCursor != "" {
		g.say("there are more peers: these are the first %d; --limit shows up to 1000", len(l.Items))
	}
	return nil
}

func viewLevel(l list[parley.Peer], level int) *table {
	where, what := level == 2 || level >= maxLevel, level >= 3
	t := &table{columns: []column{{name: "DIR"}, {name: "SLOT"}, {name: "VIA"}, {name: "PING", right: true}, {name: "UP", right: true},
		{name: "CLAIMS", right: true}, {name: "PROVED", right: true}, {name: "SCORE", right: true}, {name: "MESH", right: true}}, whole: level >= maxLevel}
	if level < maxLevel { // which has the whole id
		t.columns = append(t.columns, column{name: "PEER"})
	}
	t.columns = append(t.columns, column{name: "NAME", most: nameWidth})
	if where {
		t.columns = append(t.columns, column{name: "SOURCE"}, column{name: "ADDRESS"})
	}
	if what {
		t.columns = append(t.columns, column{name: "AGENT"}, column{name: "IN", right: true}, column{name: "OUT", right: true})
	}
	if level >= maxLevel {
		t.columns = append(t.columns, column{name: "PEER ID"})
	}
	for _, p := range l.Items {
		slot := p.Slot
		if p.Trusted {
			slot += "*" // whatever it does
		}
		if !p.Ready {
			slot += " …" // in its handshake
		}
		cells := []string{direction(p.Direction), slot, p.Transport, ping(p), since(p.ConnectedAt), heightOf(p.Claimed), heightOf(p.Validated),
			strconv.Itoa(p.Score), strconv.Itoa(len(p.Mesh))}
		if level < maxLevel {
			cells = append(cells, short(p.ID.String()))
		}
		cells = append(cells, p.Name)
		if where {
			cells = append(cells, p.Source, p.Address)
		}
		if what {
			cells = append(cells, p.Agent, size(p.BytesIn), size(p.BytesOut))
		}
		if level >= maxLevel {
			cells = append(cells, p.ID.String())
		}
		t.add(cells...)
	}
	return t
}

// viewCounts counts peers by direction and transport.
func viewCounts(l list[parley.Peer]) *table {
	transports := []string{"tcp", "quic-v1", "ws"}
	t := &table{columns: []column{{name: ""}, {name: "TCP", right: true}, {name: "QUIC", right: true}, {name: "WS", right: true},
		{name: "TOTAL", right: true}, {name: "STATIC", right: true}, {name: "TRUSTED", right: true}, {name: "READY", right: true}}}
	for _, dir := range []string{"inbound", "outbound", ""} {
		name, n := direction(dir), make([]int, 7)
		if dir == "" {
			name = "total"
		}
		for _, p := range l.Items {
			if dir != "" && p.Direction != dir {
				continue
			}
			if i := slices.Index(transports, p.Transport); i >= 0 {
				n[i]++
			}
			n[3]++
			for i, is := range []bool{p.Static, p.Trusted, p.Ready} {
				if is {
					n[4+i]++
				}
			}
		}
		cells := []string{name}
		for _, v := range n {
			cells = append(cells, strconv.Itoa(v))
		}
		t.add(cells...)
	}
	return t
}

func direction(d string) string { return strings.TrimSuffix(d, "bound") }

func ping(p parley.Peer) string {
	if p.LatencyMS <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1fms", p.LatencyMS)
}
