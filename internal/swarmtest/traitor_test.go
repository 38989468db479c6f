package swarmtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

// The leader, or the leader and who leads after it, betray the others all the
// time, at 4 and 7 validators. The chain goes on, what honest nodes acknowledged
// is there, they have one header at each height, and the traitor is named where
// that can be proven. TRAITOR_SEEDS=20 runs so many seeds of each treason, and
// for longer; SWARM_SEED is the first.
func TestTraitor(t *testing.T) {
	first, count := number(t, "SWARM_SEED", 1), number(t, "TRAITOR_SEEDS", 0)
	pause := time.Second
	if count > 0 {
		pause = 4 * time.Second
	}
	for i, treason := range treasons {
		for seed := first; seed < first+max(count, 1); seed++ {
			validators, traitors := 4, 1
			if (i+seed)%4 == 0 {
				validators, traitors = 7, 2
			}
			t.Run(fmt.Sprintf("%s/%d of %d/seed %d", treason.name, traitors, validators, seed), func(t *testing.T) {
				RunSeed(t, uint64(seed), func(s *Swarm) { betrayed(s, treason, validators, traitors, pause) })
			})
		}
	}
}

func betrayed(s *Swarm, treason treason, validators, traitors int, pause time.Duration) {
	t := s.T
	var suspects []*suspect
	for i := range validators + 1 {
		if n := s.Add(); i < traitors {
			suspects = append(suspects, n.suspect())
		}
	}
	s.Genesis("traitor", s.nodes[:validators]...)
	for _, n := range s.nodes {
		n.cfg.Consortium.GenesisFile = s.nodes[0].cfg.Consortium.GenesisFile
		for _, o := range s.nodes {
			if o != n {
				n.cfg.P2P.StaticPeers = append(n.cfg.P2P.StaticPeers, o.Addr())
			}
		}
		n.Start()
	}
	honest, follower := s.nodes[traitors:], s.nodes[validators]
	s.nodes[0].Submit("before", `{}`, parley.Committed)
	load := s.StartLoad(3, 400*time.Millisecond, honest...)
	plot := s.betray(treason, s.seed, suspects...)
	time.Sleep(2 * pause)
	s.Partition(follower) // it has to catch up, from whoever gives
	time.Sleep(pause)
	s.Heal()
	time.Sleep(pause)
	load.Stop()
	began := time.Now()
	for _, n := range honest {
		n.Submit("after/"+n.Name, `{}`, parley.Committed)
	}
	s.Agree(settleIn, honest...)
	time.Sleep(calm)
	s.Agree(time.Second, honest...)
	took := time.Since(began) - calm
	if plot.count() == 0 {
		t.Error("nobody was betrayed")
	}
	named := 0
	for _, n := range honest {
		told := slices.ContainsFunc(n.Node.Status().Reasons, func(why string) bool {
			return strings.HasPrefix(why, "double_vote: ") && strings.Contains(why, " validator 1 (")
		})
		if told && n.Log.Has("double_vote", "validator=1") {
			named++
		}
	}
	if treason.named != (named > 0) {
		t.Errorf("%d of %d honest nodes name the traitor", named, len(honest))
	}
	for _, n := range s.nodes {
		n.Stop()
	}
	report := s.judge(load, honest...)
	t.Logf("%d struck, %d named it, all agree after %v: %s", plot.count(), named, took, report)
	if !report.OK() || report.Committed == 0 {
		t.Error("not OK")
	}
}

// judge holds stopped nodes to what clients were told.
func (s *Swarm) judge(load *Load, nodes ...*Node) *checker.Report {
	t := s.T
	var held []checker.Node
	for _, n := range nodes {
		c, err := checker.OpenChain(n.cfg.DataDir, n.disk)
		if err != nil {
			t.Errorf("%s: %v", n.Name, err)
			continue
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		held = append(held, checker.Node{Name: n.Name, Chain: c, Runs: n.runs})
	}
	report, err := checker.Judge(t.Context(), load.Told(), held)
	if err != nil {
		t.Fatal(err)
	}
	return report
}
