package swarmtest

import (
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// A newcomer believes those that PEERS names, not whoever dials in first.
func TestStrangerGivesNoChain(t *testing.T) {
	Run(t, func(s *Swarm) {
		named, late := s.Add(), s.Add()
		late.cfg.P2P.StaticPeers = []string{named.Addr()}
		stranger := s.Add()
		late.Start()
		stranger.Start()
		stranger.Submit("theirs", `{}`, parley.Committed)
		stranger.Stop()
		stranger.cfg.P2P.StaticPeers = []string{late.Addr()}
		stranger.Start()
		s.Until("the stranger is connected", time.Minute, func() bool { return late.PeerCount().Connected == 1 })
		time.Sleep(30 * time.Second)
		if id := late.Node.Status().ChainID; id != "" {
			t.Errorf("the newcomer took chain %s, the stranger's is %s", id, stranger.Node.Status().ChainID)
		}
		named.Start()
		named.Submit("ours", `{}`, parley.Committed)
		s.Until("the newcomer is on the chain of who is named", 3*time.Minute, func() bool {
			return late.Node.Status().ChainID == named.Node.Status().ChainID
		})
		s.Agree(time.Minute, named, late)
	})
}

// Nodes that name each other and hold nothing say what to do.
func TestNobodyHasAChain(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b := s.Add(), s.Add()
		a.cfg.P2P.StaticPeers = []string{b.Addr()}
		b.cfg.P2P.StaticPeers = []string{a.Addr()}
		a.Start()
		b.Start()
		s.Until("both warn", 2*time.Minute, func() bool { return a.Log.Has("PLY-505", "genesis_file") && b.Log.Has("PLY-505", "genesis_file") })
	})
}

// A validator that is cut off is not ready, and its log lines name one room.
func TestLoneValidatorWaits(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b, c := s.Add(), s.Add(), s.Add()
		s.Genesis("lone", a, b, c)
		for _, n := range s.nodes {
			n.Start()
		}
		a.Submit("x", `{}`, parley.Committed)
		s.Until("all are ready", time.Minute, func() bool {
			return a.Health().Status == "ready" && b.Health().Status == "ready" && c.Health().Status == "ready"
		})
		b.Stop()
		c.Stop()
		s.Until("the last one waits", 2*time.Minute, func() bool {
			return a.Node.Status().Sync.State == "waiting" && a.Health().Status == "not_ready"
		})
		b.Start()
		s.Until("two of three are ready", 2*time.Minute, func() bool {
			return a.Node.Status().Sync.State == "synced" && a.Health().Status == "ready"
		})
		a.Submit("y", `{}`, parley.Committed)
		rooms := map[string]bool{}
		for line := range strings.Lines(a.Log.Tail(1 << 20)) {
			names := strings.Split(line, " room=")[1:]
			if len(names) > 1 {
				t.Errorf("more than one room: %s", line)
			}
			for _, n := range names {
				name, _, _ := strings.Cut(strings.TrimSpace(n), " ")
				rooms[name] = true
			}
		}
		if rooms["consensus"] || rooms["ledger"] || rooms["chainsync"] || rooms["mempool"] || !rooms["replica.consensus"] {
			t.Errorf("rooms %v", rooms)
		}
	})
}
