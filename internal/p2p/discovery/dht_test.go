package discovery

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"

	"github.com/parley-p2p/parley/config"
)

func verifyRecord(envelope []byte) (peer.ID, error) {
	e, rec, err := record.ConsumeEnvelope(envelope, peer.PeerRecordEnvelopeDomain)
	if err != nil {
		return "", err
	}
	r, ok := rec.(*peer.PeerRecord)
	if !ok || !r.PeerID.MatchesPublicKey(e.PublicKey) {
		return "", errors.New("another key")
	}
	return r.PeerID, nil
}

// 30 nodes, each of which met two others, find, put, get and provide.
func TestDHTByHand(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.swarm(30, onlyDHT)
		time.Sleep(3 * time.Minute)
		a, z := nodes[0], nodes[29]
		for i, n := range nodes {
			if s := n.Status(); s.Peers < 10 || s.Mode != config.DHTServer || s.Protocol != "/parley/"+testNet+"/kad/1.0.0" {
				t.Fatalf("node %d: %+v", i, s)
			}
		}
		var seen []Step
		found, err := a.FindNode(t.Context(), z.host.ID(), func(s Step) { seen = append(seen, s) })
		if err != nil || len(found.Peers) < 20 || found.Peers[0].ID != z.host.ID() || len(found.Peers[0].Addrs) == 0 {
			t.Fatalf("find node: %v %d peers", err, len(found.Peers))
		}
		if len(seen) != len(found.Steps) || len(seen) == 0 || found.Paths != 4 {
			t.Errorf("%d steps told, %d in the answer", len(seen), len(found.Steps))
		}
		used := map[peer.ID]int{}
		for _, s := range found.Steps {
			if used[s.Asked]++; used[s.Asked] > 1 {
				t.Errorf("%s is on two paths", s.Asked)
			}
		}

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

		pk, err := ProviderKey("a file")
		if err != nil {
			t.Fatal(err)
		}
		if p, err := nodes[7].Provide(t.Context(), pk, nil); err != nil || p.Peers < 15 {
			t.Fatalf("provide: %v at %d peers", err, p.Peers)
		}
		provs, err := z.FindProviders(t.Context(), pk, 1, nil)
		if err != nil || len(provs.Peers) != 1 || provs.Peers[0].ID != nodes[7].host.ID() || len(provs.Peers[0].Addrs) == 0 {
			t.Fatalf("find providers: %v %+v", err, provs.Peers)
		}
		if none, err := z.FindProviders(t.Context(), []byte("nobody has this"), 0, nil); err != nil || len(none.Peers) != 0 {
			t.Errorf("providers of nothing: %v %v", err, none.Peers)
		}
		if _, err := z.GetValue(t.Context(), Key("none", a.host.ID()), 0, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("a value that nobody put: %v", err)
		}
	})
}

func TestCrawlAndTable(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.swarm(30, onlyDHT)
		time.Sleep(2 * time.Minute)
		told := 0
		list, err := nodes[3].Crawl(t.Context(), func(Crawled) { told++ })
		if err != nil || len(list) != 29 || told != 29 {
			t.Fatalf("crawled %d peers of 29, told %d, %v", len(list), told, err)
		}
		for _, c := range list {
			if !c.OK || c.Neighbors < 5 {
				t.Errorf("%s: %d neighbors, %v", c.ID, c.Neighbors, c.Err)
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
		// What a query dialled is closed again; what a dialer wants stays.
		time.Sleep(5 * time.Minute)
		if conns := len(nodes[3].host.Network().Peers()); conns > 8 {
			t.Errorf("%d connections are left", conns)
		}
		if !slices.Contains(nodes[3].host.Network().Peers(), nodes[2].host.ID()) {
			t.Error("a connection that somebody wants was closed")
		}
	})
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
	})
}
