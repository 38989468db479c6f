package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestHostileExchange has a node ask liars for peers: one tells of far more
// addresses than it may, others of what is private, forged or far too long.
func TestHostileExchange(t *testing.T) {
	t.Parallel()
	froms := []string{"46.1.1.1", "46.2.1.1", "46.3.1.1", "46.4.1.1"}
	w := newWorld(t, 1, froms, func(_ int, _ string, c map[string]any) { c["discovery"] = map[string]any{"dht": "off"} })
	n := w.nodes[0]
	w.start(n)
	pex := "/parley/" + w.genesis.Net() + "/pex/1"
	liar := func(i int, t tale) order {
		return order{Do: "tell", Name: froms[i], From: froms[i], Listen: 9906, Status: w.status(), PEX: pex, Tell: t}
	}

	const rounds, addrs = 12, 60 // of 250 records each: 180,000 addresses
	w.crowd.ask(liar(0, tale{Records: 250, Addrs: addrs, Close: true}))
	rss := w.rss(n)
	began := time.Now()
	half := int64(0)
	for i := range rounds {
		if i == rounds/2 {
			half = w.rss(n) - rss
		}
		w.visit(n, liar(0, tale{}))
	}
	grown := w.rss(n) - rss
	entries := w.metric(n, `parley_addrbook_entries{table="new"}`)
	full := w.metric(n, `parley_addrbook_rejected_total{reason="full"}`) + w.metric(n, `parley_addrbook_rejected_total{reason="rate"}`)
	t.Logf("%d addresses of %d peers by one liar in %s: %v peers are in the book, %v refused; memory %d MiB, then %+d MiB at half and %+d MiB at the end",
		rounds*250*addrs, rounds*250, time.Since(began).Round(100*time.Millisecond), entries, full, rss>>20, half>>20, grown>>20)
	if entries > 64+8 {
		t.Errorf("%v peers of one liar have places, 64 may", entries)
	}
	if full < rounds*250-64-8 {
		t.Errorf("%v were refused and counted, want about %d", full, rounds*250-64)
	}
	if grown > 128<<20 { // what is read waits for the collector
		t.Errorf("memory grew by %d bytes", grown)
	}

	for i, want := range []struct {
		kind   string
		reason string // of the charge
		points int
		count  string // of the refusal
	}{
		{"private", "spam", 10, `parley_addrbook_rejected_total{reason="not_dialable"}`},
		{"forged", "bad_record", 40, `parley_addrbook_rejected_total{reason="forged"}`},
		{"huge", "oversize", 40, `parley_discovery_refused_total{reason="oversize"}`},
	} {
		o := liar(i+1, tale{Records: 250, Addrs: 1, Kind: want.kind})
		out := w.crowd.ask(o)
		charges := fmt.Sprintf("parley_reputation_points_total{reason=%q}", want.reason)
		before := w.metric(n, charges)
		w.visit(n, o)
		w.wait(soon, want.kind+" is charged", func() (bool, string) {
			got := w.metric(n, charges) - before
			return got >= float64(want.points), fmt.Sprintf("%v points", got)
		})
		if got := w.metric(n, want.count); got < 1 {
			t.Errorf("%s: %v refusals counted", want.kind, got)
		}
		if want.points < 40 {
			continue
		}
		w.wait(soon, want.kind+" is parted with", func() (bool, string) {
			for _, p := range w.peers(n) {
				if p.ID == out.ID {
					return false, fmt.Sprintf("%+v", p)
				}
			}
			return true, ""
		})
	}
	if after := w.rss(n) - rss; after > 160<<20 {
		t.Errorf("memory grew by %d bytes", after)
	}
}

// visit has the node connect to one of the crowd, and waits until it has asked
// it for peers.
func (w *world) visit(n *node, o order) {
	w.t.Helper()
	o.Do = "asked"
	before := w.crowd.ask(o)
	addr := fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", o.From, o.Listen, before.ID)
	w.wait(soon, "it connects to "+addr, func() (bool, string) {
		_, err := n.api.Do(w.t.Context(), http.MethodPost, "peers", map[string]any{"address": addr}, nil)
		return err == nil, fmt.Sprint(err)
	})
	w.wait(soon, "it asks "+addr, func() (bool, string) {
		now := w.crowd.ask(o)
		return now.Asked > before.Asked, fmt.Sprintf("asked %d times", now.Asked)
	})
}
