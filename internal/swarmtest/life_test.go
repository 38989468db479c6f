package swarmtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// A node without power says no more, to nobody, and has what it promised when
// it is back.
func TestPowerCut(t *testing.T) {
	Run(t, func(s *Swarm) {
		s.PowerCuts = true
		a, b, c := s.Add(), s.Add(), s.Add()
		s.Genesis("power-cut", a, b, c)
		for _, n := range s.nodes {
			n.Start()
		}
		r := a.Submit("one", `{}`, parley.Committed)
		for _, n := range s.nodes {
			n.Kill(0)
		}
		if a.Alive() || a.Use(func(*parley.Node) {}) {
			t.Error("a dead node answers")
		}
		for _, n := range s.nodes {
			n.Start()
		}
		for _, n := range s.nodes {
			if got, err := n.Record(r.ID); n == a && (err != nil || got.Status != "committed") {
				t.Errorf("%s: %+v, %v", n.Name, got, err)
			}
		}
		a.Submit("two", `{}`, parley.Committed)
		s.Agree(time.Minute, a, b, c)
	})
}

// A node dies in the middle of a block that it stores.
func TestDeathAtWrite(t *testing.T) {
	for count := 1; count <= 8; count++ {
		Run(t, func(s *Swarm) {
			s.PowerCuts = true
			a, b, c := s.Add(), s.Add(), s.Add()
			s.Genesis("death-at-write", a, b, c)
			for _, n := range s.nodes {
				n.Start()
			}
			a.Submit("one", `{}`, parley.Committed)
			b.KillAtWrite(count, 50)
			a.Submit("two", `{}`, parley.Committed)
			for i := 0; b.Alive() && i < 10; i++ {
				a.Submit("more", `{}`, parley.Committed)
			}
			if b.Alive() {
				t.Errorf("it lives on after %d changes of its disk", count)
			}
			b.Start()
			s.Agree(time.Minute, a, b, c)
		})
	}
}

// Nobody hears a node that is cut off, nor one that can only listen.
func TestLinks(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b, c := s.Add(), s.Add(), s.Add()
		s.Genesis("links", a, b, c)
		for _, n := range s.nodes {
			n.Start()
		}
		a.Submit("one", `{}`, parley.Committed)
		s.Agree(time.Minute, a, b, c)
		height := func(n *Node) uint64 { return n.Node.Status().Head.Height }
		before := height(c)
		s.Partition(c)
		a.Submit("two", `{}`, parley.Committed)
		time.Sleep(5 * time.Second)
		if height(c) != before {
			t.Errorf("a node that is cut off has height %d", height(c))
		}
		s.Heal()
		s.Agree(time.Minute, a, b, c)
		s.Cut(c, a)
		s.Cut(c, b)
		s.Until("it is missed", time.Minute, func() bool { return a.PeerCount().Connected == 1 })
		s.Heal()
		s.Lossy(b, 0.1)
		s.Slow(c, 100*time.Millisecond, 100*time.Millisecond)
		a.Submit("three", `{}`, parley.Committed)
		s.Agree(time.Minute, a, b, c)
	})
}

// Another seed is another run.
func TestSeedOfRun(t *testing.T) {
	seen := map[string]bool{}
	for _, seed := range []string{"", "2", "3", "2"} {
		t.Setenv("SWARM_SEED", seed)
		Run(t, func(s *Swarm) {
			a, b, c := s.Add(), s.Add(), s.Add()
			seen[fmt.Sprint(s.seed, s.links.rnd.Uint64(), s.links.base(link{a.addr(), b.addr()}), s.links.base(link{a.addr(), c.addr()}))] = true
		})
	}
	if len(seen) != 3 {
		t.Errorf("four runs with three seeds gave %d: %v", len(seen), seen)
	}
}
