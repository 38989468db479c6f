package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/config"
)

// byHand is two followers of one chain that do not know each other, with the
// address of the first for the second.
func byHand(t *testing.T) (f, n *house, at string) {
	t.Helper()
	alone := func(c *config.Config) { // nobody looks for peers by himself
		c.P2P.TargetPeers, c.Discovery.DHT, c.Discovery.PEX = 0, config.DHTOff, false
	}
	h := start(t, alone)
	h.waitFor("the chain", func() bool { return h.do("GET", "/api/v1/chain", "", "").status == 200 })
	join := func(name string) *house {
		return start(t, func(c *config.Config) {
			alone(c)
			c.Node.Name, c.P2P.StaticPeers = name, []string{strings.TrimPrefix(h.base, "http://")}
		})
	}
	f, n = join("n2"), join("n3")
	for _, x := range []*house{f, n} {
		x.waitFor("the chain", func() bool { return x.node.Status().Head != nil })
	}
	return f, n, strings.TrimPrefix(f.base, "http://")
}

// knows reports whether x is connected with y.
func (x *house) knows(y *house) bool {
	p, ok := x.node.Peer(y.node.ID())
	return ok && p.Ready
}

// items are what a list has, each in one line of some of its fields.
func (r reply) items(t *testing.T, fields ...string) []string {
	t.Helper()
	var lines []string
	for _, item := range r.json(t)["items"].([]any) {
		var words []string
		for _, f := range fields {
			words = append(words, fmt.Sprint(item.(map[string]any)[f]))
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return lines
}

func TestPeersByHand(t *testing.T) {
	f, n, at := byHand(t)
	admin, id := n.token("admin"), f.node.ID().String()
	want := func(got reply, status int, parts ...string) {
		t.Helper()
		if got.status != status {
			t.Fatalf("status %d, want %d: %s", got.status, status, got.body)
		}
		for _, part := range parts {
			if !strings.Contains(string(got.body), part) {
				t.Errorf("no %s in %s", part, got.body)
			}
		}
	}
	gone := func() bool { return !n.knows(f) && !f.knows(n) }

	// once
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`"}`), 201, `"id":"`+id+`"`, `"state":"connected"`)
	want(n.do("GET", "/api/v1/peers/"+id, "", ""), 200, `"source":"operator"`, `"slot":"outbound"`, `"direction":"outbound"`, `"static":false`)
	want(n.do("POST", "/api/v1/peers/"+id+"/disconnect", admin, ""), 200, `"state":"known"`)
	n.waitFor("the end", gone)
	n.waitFor("the last connection to close, behind the goodbye", func() bool { return n.do("POST", "/api/v1/peers/"+id+"/disconnect", admin, "").status == 404 })
	path := "/api/v1/peers/" + id + "/history"
	n.waitFor("the history", func() bool { return len(n.do("GET", path, "", "").items(t)) >= 2 })
	if got := n.do("GET", path, "", "").items(t, "event", "direction", "by", "reason", "goodbye"); !slices.Equal(got, []string{
		"disconnected outbound us the operator disconnected 0", "connected outbound   0",
	}) {
		t.Errorf("our history: %q", got)
	}
	path = "/api/v1/peers/" + n.node.ID().String() + "/history"
	f.waitFor("the other's history", func() bool { return len(f.do("GET", path, "", "").items(t)) >= 2 })
	if got := f.do("GET", path+"?limit=1", "", ""); got.items(t, "event", "direction", "by", "reason", "goodbye")[0] !=
		"disconnected inbound them the operator disconnected 1" || got.json(t)["next_cursor"] == nil {
		t.Errorf("the other's history: %s", got.body)
	} else if next := f.do("GET", fmt.Sprint(path, "?limit=1&cursor=", got.json(t)["next_cursor"]), "", ""); next.items(t, "event")[0] != "connected" {
		t.Errorf("its next page: %s", next.body)
	}

	// for ever
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`","static":true}`), 201, `"id":"`+id+`"`, `"state":"connected"`, `"item":"`+at+`"`)
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`","static":true}`), 409, "PLY-007")
	want(n.do("GET", "/api/v1/static-peers", "", ""), 200, `"origin":"api"`, `"tries":0`)
	want(n.do("POST", "/api/v1/peers/"+id+"/disconnect", admin, ""), 200, "connects again")
	n.waitFor("the peer again", func() bool { return n.knows(f) })
	want(n.do("POST", "/api/v1/peers/"+id+"/connect", admin, ""), 200, `"state":"connected"`)
	want(n.do("DELETE", "/api/v1/peers/"+id, admin, ""), 204)
	n.waitFor("the end", gone)
	if len(n.node.StaticPeers()) != 1 { // that of the configuration
		t.Errorf("still kept: %+v", n.node.StaticPeers())
	}
	want(n.do("DELETE", "/api/v1/peers/"+id, admin, ""), 404, "PLY-006")

	// trusted, without and with a connection
	want(n.do("POST", "/api/v1/peers/"+id+"/trust", admin, ""), 200, `"trusted":true`, `"state":"known"`, `"standing":"exempt"`)
	want(n.do("GET", "/api/v1/peers/"+id, "", ""), 200, `"trusted":true`, `"state":"known"`)
	want(n.do("POST", "/api/v1/peers/"+id+"/untrust", admin, ""), 200, `"trusted":false`)
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`","trusted":true}`), 201)
	want(n.do("GET", "/api/v1/peers/"+id, "", ""), 200, `"trusted":true`, `"standing":"exempt"`, `"slot":"static"`)
	want(n.do("DELETE", "/api/v1/peers/"+id, admin, ""), 204) // no static peer: closed
	n.waitFor("the end", gone)

	// what cannot be reached says so, in words and as a class
	got := n.do("POST", "/api/v1/peers", admin, `{"address":"/ip4/127.0.0.1/tcp/1"}`)
	want(got, 502, "PLY-016")
	if got.json(t)["class"] != "refused" {
		t.Errorf("%s", got.body)
	}
	dead := "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR"
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+dead+`","static":true,"trusted":true}`), 201, `"state":"trying"`, `"class":"refused"`)
	if got := slices.Sorted(slices.Values(n.do("GET", "/api/v1/peers?state=known", "", "").items(t, "state", "static", "trusted"))); !slices.Equal(got, []string{
		"connected true false", "known false true", "known true true",
	}) {
		t.Errorf("known: %q", got)
	}
	if got := n.do("GET", "/api/v1/peers", "", "").items(t); len(got) != 1 {
		t.Errorf("connected: %s", got)
	}
	want(n.do("DELETE", "/api/v1/peers/"+url.PathEscape(dead), admin, ""), 204)
}

// A peer of the configuration that is removed stays away until the next start,
// and one that is a member of the network is kept as such; the answer says so.
func TestRemovePeerOfTheConfiguration(t *testing.T) {
	_, n, _ := byHand(t)
	admin, at := n.token("admin"), n.node.StaticPeers()[0].Item
	got := n.do("DELETE", "/api/v1/peers/"+at, admin, "")
	m := got.json(t)
	if got.status != 200 || !strings.Contains(fmt.Sprint(m["note"]), "until the next start") || fmt.Sprint(m["items"]) != "["+at+"]" {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if !strings.Contains(fmt.Sprint(m["note"]), "a member of the network") { // the chain names its members a moment after it is known
		n.waitFor("the member", func() bool {
			s := n.node.StaticPeers()
			return len(s) == 1 && s[0].Origin == "member" && s[0].State == "connected"
		})
	}
	s := n.node.StaticPeers()
	if len(s) != 1 || s[0].Origin != "member" || n.node.PeerCount().Connected != 1 {
		t.Fatalf("afterwards: %+v", s)
	}
	if got := n.do("DELETE", "/api/v1/peers/"+s[0].ID.String(), admin, ""); got.status != 409 {
		t.Errorf("remove a member: %d %s", got.status, got.body)
	}
	if got := n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`","static":true}`); got.status != 201 {
		t.Errorf("added again: %d %s", got.status, got.body)
	}
	if s := n.node.StaticPeers(); len(s) != 1 || s[0].Origin != "config" {
		t.Errorf("added again: %+v", s)
	}
}

// A peer is found by whatever a list shows of it, and what was done is told.
func TestPeerByWords(t *testing.T) {
	f, n, at := byHand(t)
	admin, id, own := n.token("admin"), f.node.ID().String(), n.node.ID().String()
	want := func(got reply, status int, parts ...string) {
		t.Helper()
		if got.status != status {
			t.Fatalf("status %d, want %d: %s", got.status, status, got.body)
		}
		for _, part := range parts {
			if !strings.Contains(string(got.body), part) {
				t.Errorf("no %s in %s", part, got.body)
			}
		}
	}
	path := func(who, verb string) string { return "/api/v1/peers/" + url.PathEscape(who) + verb }
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`"}`), 201, `"id":"`+id+`"`)
	p, _ := n.node.Peer(f.node.ID())
	for _, who := range []string{id, "n2", at, p.Addr, p.Addr + "/p2p/" + id, id[len(id)-8:], "…" + id[len(id)-8:], "..." + id[len(id)-12:], id[:20], id[:20] + "…"} {
		want(n.do("GET", path(who, ""), "", ""), 200, `"id":"`+id+`"`)
	}
	for _, who := range []string{"n9", "127.0.0.1:1", "…" + id[:8], id[len(id)-3:], id[len(id)-8:] + "x", "12D3KooWzzzz"} {
		want(n.do("GET", path(who, ""), "", ""), 404, "PLY-006", "parley peers list")
	}
	want(n.do("POST", path("n2", "/connect"), admin, ""), 200, `"state":"connected"`, "connected already, outbound at "+p.Addr)
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"n2"}`), 201, "nothing was dialled")
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`"}`), 201, at+" is "+id+", which was connected already")

	// one that is not connected keeps its name
	want(f.do("POST", path("n3", "/disconnect"), f.token("admin"), ""), 200, `"id":"`+own+`"`, "had dialled this node", "out of its PEERS")
	ended := func() bool {
		_, here := n.node.Peer(f.node.ID())
		_, there := f.node.Peer(n.node.ID())
		return !here && !there
	}
	n.waitFor("the end", ended)
	want(n.do("GET", path("n2", ""), "", ""), 200, `"id":"`+id+`"`, `"state":"known"`, `"name":"n2"`)
	want(n.do("GET", path("n2", "/history"), "", ""), 200, `"event":"disconnected"`, id)
	want(n.do("POST", path("n2", "/connect"), admin, ""), 200, `"state":"connected"`)
	want(n.do("DELETE", path("n2", ""), admin, ""), 204)
	n.waitFor("the end", ended)

	// somebody else may take the name
	g := start(t, func(c *config.Config) {
		c.P2P.TargetPeers, c.Discovery.DHT, c.Discovery.PEX = 0, config.DHTOff, false
		c.Node.Name, c.P2P.StaticPeers = "n2", []string{strings.TrimPrefix(n.base, "http://")}
	})
	n.waitFor("the other n2", func() bool { return n.knows(g) })
	want(n.do("GET", path("n2", ""), "", ""), 200, g.node.ID().String())
	want(n.do("POST", path("n2", "/trust"), admin, ""), 409, "PLY-007", id, g.node.ID().String())
	want(n.do("POST", "/api/v1/peers", admin, `{"address":"`+at+`"}`), 201, `"id":"`+id+`"`)
	want(n.do("GET", path("n2", ""), "", ""), 409, "PLY-007", id+" (connected, n2, "+at+")", " or ", g.node.ID().String(), "name it by its id")
}

// The known peers come in pages behind the connected ones, each once.
func TestKnownPages(t *testing.T) {
	_, n, _ := byHand(t)
	var lines []string
	const many = 1100 // more than the node looks at in one go
	for i := range many {
		lines = append(lines, fmt.Sprintf(`{"id":%q,"addresses":["/ip4/10.%d.%d.1/tcp/9906"]}`, madeUpPeer(t, i), i/250, i%250))
	}
	got := n.do("POST", "/api/v1/addrbook/import", n.token("admin"), strings.Join(lines, "\n"))
	if got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	known := n.node.PeerCount().Known
	for _, limit := range []int{7, 1000} {
		seen, cursor, pages := map[string]bool{}, "", 0
		for {
			page := n.do("GET", fmt.Sprintf("/api/v1/peers?state=known&limit=%d&cursor=%s", limit, cursor), "", "")
			items := page.items(t, "state", "id")
			for i, item := range items {
				if seen[item] || strings.HasPrefix(item, "connected") != (pages == 0 && i == 0) {
					t.Fatalf("limit %d, page %d: %s", limit, pages, item)
				}
				seen[item] = true
			}
			pages++
			next := page.json(t)["next_cursor"]
			if next == nil {
				break
			}
			if cursor = next.(string); len(items) != limit {
				t.Fatalf("page of %d, want %d", len(items), limit)
			}
		}
		if len(seen) != known || known < many/2 {
			t.Errorf("limit %d: %d peers in %d pages, %d are known", limit, len(seen), pages, known)
		}
	}
	if all := n.do("GET", "/api/v1/peers?state=known&sort=name&limit=1000&q=10.0.", "", "").items(t, "addr"); len(all) == 0 || len(all) > 250 {
		t.Errorf("%d of 10.0", len(all))
	}
	if kept := n.do("GET", "/api/v1/peers?state=static", "", "").items(t, "state", "static"); !slices.Equal(kept, []string{"connected true"}) {
		t.Errorf("static: %q", kept)
	}
	if bad := n.do("GET", "/api/v1/peers?state=banned", "", "").items(t); len(bad) != 0 {
		t.Errorf("banned: %q", bad)
	}
}
