package api

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/config"
)

// The address book comes in pages that hold each peer once, and what one node
// exports another imports.
func TestAddressBookByHand(t *testing.T) {
	h := start(t, func(c *config.Config) { c.P2P.TargetPeers = 0 })
	admin := h.token("admin")
	h.waitFor("the chain", func() bool { return h.node.Status().Head != nil })
	var lines strings.Builder
	for i := range 7 {
		fmt.Fprintf(&lines, `{"id":%q,"addresses":["/ip4/10.%d.0.1/tcp/9906","/ip4/10.%d.0.1/udp/9906/quic-v1"]}`+"\n", madeUpPeer(t, i), i, i)
	}
	lines.WriteString(`{"id":"` + h.node.ID().String() + `","addresses":["/ip4/10.0.0.9/tcp/1"]}` + "\n\nno line\n")
	got := h.do("POST", "/api/v1/addrbook/import", admin, lines.String())
	if m := got.json(t); m["added"] != 7.0 || m["refused_lines"] != 1.0 || m["known"] != 7.0 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	seen := map[string]int{}
	path := "/api/v1/addrbook?limit=3"
	for pages := 1; ; pages++ {
		got := h.do("GET", path, admin, "")
		for _, id := range got.items(t, "id", "table", "group") {
			seen[id]++
		}
		next := got.json(t)["next_cursor"]
		if next == nil {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		path = fmt.Sprint("/api/v1/addrbook?limit=3&cursor=", next)
	}
	if len(seen) != 7 {
		t.Errorf("%d peers in all pages: %v", len(seen), seen)
	}
	for id, n := range seen {
		if n != 1 || !strings.Contains(id, " new 4:10.") {
			t.Errorf("%s: %d times", id, n)
		}
	}
	if got := h.do("GET", "/api/v1/addrbook?group=4:10.3.0&source=operator", admin, "").items(t, "addresses"); len(got) != 1 || !strings.Contains(got[0], "10.3.0.1") {
		t.Errorf("one group: %q", got)
	}
	if got := h.do("GET", "/api/v1/addrbook?source=dht", admin, "").items(t); len(got) != 0 {
		t.Errorf("%d of another source", len(got))
	}
	if n := h.node.PeerCount().Known; n != 7 {
		t.Errorf("%d known", n)
	}
	known := h.do("GET", "/api/v1/peers?state=known&source=operator", "", "").items(t, "state", "address", "group")
	if len(known) != 7 || !slices.Contains(known, "known 10.3.0.1:9906 4:10.3.0") {
		t.Errorf("known: %q", known)
	}
	export := h.do("GET", "/api/v1/addrbook/export", admin, "")
	other := start(t, func(c *config.Config) {
		c.P2P.TargetPeers, c.P2P.StaticPeers = 0, []string{strings.TrimPrefix(h.base, "http://")}
	})
	other.waitFor("the chain", func() bool { return other.node.Status().Head != nil })
	if got := other.do("POST", "/api/v1/addrbook/import", other.token("admin"), string(export.body)); got.json(t)["added"].(float64) < 7 {
		t.Errorf("imported: %s", got.body)
	}
	alone := start(t, nil)
	alone.waitFor("the chain", func() bool { return alone.node.Status().Head != nil })
	if got := alone.do("POST", "/api/v1/addrbook/import", alone.token("admin"), string(export.body)); got.status != 400 {
		t.Errorf("of another chain: %d %s", got.status, got.body)
	}
}

func madeUpPeer(t *testing.T, n int) peer.ID {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(bytes.Repeat([]byte{byte(n), byte(n >> 8)}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Values have an author and a sequence, the newest wins, and what is too much,
// or not there, is told as such.
func TestDHTByHand(t *testing.T) {
	h := start(t, nil)
	h.waitFor("the chain", func() bool { return h.node.Status().Head != nil })
	admin := h.token("admin")
	if got := h.do("PUT", "/api/v1/dht/values?key=note", admin, `{"value":"aQ=="}`); got.status != 503 || got.json(t)["code"] != "PLY-012" {
		t.Errorf("put with nobody there: %d %s", got.status, got.body)
	}
	other := start(t, func(c *config.Config) { c.P2P.StaticPeers = []string{strings.TrimPrefix(h.base, "http://")} })
	for _, x := range []*house{h, other} {
		x.waitFor("the table", func() bool { return x.node.DHT().Peers == 1 })
	}
	key := "/parley/note/" + h.node.ID().String()
	last := 0.0
	for _, value := range []string{"aQ==", "aWk=", "aWlp"} {
		if got := h.do("PUT", "/api/v1/dht/values?key="+key, admin, `{"value":"`+value+`"}`); got.status != 200 {
			t.Fatalf("put: %d %s", got.status, got.body)
		}
		got := other.do("GET", "/api/v1/dht/values?key="+key, "", "").json(t)
		if got["value"] != value || got["author"] != h.node.ID().String() || got["seq"].(float64) <= last || got["disagreement"] != false || got["copies"] != 2.0 {
			t.Errorf("%v", got)
		}
		last = got["seq"].(float64)
	}
	if got := other.do("GET", "/api/v1/dht/values?quorum=20&key="+key, "", "").json(t); got["quorum_reached"] != false {
		t.Errorf("a quorum of 20: %v", got)
	}
	off := start(t, func(c *config.Config) { c.Discovery.DHT = config.DHTOff })
	off.waitFor("the chain", func() bool { return off.node.Status().Head != nil })
	if got := off.do("POST", "/api/v1/dht/provide", off.token("admin"), `{"key":"a"}`); got.status != 409 || got.json(t)["code"] != "PLY-007" {
		t.Errorf("switched off: %d %s", got.status, got.body)
	}
	if got := off.do("GET", "/api/v1/dht", "", "").json(t); got["mode"] != "off" {
		t.Errorf("%v", got)
	}
}
