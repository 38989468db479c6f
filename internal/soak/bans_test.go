package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
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
		w.wait(soon, transport+": they are gone", func() (bool, string) {
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

// TestMisbehaviourIsBanned has strangers misbehave over real sockets: one by
// what does not decode, who is parted with, and one by a block that nobody
// signed, who is banned, also after kill -9, until the operator lifts that.
func TestMisbehaviourIsBanned(t *testing.T) {
	t.Parallel()
	const clumsy, forger = "44.3.1.1", "44.4.1.1"
	w := newWorld(t, 1, []string{clumsy, forger}, func(_ int, _ string, c map[string]any) {
		c["discovery"] = map[string]any{"dht": "off", "pex": false}
	})
	w.start(w.nodes...)
	n := w.nodes[0]
	h := consortium.Header{Genesis: w.genesis.Hash(), Height: 1, Prev: w.genesis.Hash(), Time: 1}
	forged := wire.BlockAnnouncement{Header: h.Encode(), Certificate: consortium.Certificate{}.Encode()}.Encode()
	for _, transport := range []string{"tcp", "quic"} {
		come := func(name, from string) outcome {
			return w.crowd.ask(order{Do: "come", Name: transport + " " + name, From: from, To: w.full(n, transport), Status: w.status()})
		}
		send := func(name, from, topic string, data []byte) {
			t.Helper()
			if o := w.crowd.ask(order{Do: "gossip", Name: transport + " " + name, From: from, To: w.full(n, transport), Topic: "/parley/" + w.genesis.Net() + "/" + topic, Data: data}); o.Err != "" {
				t.Errorf("%s: %s: %s", transport, name, o.Err)
			}
		}
		points := func(id peer.ID) (d parley.PeerDetail) {
			t.Helper()
			if _, err := n.get(t.Context(), "peers/"+id.String(), &d); err != nil {
				t.Errorf("%s: %v", transport, err)
			}
			return d
		}
		parted := func(name string, code uint64) {
			t.Helper()
			w.wait(soon, transport+": "+name+" is parted with", func() (bool, string) {
				o := w.crowd.ask(order{Do: "list"})
				return o.Bye[transport+" "+name] == code && o.Still[transport+" "+name] == 0, fmt.Sprintf("%+v", o)
			})
		}
		one, two := come("clumsy", clumsy), come("forger", forger)
		if one.Err+two.Err != "" {
			t.Fatalf("%s: %+v %+v", transport, one, two)
		}
		send("clumsy", clumsy, "record", []byte{0x0a, 0xff})
		w.wait(soon, transport+": it is charged", func() (bool, string) {
			d := points(one.ID)
			return d.Reputation.Points == 25 && d.Ready, fmt.Sprintf("%+v", d.Reputation)
		})
		send("clumsy", clumsy, "record", []byte{0x0b, 0xff})
		parted("clumsy", wire.GoodbyeBadScore)
		if d := points(one.ID); d.Reputation.Standing != "discouraged" || len(d.Reputation.Reasons) != 2 || d.Reputation.Reasons[1].Reason != chain.Malformed {
			t.Errorf("%s: %+v", transport, d.Reputation)
		}
		if o := come("clumsy", clumsy); o.Err == "" && o.Code == wire.VerackOK {
			t.Errorf("%s: a discouraged peer is let in", transport)
		}

		send("forger", forger, "block", forged)
		parted("forger", wire.GoodbyeBanned)
		w.wait(soon, transport+": its ban is on disk", func() (bool, string) { // the goodbye does not wait for that
			d := points(two.ID)
			return d.Reputation.Standing == "banned", fmt.Sprintf("%+v", d.Reputation)
		})
		if d := points(two.ID); len(d.Reputation.Reasons) != 1 || d.Reputation.Reasons[0].Reason != chain.ForgedBlock {
			t.Errorf("%s: %+v", transport, d.Reputation)
		}
		away := func(when string) {
			t.Helper()
			if o := come("forger", forger); o.Err == "" && o.Code == wire.VerackOK {
				t.Errorf("%s: it is let in, %s", transport, when)
			}
			if status, err := n.api.Do(t.Context(), http.MethodPost, "peers", map[string]any{"address": "/ip4/" + forger + "/tcp/9906/p2p/" + two.ID.String()}, nil); err == nil {
				t.Errorf("%s: the node dials it, %s: %d", transport, when, status)
			}
		}
		away("banned")
		var check struct{ By *parley.Ban }
		if _, err := n.get(t.Context(), "bans/check?target="+two.ID.String(), &check); err != nil || check.By == nil || check.By.Hits == 0 || check.By.Origin != "auto" {
			t.Errorf("%s: %+v %v", transport, check.By, err)
		}
		n.kill()
		w.start(n)
		away("after kill -9")
		w.do(n, http.MethodDelete, "bans/"+two.ID.String(), nil, nil)
		if o := come("forger", forger); o.Err != "" || o.Code != wire.VerackOK {
			t.Errorf("%s: unbanned: %+v", transport, o)
		}
	}
}

// do has a node's API do something.
func (w *world) do(n *node, method, path string, in, out any) {
	w.t.Helper()
	if status, err := n.api.Do(w.t.Context(), method, path, in, out); err != nil {
		w.t.Fatalf("%s %s: %d %v", method, path, status, err)
	}
}
