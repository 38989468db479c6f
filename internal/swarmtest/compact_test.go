package swarmtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// A follower that gossip keeps supplied with records builds the blocks that it
// hears of by itself: hardly a byte of a body comes by sync.
func TestBlocksAreRebuilt(t *testing.T) {
	Run(t, func(s *Swarm) {
		first := s.Add()
		first.Start()
		follower := s.Add(Peers(first.Addr()))
		follower.Start()
		s.Until("the follower is ready", 60*time.Second, func() bool { return follower.Health().Status == "ready" })
		time.Sleep(5 * time.Second) // subscriptions are swapped
		before := follower.counter("parley_chainsync_bytes_total", "")
		const blocks = 50
		for i := range blocks {
			r := first.Submit(fmt.Sprint("thing-", i), fmt.Sprintf(`{"n":%d,"text":"%0512d"}`, i, i), parley.Committed)
			s.Until("the follower has the block", 10*time.Second, func() bool {
				c, err := follower.Chain()
				return err == nil && c.Height >= *r.Height
			})
		}
		s.Agree(5*time.Second, first, follower)
		how := map[string]float64{}
		for _, name := range []string{"rebuilt", "part", "whole"} {
			how[name] = follower.counter("parley_chainsync_completed_total", name)
		}
		fetched := follower.counter("parley_chainsync_bytes_total", "") - before
		t.Logf("%d blocks: %v; %.0f bytes by sync", blocks, how, fetched)
		if how["rebuilt"] < blocks*8/10 || how["whole"] > 0 {
			t.Errorf("%d blocks came as %v, want nearly all rebuilt", blocks, how)
		}
	})
}

// counter is the sum of a node's counter over the series that have the label.
func (n *Node) counter(name, label string) float64 {
	families, err := n.Registry.Gather()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range append(m.GetLabel(), nil) {
				if label == "" || l.GetValue() == label {
					sum += m.GetCounter().GetValue()
					break
				}
			}
		}
	}
	return sum
}
