package dialer_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

func TestJoinLearnsTheIDByADial(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.name("node1", "1.1.0.1")
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("node1")})
		defer b.stop()
		time.Sleep(2 * time.Second)
		s := b.only(t)
		if s.State != dialer.Connected || s.ID != a.host.ID() || s.Item != "node1" || s.Origin != "config" {
			t.Fatalf("after 2 s: %+v", s)
		}
		if !b.IsReady(a.host.ID()) || !a.IsReady(b.host.ID()) || !b.Has(a.host.ID()) {
			t.Error("the handshake is missing")
		}
		if up, ok := b.metric(t, "parley_dialer_static_peers", "connected"), b.metric(t, "parley_dialer_static_dials_total", "ok"); up != 1 || ok != 1 {
			t.Errorf("metrics: %v connected, %v dials", up, ok)
		}
		if p, _ := b.Peer(a.host.ID()); p.Slot != "static" || p.Source != "static" {
			t.Errorf("the peer's slot is %+v", p)
		}
	})
}

func TestPeerDownThenUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		key := newKey(t)
		b := w.node(options{ip: "1.2.0.1", cfg: items("node1")}) // no such name yet
		defer b.stop()
		sub := b.bus.Subscribe()
		time.Sleep(5 * time.Minute)
		s := b.only(t)
		if s.State != dialer.Trying || s.Class != dialer.ClassDNS || s.LastError == "" {
			t.Fatalf("without a name: %+v", s)
		}
		if s.Tries < 24 || s.Tries > 40 { // 2 min at 5 s, 3 min at 30 s
			t.Errorf("%d tries in 5 min", s.Tries)
		}
		w.name("node1", "1.1.0.1") // but nobody is there
		time.Sleep(2 * time.Minute)
		if s = b.only(t); s.Class != dialer.ClassTimeout {
			t.Fatalf("with nobody there: %+v", s)
		}
		if n := b.log.count("static peer failed"); n != 2 {
			t.Errorf("%d warnings, want one a class", n)
		}
		a := w.node(options{ip: "1.1.0.1", key: key})
		time.Sleep(45 * time.Second)
		if s = b.only(t); s.State != dialer.Connected || s.Tries != 0 || s.Class != "" {
			t.Fatalf("after the peer came: %+v", s)
		}
		a.stop()
		time.Sleep(90 * time.Second)
		if s = b.only(t); s.State != dialer.Trying || s.Tries < 4 {
			t.Fatalf("after the peer left: %+v", s)
		}
		// In the fast phase again, so it is found within seconds.
		a = w.node(options{ip: "1.1.0.1", key: key})
		defer a.stop()
		time.Sleep(20 * time.Second)
		if s = b.only(t); s.State != dialer.Connected {
			t.Fatalf("after the peer came back: %+v", s)
		}
		var got []string
		envelopes, _ := sub.Take(4096)
		for _, e := range envelopes {
			if c, ok := e.Data.(event.StaticPeerChanged); ok {
				got = append(got, strings.TrimSuffix(c.State+" "+c.Class, " "))
			}
		}
		want := []string{"trying dns", "trying timeout", "connected", "trying", "trying timeout", "connected"}
		if !slices.Equal(got, want) && !slices.Equal(got, want[1:]) {
			t.Errorf("events %q, want %q", got, want)
		}
		if n := b.log.count("static peer connected"); n != 2 {
			t.Errorf("connected %d times in the log", n)
		}
	})
}

func TestWrongNetworkRests(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1", chain: "y"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("1.1.0.1:9906")})
		defer b.stop()
		subA, subB := a.bus.Subscribe(), b.bus.Subscribe()
		time.Sleep(9 * time.Minute)
		s := b.only(t)
		if s.State != dialer.Paused || s.Class != dialer.ClassWrongNetwork || s.Tries != 1 {
			t.Fatalf("after 9 min: %+v", s)
		}
		if rest := time.Until(s.NextAt); rest < 30*time.Second || rest > 2*time.Minute {
			t.Errorf("next attempt in %v", rest)
		}
		time.Sleep(3 * time.Minute)
		if s = b.only(t); s.Tries != 2 {
			t.Errorf("after 12 min: %+v", s)
		}
		for _, n := range []*node{a, b} {
			if n.log.count("chain x is not chain y") == 0 {
				t.Error("one side's log does not say why")
			}
		}
		for _, sub := range []*event.Subscription{subA, subB} {
			refused := 0
			envelopes, _ := sub.Take(4096)
			for _, e := range envelopes {
				if r, ok := e.Data.(event.PeerRefused); ok && r.Reason == "chain x is not chain y" {
					refused++
				}
			}
			if refused != 2 {
				t.Errorf("%d refusals on the bus, want one an attempt", refused)
			}
		}
	})
}

func TestNameOfSeveralPeersAndOurselves(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.name("tasks.node", "1.1.0.1", "1.2.0.1", "1.3.0.1")
		cfg := items("tasks.node", "1.2.0.1") // the second is one of the first
		a, c := w.node(options{ip: "1.1.0.1", cfg: cfg}), w.node(options{ip: "1.3.0.1", cfg: cfg})
		b := w.node(options{ip: "1.2.0.1", cfg: cfg})
		for _, n := range []*node{a, b, c} {
			defer n.stop()
		}
		time.Sleep(30 * time.Second)
		for _, n := range []*node{a, b, c} {
			list := n.Static()
			if len(list) != 2 || len(n.Ready()) != 2 {
				t.Errorf("%d static and %d ready peers, want 2: %+v", len(list), len(n.Ready()), list)
			}
			for _, s := range list {
				if s.State != dialer.Connected || s.ID == n.host.ID() {
					t.Errorf("static peer %+v", s)
				}
			}
		}
		if n := b.log.count("static peer is this node itself"); n != 2 { // once an item
			t.Errorf("told %d times that it is itself", n)
		}
		w.name("tasks.node", "1.1.0.1", "1.2.0.1", "1.3.0.1", "1.4.0.1")
		d := w.node(options{ip: "1.4.0.1"}) // knows nobody
		defer d.stop()
		time.Sleep(45 * time.Second)
		if n := len(d.Ready()); n != 3 {
			t.Errorf("a peer that joined a name has %d peers, want 3", n)
		}
	})
}

func TestPinsSurviveARestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		file := filepath.Join(t.TempDir(), "static-peers.json")
		a := w.node(options{ip: "1.1.0.1"})
		cfg := dialer.Config{Items: []string{"1.1.0.1"}, File: file}
		key := newKey(t)
		b := w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		time.Sleep(2 * time.Second)
		if s := b.only(t); s.State != dialer.Connected {
			t.Fatalf("before: %+v", s)
		}
		b.stop()
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("pins: %v, %v", info, err)
		}
		aID := a.host.ID()
		a.stop()

		a = w.node(options{ip: "1.1.0.1"}) // set up anew, with another key
		b = w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		if s := b.only(t); s.ID != aID {
			t.Errorf("the pin is lost: %+v", s)
		}
		time.Sleep(time.Minute)
		s := b.only(t)
		if s.State != dialer.Paused || s.Class != dialer.ClassIdentity || !strings.Contains(s.LastError, a.host.ID().String()) {
			t.Fatalf("with another id: %+v", s)
		}
		if b.host.Network().Connectedness(a.host.ID()) == network.Connected {
			t.Error("connected with the wrong peer")
		}
		if !strings.Contains(s.LastError, "parley peers remove 1.1.0.1, then parley peers add 1.1.0.1") {
			t.Errorf("no mend in %q", s.LastError)
		}
		b.stop()
		w.node(options{ip: "1.2.0.1", key: key, cfg: dialer.Config{Items: []string{"1.3.0.1"}, File: file}}).stop() // once without it
		b = w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		time.Sleep(2 * time.Second)
		if s := b.only(t); s.State != dialer.Connected || s.ID != a.host.ID() {
			t.Fatalf("after a start without it: %+v", s)
		}
		b.stop()
		a.stop()
	})
}

func TestMembers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		keys := []crypto.PrivKey{newKey(t), newKey(t), newKey(t)}
		var members []peer.AddrInfo
		for i, k := range keys {
			a := ma.StringCast(fmt.Sprintf("/ip4/1.%d.0.1/udp/9906/quic-v1", i+1))
			members = append(members, peer.AddrInfo{ID: idOf(t, k), Addrs: []ma.Multiaddr{a}})
		}
		var nodes []*node
		for i, k := range keys {
			n := w.node(options{ip: fmt.Sprintf("1.%d.0.1", i+1), key: k, cfg: items("1.1.0.1")})
			defer n.stop()
			n.Keep(members)
			nodes = append(nodes, n)
		}
		time.Sleep(30 * time.Second)
		for i, n := range nodes {
			list := n.Static()
			if len(list) != 2 || len(n.Ready()) != 2 {
				t.Errorf("node %d: %d static peers, %d ready: %+v", i, len(list), len(n.Ready()), list)
			}
		}
		b := nodes[1] // knows member 0 by an item as well
		if p, _ := b.Peer(members[2].ID); p.Source != "member" || p.Slot != "static" {
			t.Errorf("a member is %+v", p)
		}
		if s := b.Static()[0]; s.ID != members[0].ID || s.Origin != "config" {
			t.Errorf("who is both is shown as %+v", s)
		}
		b.Keep(members[:2])
		if b.Has(members[2].ID) || !b.Has(members[0].ID) {
			t.Error("a former member is still kept")
		}
		b.Keep(nil)
		if s := b.only(t); s.ID != members[0].ID {
			t.Errorf("without members: %+v", s)
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("1.1.0.1")})
		defer b.stop()
		synctest.Wait()
		if a, b := a.log.count("static peers are dialled"), b.log.count("static peers are dialled"); a != 0 || b != 1 { // at once, and whoever has some
			t.Errorf("at the start %d and %d lines", a, b)
		}
		time.Sleep(time.Minute)
		sub := a.bus.Subscribe()
		a.gate.SetDenied(map[peer.ID]struct{}{b.host.ID(): {}})
		b.gate.SetDenied(map[peer.ID]struct{}{a.host.ID(): {}})
		b.Disconnect(t.Context(), a.host.ID(), 3, "partition")
		time.Sleep(5 * time.Minute)
		if s := b.only(t); s.State != dialer.Paused || s.Class != dialer.ClassBanned {
			t.Fatalf("in the partition: %+v", s)
		}
		if n := b.log.count("static peer failed"); n != 1 {
			t.Errorf("%d warnings", n)
		}
		envelopes, _ := sub.Take(100)
		if !slices.ContainsFunc(envelopes, func(e event.Envelope) bool {
			d, ok := e.Data.(event.PeerDisconnected)
			return ok && d.Goodbye == 3 && d.Text == "partition"
		}) {
			t.Errorf("no goodbye in %+v", envelopes)
		}
		a.gate.SetDenied(nil)
		b.gate.SetDenied(nil)
		time.Sleep(8 * time.Second)
		if s := b.only(t); s.State != dialer.Connected {
			t.Fatalf("after it healed: %+v", s)
		}
	})
}

// dnsaddr is a zone of TXT records.
type dnsaddr map[string][]string

func (z dnsaddr) txt(_ context.Context, name string) (texts []string, err error) {
	list, ok := z[strings.TrimPrefix(name, "_dnsaddr.")]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	for _, a := range list {
		texts = append(texts, "dnsaddr="+a)
	}
	return texts, nil
}

func TestMultiaddrItems(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.name("node1", "1.1.0.1")
		a, b := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.2.0.1"})
		defer a.stop()
		defer b.stop()
		full := func(n *node) string { return n.host.Addrs()[0].String() + "/p2p/" + n.host.ID().String() }
		for _, tt := range []struct {
			item string
			want int
		}{
			{full(a), 1},
			{a.host.Addrs()[0].String(), 1}, // no id: learned by a dial
			{"/dns4/node1/udp/9906/quic-v1/p2p/" + a.host.ID().String(), 1},
			{"/dnsaddr/all", 2},
			{"/dnsaddr/all/p2p/" + b.host.ID().String(), 1},
		} {
			c := w.node(options{ip: "1.3.0.1", cfg: dialer.Config{Items: []string{tt.item}, TXT: dnsaddr{"all": {full(a), full(b)}}.txt}})
			time.Sleep(10 * time.Second)
			list := c.Static()
			if len(list) != tt.want || len(c.Ready()) != tt.want {
				t.Errorf("%s: %+v", tt.item, list)
			}
			c.stop()
			time.Sleep(time.Second)
		}
		// The given id is not the one that answers.
		c := w.node(options{ip: "1.3.0.1", cfg: items(a.host.Addrs()[0].String() + "/p2p/" + b.host.ID().String())})
		defer c.stop()
		time.Sleep(10 * time.Second)
		if s := c.only(t); s.State != dialer.Paused || s.Class != dialer.ClassIdentity {
			t.Errorf("with a wrong id: %+v", s)
		}
	})
}

func TestBadItemsAndFiles(t *testing.T) {
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	log := &lockedBuffer{}
	newDialer := func(cfg dialer.Config) (*dialer.Dialer, error) {
		return dialer.New(cfg, dialer.Functions{}, h, nil, event.NewBus(64), slog.New(slog.NewTextHandler(log, nil)), nil)
	}
	d, err := newDialer(items("node1", "enode://a@b:1", "node1"))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Static()) != 1 || log.count("static peer left out") != 2 {
		t.Errorf("%+v, %d warnings", d.Static(), log.count("static peer left out"))
	}
	file := filepath.Join(t.TempDir(), "static-peers.json")
	pins := fmt.Sprintf(`{"added":null,"pins":{"node1":%q,"node2":%q}}`, h.ID(), h.ID())
	if err := os.WriteFile(file, []byte(pins), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = newDialer(dialer.Config{Items: []string{" node1 "}, File: file}); err != nil || d.Static()[0].ID != h.ID() {
		t.Errorf("a pin: %v, %v", d.Static(), err)
	}
	if left, _ := os.ReadFile(file); strings.Contains(string(left), "node2") || !strings.Contains(string(left), "node1") {
		t.Errorf("pins after a start without node2: %s", left)
	}
	added := fmt.Sprintf(`{"pins":{},"added":["node3","enode://a@b:1","node1"],"trusted":[%q]}`, h.ID())
	if err := os.WriteFile(file, []byte(added), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = newDialer(dialer.Config{Items: []string{"node1"}, Trusted: []peer.ID{h.ID()}, File: file}); err != nil || len(d.Static()) != 2 || !d.Trusted(h.ID()) {
		t.Errorf("what was added: %+v, %v", d.Static(), err)
	}
	if left, _ := os.ReadFile(file); strings.Contains(string(left), "enode") || strings.Contains(string(left), "node1") ||
		!strings.Contains(string(left), "node3") || strings.Contains(string(left), h.ID().String()) {
		t.Errorf("the file still has what is void or in the configuration: %s", left)
	}
	if err := os.WriteFile(file, []byte(`{"pins":{"a":"no id"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newDialer(dialer.Config{File: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("damaged file: %v", err)
	}
}

// A member of whom the chain gives no address is dialled where the book has it.
func TestMemberOfTheBook(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		key := newKey(t)
		b := w.node(options{ip: "1.2.0.1", key: key})
		defer b.stop()
		var told atomic.Bool
		a := w.node(options{ip: "1.1.0.1", members: []peer.AddrInfo{{ID: idOf(t, key)}}, known: func(p peer.ID) []ma.Multiaddr {
			if !told.Load() || p != idOf(t, key) {
				return nil
			}
			return []ma.Multiaddr{ma.StringCast("/ip4/1.2.0.1/udp/9906/quic-v1")}
		}})
		defer a.stop()
		time.Sleep(time.Minute)
		if len(a.Ready()) != 0 {
			t.Fatal("it is connected, and nobody knew where")
		}
		told.Store(true)
		time.Sleep(time.Minute)
		if len(a.Ready()) != 1 {
			t.Errorf("not connected: %+v", a.Static())
		}
	})
}
