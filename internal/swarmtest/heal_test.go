package swarmtest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// After a partition that left nobody a quorum the chain goes on within a
// heartbeat and a second once the links are good again; one of 20 may take
// longer. SWARM_SEEDS=40 runs so many.
func TestStallAfterPartition(t *testing.T) {
	const most = 3 * time.Second
	var all []time.Duration
	late := 0
	for seed := range uint64(number(t, "SWARM_SEEDS", 3)) {
		d := stallAfterPartition(t, seed+1)
		if d > most {
			late++
			t.Logf("seed %d: %v", seed+1, d)
		}
		all = append(all, d)
	}
	slices.Sort(all)
	t.Logf("of %d: p50 %v, p90 %v, worst %v", len(all), all[len(all)/2], all[(len(all)-1)*9/10], all[len(all)-1])
	if late > max(1, len(all)/20) {
		t.Errorf("%d of %d took longer than %v", late, len(all), most)
	}
}

func stallAfterPartition(t *testing.T, seed uint64) (d time.Duration) {
	RunSeed(t, seed, func(s *Swarm) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		s.links.uneven = seed
		for range 4 {
			s.Add()
		}
		s.Genesis("heal", s.nodes...)
		for _, n := range s.nodes {
			n.Start()
		}
		s.nodes[0].Submit("one", `{}`, parley.Committed)
		s.Agree(time.Minute, s.nodes...)
		time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		height := func(n *Node) uint64 { return n.Node.Status().Head.Height }
		before, i := height(s.nodes[0]), rnd.Perm(4)
		away := 500*time.Millisecond + time.Duration(rnd.IntN(29_500))*time.Millisecond
		s.Partition(s.nodes[i[0]], s.nodes[i[1]])
		for _, n := range s.nodes[:3] {
			n.Submit(n.Name, `{}`, parley.Accepted)
		}
		time.Sleep(away)
		s.Heal()
		began := time.Now()
		s.Until("it goes on", time.Minute, func() bool {
			return !slices.ContainsFunc(s.nodes, func(n *Node) bool { return height(n) == before })
		})
		d = time.Since(began)
	})
	return d
}
