package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/wire"
)

// wave is a number of strangers who come to a node at once.
type wave struct {
	name  string
	from  func(i int) string
	come  int
	stay  int // so many of them have a place then
	words string
}

var waves = []wave{
	{name: "one address", from: func(int) string { return "44.1.1.1" }, come: 6, stay: 4, words: "from 44.1.1.1/32 are here"},
	{name: "one /24", from: func(i int) string { return fmt.Sprintf("44.2.1.%d", i+1) }, come: 11, stay: 8, words: "from 44.2.1.0/24 are here"},
	{name: "one /16", from: func(i int) string { return fmt.Sprintf("44.3.%d.1", i) }, come: 20, stay: 16, words: "your part of the network"},
	{name: "newcomers", from: func(i int) string { return fmt.Sprintf("45.%d.1.1", i) }, come: 5, stay: 5},
	{name: "more /16", from: func(i int) string { return fmt.Sprintf("44.%d.%d.1", 4+i/16, i%16) }, come: 48, stay: 48}, // 81 of 64 places
	{name: "more newcomers", from: func(i int) string { return fmt.Sprintf("45.%d.1.1", 10+i) }, come: 6, stay: 6},
}

// local are two waves from where the limits are wider: they leave again before
// the others come.
var local = []wave{
	{name: "one private address", from: func(int) string { return "10.9.9.1" }, come: 35, stay: 32, words: "from 10.9.9.1"},
	{name: "one private /24", from: func(i int) string { return fmt.Sprintf("10.9.9.%d", i+2) }, come: 20, stay: 20},
}

func (v wave) orders(w *world, transport string) []order {
	list := make([]order, v.come)
	for i := range list {
		list[i] = order{Do: "come", Name: fmt.Sprintf("%s %s %d", transport, v.name, i), From: v.from(i), To: w.full(w.nodes[0], transport), Status: w.status()}
	}
	return list
}

// TestInboundLimits has strangers come to a node over real sockets, from few
// and from many parts of a network that looks public.
func TestInboundLimits(t *testing.T) {
	t.Parallel()
	var addresses []string
	for _, v := range append(slices.Clone(waves), local...) {
		for i := range v.come {
			if a := v.from(i); !slices.Contains(addresses, a) {
				addresses = append(addresses, a)
			}
		}
	}
	for _, transport := range []string{"tcp", "quic"} { // a node of its own each: it remembers who was evicted
		t.Run(transport, func(t *testing.T) { comeAll(t, transport, addresses) })
	}
}

func comeAll(t *testing.T, transport string, addresses []string) {
	t.Helper()
	w := newWorld(t, 1, addresses, func(_ int, _ string, c map[string]any) {
		c["discovery"] = map[string]any{"dht": "off", "pex": false}
	})
	w.start(w.nodes...)
	w.wait(soon, "the chain", func() (bool, string) {
		var v map[string]any
		_, err := w.nodes[0].get(t.Context(), "chain", &v)
		return err == nil, fmt.Sprint(err)
	})
	for _, v := range local {
		w.come(v, transport, 0)
	}
	w.leaveAll(transport, local)
	w.full64(transport)
	w.leaveAll(transport, waves)
}

// full64 sends the public waves, which are more than the node has places for.
func (w *world) full64(transport string) {
	w.t.Helper()
	most := 0
	for _, v := range waves {
		most += v.stay
		w.come(v, transport, max(0, most-64))
	}
	w.wait(soon, transport+": 64 inbound peers", func() (bool, string) {
		in := 0
		for _, p := range w.peers(w.nodes[0]) {
			if p.Ready && p.Slot == "inbound" {
				in++
			}
		}
		gone := w.metric(w.nodes[0], "parley_dialer_evictions_total")
		return in == 64 && gone >= float64(most-64), fmt.Sprintf("%d inbound peers, %v evictions of %d and more", in, gone, most-64)
	})
}

// come sends one wave. Evicted is how many in all had to give their place up
// for others by then. Who is one of them may hear of it before it has read that
// it got a place: that it had one stands in the node's log, or follows from its
// goodbye where nobody is refused.
func (w *world) come(v wave, transport string, evicted int) {
	w.t.Helper()
	n := w.nodes[0]
	away := v.come - v.stay
	before, lines := w.turned(n), w.said(n, "peer refused")
	stay, had, told, codes := 0, 0, 0, map[uint64]int{}
	began := time.Now()
	for _, o := range w.crowd.all(v.orders(w, transport)) {
		full := o.Goodbye == wire.GoodbyeTooManyPeers
		switch {
		case o.Err == "" && o.Code == wire.VerackOK:
			stay++
		case had < evicted && (away == 0 && full || w.said(n, "peer ready", o.ID.String()) > 0):
			stay, had = stay+1, had+1
		case o.Code == wire.TooManyPeers || full:
			told++
			codes[o.Goodbye]++
			if !strings.Contains(o.Text, v.words) {
				w.t.Errorf("%s, %s: refused with %q, want %q", transport, v.name, o.Text, v.words)
			}
		default: // closed at its arrival, without a goodbye
			codes[1000]++
			w.t.Logf("%s, %s: %s", transport, v.name, o.Err)
		}
	}
	w.wait(soon, fmt.Sprintf("%s, %s: %d are counted, told of in the log and in the history", transport, v.name, away), func() (bool, string) {
		counted, told := w.turned(n)-before, w.said(n, "peer refused")-lines
		return int(counted) >= away && (away == 0 || told > 0) && (v.words == "" || w.remembers(n, v.words)), fmt.Sprintf("%v are, %d lines", counted, told)
	})
	refused := w.turned(n) - before
	w.t.Logf("%s, %s: %d came, %d have a place, %d were told why not; goodbyes %v; refusals counted %v, lines in the log %d; %s",
		transport, v.name, v.come, stay, told, codes, refused, w.said(n, "peer refused")-lines, time.Since(began).Round(time.Millisecond))
	if stay != v.stay || away == 0 && refused > 0 {
		w.t.Errorf("%s, %s: %d of %d have a place, want %d, and %v refusals are counted", transport, v.name, stay, v.come, v.stay, refused)
	}
}

// remembers is whether the history has a refusal with these words.
func (w *world) remembers(n *node, words string) bool {
	return slices.ContainsFunc(w.history(n), func(e parley.HistoryEntry) bool { return e.Event == "refused" && strings.Contains(e.Reason, words) })
}

// turned is how many were turned away, before or after it was known who they are.
func (w *world) turned(n *node) float64 {
	return w.metric(n, `parley_reputation_refusals_total{place="handshake"}`) + w.metric(n, `parley_reputation_refusals_total{place="limits"}`)
}

func (w *world) leaveAll(transport string, waves []wave) {
	w.t.Helper()
	for _, v := range waves {
		orders := v.orders(w, transport)
		for i := range orders {
			orders[i].Do = "leave"
		}
		w.crowd.all(orders)
	}
	w.wait(soon, "all have left", func() (bool, string) {
		left := len(w.peers(w.nodes[0]))
		return left == 0, fmt.Sprintf("%d are here", left)
	})
}
