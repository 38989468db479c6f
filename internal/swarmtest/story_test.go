package swarmtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// A record is written: it is in one place of every validator's chain, found by
// id and by subject, and told on the event stream.
func TestRecordIsWritten(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b, c := s.Add(), s.Add(), s.Add()
		a.cfg.P2P.StaticPeers = []string{b.Addr(), c.Addr()}
		b.cfg.P2P.StaticPeers = []string{a.Addr()}
		c.cfg.P2P.StaticPeers = []string{a.Addr()}
		s.Genesis("story-record", a, b, c)
		for _, n := range s.nodes {
			n.Start()
		}
		s.Until("each node has two peers", 30*time.Second, func() bool {
			return !slices.ContainsFunc(s.nodes, func(n *Node) bool { return n.PeerCount().Connected != 2 })
		})
		sub := c.Events().Subscribe()
		defer sub.Close()
		r := b.Submit("pkg:deb/debian/0ad@1", `{"event":"published"}`, parley.Committed)
		s.Agree(10*time.Second, a, b, c)
		for _, n := range s.nodes {
			got, err := n.Record(r.ID)
			if err != nil || *got.Height != *r.Height || *got.Index != *r.Index || *got.BlockHash != *r.BlockHash {
				t.Errorf("%s: record %+v, %v; want it at height %d", n.Name, got, err, *r.Height)
			}
			history, _, err := n.History("pkg:deb/debian/0ad@1", parley.Range{})
			if err != nil || len(history) != 1 || history[0].ID != r.ID {
				t.Errorf("%s: history %v, %v", n.Name, history, err)
			}
		}
		told := false
		events, _ := sub.Take(1000)
		for _, e := range events {
			if rc, ok := e.Data.(event.RecordCommitted); ok && rc.ID == r.ID {
				told = true
			}
		}
		if !told {
			t.Error("no record.committed at node3")
		}
	})
}

// A newcomer joins with PEERS=host:port and nothing else: it learns the peer's
// id and the chain, holds everything, and follows.
func TestNewcomerJoins(t *testing.T) {
	Run(t, func(s *Swarm) {
		first := s.Add()
		first.Start()
		for i := range 200 {
			first.Submit(fmt.Sprint("subject-", i), `{"n":1}`, parley.Accepted)
		}
		s.Until("200 records committed", 30*time.Second, func() bool {
			c, err := first.Chain()
			return err == nil && c.RecordCount == 200
		})
		late := s.Add(Peers(first.Addr()))
		late.Start()
		s.Until("the newcomer is ready", 60*time.Second, func() bool { return late.Health().Status == "ready" })
		s.Agree(60*time.Second, first, late)
		if got, want := late.Records(), first.Records(); !slices.Equal(got, want) || len(got) != 200 {
			t.Errorf("newcomer has %d records, the first node %d, or not in the same order", len(got), len(want))
		}
		if late.Status().Role != "follower" || !late.Log.Has("WARN", "first use", first.Node.Status().ChainID) {
			t.Errorf("role %s; no warning of trust on first use", late.Status().Role)
		}
		r := late.Submit("from the newcomer", `{}`, parley.Committed) // gossip carries on, both ways
		s.Agree(10*time.Second, first, late)
		if got, err := first.Record(r.ID); err != nil || got.Status != "committed" {
			t.Errorf("first node has %+v, %v", got, err)
		}
	})
}

// A block arrives at a follower: it is stored, and told with its source.
func TestBlockArrives(t *testing.T) {
	Run(t, func(s *Swarm) {
		first := s.Add()
		first.Start()
		follower := s.Add(Peers(first.Addr()))
		follower.Start()
		s.Until("the follower is ready", 60*time.Second, func() bool { return follower.Health().Status == "ready" })
		time.Sleep(5 * time.Second) // subscriptions are swapped
		sub := follower.Events().Subscribe()
		defer sub.Close()
		for i := range 5 {
			first.Submit(fmt.Sprint("block-", i), `{}`, parley.Committed)
			s.Agree(5*time.Second, first, follower)
		}
		events, _ := sub.Take(1000)
		heights := []uint64{}
		for _, e := range events {
			b, ok := e.Data.(event.BlockStored)
			if !ok {
				continue
			}
			heights = append(heights, b.Height)
			if b.Source != "gossip" || b.From != first.ID() {
				t.Errorf("block %d: source %q from %s, want gossip from node1", b.Height, b.Source, b.From)
			}
		}
		if want := []uint64{1, 2, 3, 4, 5}; !slices.Equal(heights, want) {
			t.Errorf("blocks stored %v, want %v", heights, want)
		}
	})
}

// A node of another chain is told so, on both sides, and left alone.
func TestForeignChainIsRefused(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b := s.Add(), s.Add()
		a.Start()
		b.Start()
		sub := a.Events().Subscribe()
		defer sub.Close()
		b.Stop()
		b.cfg.P2P.StaticPeers = []string{a.Addr()}
		b.Start()
		s.Until("both logs tell why", 30*time.Second, func() bool {
			return a.Log.Has(a.Node.Status().ChainID, b.Node.Status().ChainID) && b.Log.Has(a.Node.Status().ChainID, b.Node.Status().ChainID)
		})
		told := false
		events, _ := sub.Take(1000)
		for _, e := range events {
			if r, ok := e.Data.(event.PeerRefused); ok && r.Place == "handshake" && r.Peer == b.ID() && r.Reason != "" {
				told = true
			}
		}
		if !told {
			t.Errorf("no peer.refused at node1: %v", events)
		}
		if n := a.PeerCount().Connected + b.PeerCount().Connected; n != 0 {
			t.Errorf("%d connections are left", n)
		}
		s.Until("the foreign peer rests for minutes", 30*time.Second, func() bool {
			st := b.StaticPeers()
			return len(st) == 1 && st[0].Class == "wrong_network" && time.Until(*st[0].NextAt) > 5*time.Minute
		})
	})
}

// The leader stops, the others go on; it comes back and agrees. Then all
// restart, with the same identities and the same chain.
func TestStopAndRestart(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b, c := s.Add(), s.Add(), s.Add()
		s.Genesis("story-restart", a, b, c)
		for _, n := range s.nodes {
			n.Start()
		}
		a.Submit("one", `{}`, parley.Committed)
		a.Stop()
		b.Submit("two", `{}`, parley.Committed)
		a.Start()
		s.Agree(60*time.Second, a, b, c)
		ids, head := []string{}, a.Node.Status().Head.Hash
		for _, n := range s.nodes {
			ids = append(ids, n.ID().String())
		}
		for _, n := range s.nodes {
			n.Stop()
		}
		for _, n := range s.nodes {
			n.Start()
		}
		for i, n := range s.nodes {
			if n.ID().String() != ids[i] || n.Node.Status().Head.Hash != head {
				t.Errorf("%s: identity %s, head %s after the restart", n.Name, n.ID(), n.Node.Status().Head.Hash)
			}
		}
		c.Submit("three", `{}`, parley.Committed)
		s.Agree(10*time.Second, a, b, c)
		if n := len(a.Records()); n != 3 {
			t.Errorf("%d records, want 3", n)
		}
	})
}

// Configuration reaches the rooms: name, topics and pins show in what the node
// does.
func TestConfiguration(t *testing.T) {
	Run(t, func(s *Swarm) {
		loaded, err := config.Load(config.LoadArgs{Dir: t.TempDir(), Environ: []string{
			"PARLEY_NODE__NAME=harbour", "p2p_block_topic=blocks", "PARLEY_DATA_DIR=" + t.TempDir(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		n := s.Add(func(c *config.Config) {
			c.Node, c.Gossip = loaded.Config.Node, loaded.Config.Gossip
		})
		n.Start()
		n.Submit("x", `{}`, parley.Committed)
		if st := n.Node.Status(); st.Name != "harbour" {
			t.Errorf("name %q", st.Name)
		}
		if v := n.Validators(); len(v) != 1 || v[0].Name != "harbour" {
			t.Errorf("validators %+v", v)
		}
		if loaded.Origins["gossip.topics.block"] != "env p2p_block_topic" {
			t.Errorf("origin %q", loaded.Origins["gossip.topics.block"])
		}
		n.Stop()
		n.cfg.Consortium.ChainID = "another-chain"
		if _, err := parley.New(n.cfg, parley.Env{NoListeners: true, LedgerFS: n.disk, MemoryWAL: n.wal}); err == nil {
			t.Error("a foreign data directory was taken")
		} else {
			t.Log(err)
		}
	})
}
