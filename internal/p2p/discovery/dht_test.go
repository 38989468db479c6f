package discovery

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// 32 nodes, each of which met two others, use their DHT in all ways. Two more
// of another network are met too and stay outside.
func TestSwarm(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.swarm(32, options{cfg: onlyDHT})
		strangers := []*node{l.node(options{net: "ffffffff", cfg: onlyDHT}), l.node(options{net: "ffffffff", cfg: onlyDHT})}
		for _, s := range strangers {
			s.meet(nodes[0])
			s.meet(nodes[20])
		}
		time.Sleep(80 * time.Second)
		for i, n := range nodes {
			s := n.Status()
			if s.Peers < 15 || s.Mode != config.DHTServer || s.Protocol != "/parley/"+testNet+"/kad/1.0.0" {
				t.Fatalf("node %d: %+v", i, s)
			}
			if s.NetworkSize < 16 || s.NetworkSize > 64 || s.RegionAlarm {
				t.Errorf("node %d takes 32 nodes for %d, alarm %v", i, s.NetworkSize, s.RegionAlarm)
			}
			if known := len(n.book.Entries()); known < 20 {
				t.Errorf("node %d learnt of %d peers", i, known)
			}
		}
		if n := nodes[31].from(addrbook.DHT); n < 10 {
			t.Errorf("the last node learnt of %d peers by the DHT", n)
		}
		apart(t, nodes, strangers)
		findNode(t, nodes[1], nodes[29])
		putAndGet(t, nodes)
		provide(t, nodes)
		rendezvous(t, nodes, strangers[0])
		crawlAndTable(t, nodes)
		leavesAgain(t, nodes)
	})
}

// apart: nobody of one network is in a table of the other.
func apart(t *testing.T, nodes, strangers []*node) {
	for _, s := range strangers {
		if st := s.Status(); st.Peers != 0 {
			t.Errorf("a node of another network has %d peers in its table", st.Peers)
		}
		for _, n := range nodes {
			if n.tableHas(s.host.ID()) {
				t.Error("a node of another network is in a table")
			}
		}
	}
}

func (n *node) tableHas(p peer.ID) bool {
	k, _ := n.parts()
	return k.table().Find(p) != ""
}

func findNode(t *testing.T, a, z *node) {
	var seen []Step
	found, err := a.FindNode(t.Context(), z.host.ID(), func(s Step) { seen = append(seen, s) })
	if err != nil || len(found.Peers) < 20 || found.Peers[0].ID != z.host.ID() || len(found.Peers[0].Addrs) == 0 {
		t.Fatalf("find node: %v, %d peers", err, len(found.Peers))
	}
	if len(seen) != len(found.Steps) || len(seen) == 0 || found.Paths != 4 {
		t.Errorf("%d steps told, %d in the answer", len(seen), len(found.Steps))
	}
	asked, used := map[peer.ID]bool{}, map[int]bool{}
	for _, s := range found.Steps {
		if asked[s.Asked] {
			t.Errorf("%s was asked twice", s.Asked)
		}
		asked[s.Asked], used[s.Path] = true, true
		if s.Took <= 0 || s.Path < 0 || s.Path > 4 {
			t.Errorf("step %+v", s)
		}
	}
	if !used[1] || !used[2] || !used[3] || !used[4] {
		t.Errorf("paths that were used: %v", used)
	}
}

func putAndGet(t *testing.T, nodes []*node) {
	a, z := nodes[0], nodes[29]
	key := Key("note", a.host.ID())
	stored, err := a.PutValue(t.Context(), key, []byte("one"), nil)
	if err != nil || stored.Peers < 15 {
		t.Fatalf("put: %v at %d peers", err, stored.Peers)
	}
	got, err := z.GetValue(t.Context(), key, 0, nil)
	if err != nil || string(got.Value.Data) != "one" || got.Value.Author != a.host.ID() || got.Copies < 15 || got.Disagreement {
		t.Fatalf("get: %v %+v", err, got.Value)
	}
	if _, err = a.PutValue(t.Context(), key, []byte("two"), nil); err != nil {
		t.Fatal(err)
	}
	again, err := nodes[15].GetValue(t.Context(), key, 3, nil)
	if err != nil || string(again.Value.Data) != "two" || again.Value.Seq <= got.Value.Seq {
		t.Fatalf("get after a second put: %v %+v", err, again.Value)
	}
	if again.Copies < 3 || len(again.Steps) >= len(got.Steps) {
		t.Errorf("quorum 3: %d copies after %d steps, all are %d", again.Copies, len(again.Steps), len(got.Steps))
	}
	left := 0
	for _, s := range again.Steps { // everybody is there: who did not answer was not waited for
		if errors.Is(s.Err, ErrEnough) {
			left++
		} else if s.Err != nil {
			t.Errorf("quorum 3: %s: %v", s.Asked, s.Err)
		}
	}
	if left == 0 {
		t.Error("quorum 3: every answer was waited for")
	}
	if _, err := z.GetValue(t.Context(), Key("none", a.host.ID()), 0, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a value that nobody put: %v", err)
	}
	if _, err := z.PutValue(t.Context(), key, []byte("three"), nil); err == nil || !strings.Contains(err.Error(), Key("note", z.host.ID())) {
		t.Errorf("put under another's key: %v", err)
	}
	if _, err := a.PutValue(t.Context(), key, make([]byte, 4096), nil); err == nil {
		t.Error("a value over the limit is taken")
	}
	if _, err := a.GetValue(t.Context(), "/ipns/x", 0, nil); err == nil {
		t.Error("a key of another system is taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := z.GetValue(ctx, Key("none", a.host.ID()), 0, nil); err == nil {
		t.Error("a lookup goes on after its context has ended")
	}
}

func provide(t *testing.T, nodes []*node) {
	key, err := ProviderKey("a file")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := nodes[7].Provide(t.Context(), key, nil); err != nil || p.Peers < 15 {
		t.Fatalf("provide: %v at %d peers", err, p.Peers)
	}
	found, err := nodes[29].FindProviders(t.Context(), key, 1, nil)
	if err != nil || len(found.Peers) != 1 || found.Peers[0].ID != nodes[7].host.ID() || len(found.Peers[0].Addrs) == 0 {
		t.Fatalf("find providers: %v %+v", err, found.Peers)
	}
	if none, err := nodes[29].FindProviders(t.Context(), []byte("nobody has this"), 0, nil); err != nil || len(none.Peers) != 0 {
		t.Errorf("providers of nothing: %v %v", err, none.Peers)
	}
	if _, err := nodes[29].Provide(t.Context(), make([]byte, 81), nil); err == nil {
		t.Error("a key of 81 bytes is taken")
	}
}

func rendezvous(t *testing.T, nodes []*node, stranger *node) {
	for _, n := range []*node{nodes[4], nodes[11]} {
		if _, err := n.Advertise(t.Context(), "blocks"); err != nil {
			t.Fatal(err)
		}
	}
	found, err := nodes[27].FindTopic(t.Context(), "blocks", 2)
	if err != nil || len(found.Peers) != 2 {
		t.Fatalf("find a topic: %v %d peers", err, len(found.Peers))
	}
	for _, p := range found.Peers {
		if p.ID != nodes[4].host.ID() && p.ID != nodes[11].host.ID() {
			t.Errorf("%s advertised nothing", p.ID)
		}
	}
	if other, err := nodes[27].FindTopic(t.Context(), "records", 0); err != nil || len(other.Peers) != 0 {
		t.Errorf("another topic: %v %v", err, other.Peers)
	}
	if _, err := stranger.FindTopic(t.Context(), "blocks", 0); !errors.Is(err, ErrNoPeers) {
		t.Errorf("a node of another network asks: %v", err)
	}
}

func crawlAndTable(t *testing.T, nodes []*node) {
	told := 0
	list, err := nodes[3].Crawl(t.Context(), func(Crawled) { told++ })
	if err != nil || len(list) != len(nodes)-1 || told != len(list) {
		t.Fatalf("crawled %d peers of %d, told %d, %v", len(list), len(nodes)-1, told, err)
	}
	for _, c := range list {
		if !c.OK || c.Neighbors < 10 || len(c.Addrs) == 0 {
			t.Errorf("%s: %d neighbors, %d addresses, %v", c.ID, c.Neighbors, len(c.Addrs), c.Err)
		}
	}
	table, err := nodes[3].Table()
	if err != nil || len(table) == 0 {
		t.Fatal(err)
	}
	n := 0
	for i, b := range table {
		n += len(b.Peers)
		if i > 0 && b.Bits <= table[i-1].Bits {
			t.Error("buckets are not in order")
		}
	}
	if n != nodes[3].Status().Peers {
		t.Errorf("%d peers in buckets, %d in the table", n, nodes[3].Status().Peers)
	}
}

// leavesAgain: what a query dialled is closed; what a dialer wants stays.
func leavesAgain(t *testing.T, nodes []*node) {
	time.Sleep(3 * time.Minute)
	for i, n := range nodes[2:] {
		wanted := 0
		for _, p := range n.host.Network().Peers() {
			for _, o := range nodes {
				if o.host.ID() == p && (n.host.ConnManager().IsProtected(p, "") || o.host.ConnManager().IsProtected(n.host.ID(), "")) {
					wanted++
				}
			}
		}
		if conns := len(n.host.Network().Peers()); conns > wanted+2 { // strangers
			t.Errorf("node %d: %d connections, %d of them wanted", i+2, conns, wanted)
		}
		if !slices.Contains(n.host.Network().Peers(), nodes[i+1].host.ID()) {
			t.Errorf("node %d: a connection that somebody wants was closed", i+2)
		}
	}
	found := 0.0
	for _, n := range nodes {
		found += n.counter("parley_discovery_lookups_total", "ok")
		if n.counter("parley_discovery_dht_peers", "") < 15 {
			t.Error("the gauge of the table is wrong")
		}
	}
	if found < 32*9 {
		t.Errorf("%v lookups are counted", found)
	}
}

func TestOffAndNotStarted(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		off := l.node(options{cfg: Config{Discovery: config.Discovery{DHT: config.DHTOff}}})
		if _, err := off.Table(); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "discovery.dht") {
			t.Errorf("off: %v", err)
		}
		early := l.node(options{net: "-", cfg: onlyDHT})
		if _, err := early.Table(); !errors.Is(err, ErrNotStarted) {
			t.Errorf("not started: %v", err)
		}
		if err := early.Start("no/slash"); err == nil {
			t.Error("a network with a slash is taken")
		}
		alone := l.node(options{cfg: onlyDHT})
		if _, err := alone.FindNode(t.Context(), early.host.ID(), nil); !errors.Is(err, ErrNoPeers) {
			t.Errorf("alone: %v", err)
		}
		if err := alone.Start("other"); err == nil {
			t.Error("started twice")
		}
		if _, err := New(Config{Bootstrap: []string{"/ip4/1.2.3.4/tcp/1"}}, Functions{}, alone.host, alone.book, alone.bus, alone.log, nil); err == nil {
			t.Error("a bootstrap peer without id is taken")
		}
		public := l.node(options{net: "-", cfg: Config{Discovery: config.Discovery{DHTProtocol: "/ipfs"}}})
		if err := public.Start(testNet); err == nil {
			t.Error("the DHT of IPFS is joined")
		}
	})
}

// A client asks and is in nobody's table; auto is a server until it is known
// that nobody reaches us, and again when somebody does.
func TestModes(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		with := func(mode string) Config {
			return Config{Discovery: config.Discovery{DHT: mode}}
		}
		server, client, auto := l.node(options{cfg: with(config.DHTServer)}), l.node(options{cfg: with(config.DHTClient)}), l.node(options{cfg: with(config.DHTAuto)})
		client.meet(server)
		auto.meet(server)
		time.Sleep(time.Minute)
		if server.tableHas(client.host.ID()) || !server.tableHas(auto.host.ID()) {
			t.Errorf("in the server's table: client %v, auto %v", server.tableHas(client.host.ID()), server.tableHas(auto.host.ID()))
		}
		if s := client.Status(); s.Mode != config.DHTClient || s.Auto || s.Peers != 2 {
			t.Errorf("client: %+v", s)
		}
		if found, err := client.FindNode(t.Context(), auto.host.ID(), nil); err != nil || found.Peers[0].ID != auto.host.ID() {
			t.Errorf("the client finds nobody: %v", err)
		}
		emit, err := auto.host.EventBus().Emitter(new(levent.EvtLocalReachabilityChanged))
		if err != nil {
			t.Fatal(err)
		}
		defer emit.Close()
		for _, step := range []struct {
			reach network.Reachability
			mode  string
		}{{network.ReachabilityPrivate, config.DHTClient}, {network.ReachabilityPublic, config.DHTServer}} {
			if err := emit.Emit(levent.EvtLocalReachabilityChanged{Reachability: step.reach}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
			if s := auto.Status(); s.Mode != step.mode || !s.Auto {
				t.Errorf("after %s: %+v", step.reach, s)
			}
			if server.tableHas(auto.host.ID()) != (step.mode == config.DHTServer) {
				t.Errorf("after %s it is in the server's table: %v", step.reach, server.tableHas(auto.host.ID()))
			}
		}
	})
}
