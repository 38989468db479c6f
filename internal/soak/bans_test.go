package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/wire"
)

// TestBans has strangers come over real sockets whom a node bans: by an address
// range before any handshake, by peer id right after it, on TCP and on QUIC,
// also after kill -9; others are let in all the while.
func TestBans(t *testing.T) {
	t.Parallel()
	const bad, worse, good = "44.1.1.1", "44.1.2.1", "45.1.1.1"
	w := newWorld(t, 1, []string{bad, worse, good}, func(_ int, _ string, c map[string]any) {
		c["discovery"] = map[string]any{"dht": "off", "pex": false}
	})
	w.start(w.nodes...)
	n := w.nodes[0]
	for _, transport := range []string{"tcp", "quic"} {
		visits := 0
		visit := func(name, from string) outcome {
			return w.crowd.ask(order{Do: "come", Name: transport + " " + name, From: from, To: w.full(n, transport), Status: w.status()})
		}
		comes := func(from string) { // somebody new
			t.Helper()
			visits++
			if o := visit(fmt.Sprint("new ", visits), from); o.Err != "" || o.Code != wire.VerackOK {
				t.Errorf("%s: %s is not let in: %+v", transport, from, o)
			}
		}
		refused := func(from string) {
			t.Helper()
			visits++
			before := w.metric(n, `parley_reputation_refusals_total{place="gate"}`)
			if o := visit(fmt.Sprint("new ", visits), from); o.Err == "" {
				t.Errorf("%s: %s is let in: %+v", transport, from, o)
			}
			if after := w.metric(n, `parley_reputation_refusals_total{place="gate"}`); after <= before {
				t.Errorf("%s: the refusal of %s is not counted", transport, from)
			}
		}
		first := visit("first", bad)
		second := visit("second", worse)
		if first.Err+second.Err != "" {
			t.Fatalf("%s: %+v %+v", transport, first, second)
		}
		var made struct {
			parley.Ban
			Closes []peer.ID `json:"closes"`
		}
		w.do(n, http.MethodPost, "bans", map[string]any{"target": "44.1.0.0/16", "for": "1h"}, &made)
		if !slices.Contains(made.Closes, first.ID) || !slices.Contains(made.Closes, second.ID) || made.Kind != "cidr" {
			t.Errorf("%s: %+v", transport, made)
		}
		w.wait(5*time.Second, transport+": they are gone", func() (bool, string) {
			o := w.crowd.ask(order{Do: "list"})
			return o.Bye[transport+" first"] == wire.GoodbyeBanned && o.Still[transport+" first"]+o.Still[transport+" second"] == 0, fmt.Sprintf("%+v", o)
		})
		refused(bad)
		refused(worse)
		comes(good)
		n.kill()
		w.start(n)
		refused(bad)
		comes(good)
		var check struct{ By *parley.Ban }
		if _, err := n.get(t.Context(), "bans/check?target="+worse, &check); err != nil || check.By == nil || check.By.Hits == 0 {
			t.Errorf("%s: %+v %v", transport, check.By, err)
		}
		w.do(n, http.MethodDelete, "bans/"+url.PathEscape("44.1.0.0/16"), nil, nil)
		comes(bad)

		// By its id, wherever it comes from.
		w.do(n, http.MethodPost, "bans", map[string]any{"target": first.ID.String()}, &made)
		if o := visit("first", bad); o.Err == "" && o.Code == wire.VerackOK {
			t.Errorf("%s: a banned peer is let in", transport)
		}
		comes(worse)
	}
}

// do has a node's API do something.
func (w *world) do(n *node, method, path string, in, out any) {
	w.t.Helper()
	if status, err := n.api.Do(w.t.Context(), method, path, in, out); err != nil {
		w.t.Fatalf("%s %s: %d %v", method, path, status, err)
	}
}
