package main

import (
	"fmt"
	"testing"
	"time"
)

// TestOutboundGroups has a node hear of many peers in few groups. It takes one
// of each, and a second one only when for a minute there was nobody else.
func TestOutboundGroups(t *testing.T) {
	t.Parallel()
	const groups, each = 3, 4
	var froms []string
	for g := range groups {
		for i := range each {
			froms = append(froms, fmt.Sprintf("47.%d.%d.1", g, i))
		}
	}
	teller := "48.1.1.1"
	w := newWorld(t, 1, append([]string{teller}, froms...), func(_ int, _ string, c map[string]any) { c["discovery"] = map[string]any{"dht": "off"} })
	n := w.nodes[0]
	w.start(n)
	for _, from := range froms {
		if out := w.crowd.ask(order{Do: "come", Name: from, From: from, Listen: 9906, Status: w.status()}); out.Err != "" {
			t.Fatal(out.Err)
		}
	}
	told := order{Do: "tell", Name: teller, From: teller, Listen: 9906, Status: w.status(), PEX: "/parley/" + w.genesis.Net() + "/pex/1", Tell: tale{Of: froms}}
	w.crowd.ask(told)
	began := time.Now() // before the node can have begun to count
	w.visit(n, told)
	chosen := func() (count int, by map[string]int) {
		by = map[string]int{}
		for _, p := range w.peers(n) {
			if p.Ready && p.Slot == "outbound" && p.Source == "pex" {
				var g, i int
				if _, err := fmt.Sscanf(p.Addr, "/ip4/47.%d.%d.1/", &g, &i); err != nil {
					t.Fatalf("%s: %v", p.Addr, err)
				}
				by[fmt.Sprintf("47.%d", g)]++
				count++
			}
		}
		return count, by
	}
	w.wait(soon, "one of each group", func() (bool, string) {
		count, by := chosen()
		return count >= groups, fmt.Sprint(by)
	})
	t.Logf("one of each group after %s", time.Since(began).Round(100*time.Millisecond))
	alarm := func() int { return w.said(n, "alarm raised", "low_diversity") }
	for range time.Tick(time.Second) {
		if time.Since(began) >= 50*time.Second {
			break
		}
		count, by := chosen()
		if count > groups || len(by) != groups {
			t.Fatalf("after %s: %v", time.Since(began), by)
		}
		if alarm() > 0 {
			t.Fatalf("after %s: alarm", time.Since(began))
		}
	}
	w.wait(2*soon, "a second one of a group", func() (bool, string) {
		count, by := chosen()
		return count > groups, fmt.Sprint(by)
	})
	after := time.Since(began)
	if after < 59*time.Second {
		t.Errorf("a used group was used again after %s", after)
	}
	w.wait(soon, "alarm low_diversity", func() (bool, string) { return alarm() == 1, "none" })
	_, by := chosen()
	t.Logf("a used group was used again after %s: %v", after.Round(100*time.Millisecond), by)
	if got := w.metric(n, "parley_dialer_outbound_groups"); got != groups {
		t.Errorf("%v groups, want %d", got, groups)
	}
}
