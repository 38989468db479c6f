package main

import (
	"net/url"
	"strconv"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

func (g *globals) historyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history [PEER]", Short: "How connections ended and who was refused, newest first", Args: cobra.MaximumNArgs(1),
		Long:    whoHelp + "\nWhat comes again and again is one row, with how often (TIMES), and when first and last; -o json, jsonl and csv have each of them.",
		Example: "parley peers history\nparley peers history node5\nparley peers history 12D3KooW… --limit 20",
		RunE: func(c *cobra.Command, args []string) error {
			path := "peers/history"
			if len(args) == 1 {
				if err := notEmpty(c, "PEER", args[0], wantPeer); err != nil {
					return err
				}
				path = "peers/" + url.PathEscape(args[0]) + "/history"
			}
			return ask(c.Context(), g, query(path, "limit", g.limitText()), func(l list[parley.HistoryEntry]) *table { return g.viewHistory(l, len(args) == 0) })
		},
	}
}

// happened is a run of entries of the history that differ in nothing but their
// time and the port that a stranger came from.
type happened struct {
	parley.HistoryEntry // the newest
	first               parley.HistoryEntry
	times               int
	host                string  // of the address; "" = it has none
	longest             float64 // seconds
	lasted              bool    // all equally long, as people see it
}

// folded joins entries that follow each other and tell the same.
func folded(entries []parley.HistoryEntry) (rows []happened) {
	for _, e := range entries {
		host, _ := placeOf(e.Addr)
		if n := len(rows); n > 0 && rows[n-1].host == host && rows[n-1].same(e) {
			last := &rows[n-1]
			last.times++
			last.first = e
			last.lasted = last.lasted && seconds(e.DurationS) == seconds(last.longest)
			last.longest = max(last.longest, e.DurationS)
			continue
		}
		rows = append(rows, happened{e, e, 1, host, e.DurationS, true})
	}
	return rows
}

func (h *happened) same(e parley.HistoryEntry) bool {
	a := h.HistoryEntry
	return a.Event == e.Event && a.Peer == e.Peer && a.Direction == e.Direction && a.By == e.By && a.Reason == e.Reason && a.Goodbye == e.Goodbye
}

// placeOf is a multiaddr as people write it: its host, and the host with the
// port. Both are the text itself where it is no such address.
func placeOf(addr string) (host, hostport string) {
	a, err := ma.NewMultiaddr(addr)
	if err != nil {
		return addr, addr
	}
	if _, hostport, err = manet.DialArgs(a); err != nil {
		return addr, addr
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return hostport, hostport
	}
	return ip.String(), hostport
}

// when tells the time of a run, from the first to the last, in the 29 columns
// that a narrow terminal has for it.
func (h *happened) when() string {
	from, to := h.first.At.UTC(), h.At.UTC()
	switch {
	case h.times == 1:
		return when(to)
	case from.Format(time.DateOnly) == to.Format(time.DateOnly):
		return from.Format("2006-01-02T15:04:05") + "–" + to.Format("15:04:05Z")
	}
	return from.Format("2006-01-02T15:04") + "–" + to.Format("01-02T15:04Z")
}

func (g *globals) viewHistory(l list[parley.HistoryEntry], all bool) *table {
	t := &table{columns: []column{{name: "WHEN"}, {name: "TIMES", right: true}, {name: "EVENT"}, {name: "DIR"}, {name: "LASTED", right: true}, {name: "BY"},
		{name: "PEER"}, {name: "ADDRESS", under: true}, {name: "REASON", under: true}, {name: "PEER ID", wide: true}, {name: "ADDR", wide: true}, {name: "GOODBYE", wide: true, right: true}},
		empty: "nothing is remembered of that peer"}
	if all {
		t.empty = "nothing is remembered yet"
	}
	if g.output == "csv" { // for programs: each entry
		for _, e := range l.Items {
			addHistory(t, folded([]parley.HistoryEntry{e})[0], "1")
		}
		return t
	}
	for _, h := range folded(l.Items) {
		times := ""
		if h.times > 1 {
			times = "×" + strconv.Itoa(h.times)
		}
		addHistory(t, h, times)
	}
	return t
}

func addHistory(t *table, h happened, times string) {
	lasted, goodbye := "", ""
	if h.Event == "disconnected" {
		lasted = seconds(h.longest)
		if !h.lasted {
			lasted = "≤" + lasted
		}
	}
	if h.Goodbye > 0 {
		goodbye = strconv.FormatUint(h.Goodbye, 10)
	}
	_, place := placeOf(h.Addr)
	if h.first.Addr != h.Addr { // from another port each time
		place = h.host
	}
	t.add(h.when(), times, h.Event, direction(h.Direction), lasted, h.By, short(h.Peer.String()), place, h.Reason, h.Peer.String(), h.Addr, goodbye)
}
