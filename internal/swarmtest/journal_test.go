package swarmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

// submitted is what clients were told.
type submitted struct {
	accepted  []chain.Hash
	committed []parley.Record
}

func (s *submitted) hand(n *Node, d parley.Draft, ack parley.Ack, within time.Duration) {
	t := n.swarm.T
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := n.Node.Submit(ctx, d, ack)
	switch {
	case err != nil:
		t.Errorf("%s: %v", n.Name, err)
	case r.Status == "committed":
		s.committed = append(s.committed, r)
	default:
		s.accepted = append(s.accepted, r.ID)
	}
}

func draft(subject string, notAfter uint64) parley.Draft {
	return parley.Draft{Subject: subject, Body: json.RawMessage(`{}`), NotAfter: notAfter}
}

// TestAcceptedSurvivesPowerLoss: a follower takes records while no validator is
// there, by both levels of acknowledgement, and loses its power. Nobody else
// knows of them. When all are back each record that was acknowledged is in the
// chain once, and one whose time was over has one final rejection.
func TestAcceptedSurvivesPowerLoss(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			Run(t, func(s *Swarm) { acceptedSurvives(s, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

func acceptedSurvives(s *Swarm, rng *rand.Rand) {
	t := s.T
	s.PowerCuts = true
	v, other := s.Add(), s.Add()
	s.Genesis("power", v)
	f := s.Add(Peers(v.Addr()))
	other.cfg.P2P.StaticPeers = []string{v.Addr()}
	v.Start()
	f.Start()
	other.Start()
	s.Until("the followers are ready", time.Minute, func() bool { return f.Health().Status == "ready" && other.Health().Status == "ready" })
	var told submitted
	told.hand(f, draft("first", 0), parley.Committed, time.Minute)
	s.Agree(time.Minute, v, f, other)
	other.Stop()
	v.Stop()
	for i := range 20 {
		told.hand(f, draft(fmt.Sprint("accepted-", i), 0), parley.Accepted, time.Minute)
	}
	told.hand(f, draft("in time or never", 2), parley.Accepted, time.Minute) // the next block is the last
	for i := range 3 {
		told.hand(f, draft(fmt.Sprint("waited-", i), 0), parley.Committed, time.Second)
	}
	if len(told.accepted) != 24 || len(told.committed) != 1 {
		t.Fatalf("%d accepted, %d committed", len(told.accepted), len(told.committed))
	}
	f.Kill(rng.IntN(101))

	// The chain goes on without the follower, past the last height of one record.
	v.Start()
	other.Start()
	for i := range 3 {
		told.hand(other, draft(fmt.Sprint("meanwhile-", i), 0), parley.Committed, time.Minute)
	}
	f.Start()
	sub := f.Events().Subscribe()
	defer sub.Close()
	for _, id := range told.accepted {
		if r, err := f.Record(id); err != nil || r.Status == "rejected" {
			t.Errorf("record %s after the restart: %q, %v", id, r.Status, err)
		}
	}
	ended := func(id chain.Hash) bool {
		r, err := f.Record(id)
		return err == nil && r.Status != "pending"
	}
	s.Until("every accepted record has its end", 2*time.Minute, func() bool {
		return !slices.ContainsFunc(told.accepted, func(id chain.Hash) bool { return !ended(id) })
	})
	s.Agree(time.Minute, v, f, other)
	checkTold(t, &told, f, v, other)
	if n := rejections(t, sub); n != 1 {
		t.Errorf("%d final rejections, want one", n)
	}
	f.Kill(rng.IntN(101))
	f.Start()
	again := f.Events().Subscribe()
	defer again.Close()
	time.Sleep(time.Minute)
	if n := rejections(t, again); n != 0 {
		t.Errorf("%d records rejected again after another restart", n)
	}
	checkTold(t, &told, f, v, other)
}

// rejections counts the final ones of which sub tells.
func rejections(t *testing.T, sub *event.Subscription) (n int) {
	t.Helper()
	for {
		events, lost := sub.Take(1000)
		if lost > 0 {
			t.Fatalf("%d events lost", lost)
		}
		if len(events) == 0 {
			return n
		}
		for _, e := range events {
			if e, ok := e.Data.(event.RecordRejected); ok && e.Final {
				n++
			}
		}
	}
}

// checkTold holds nodes to what clients were told: what was committed stands
// at its place on each of them, what was accepted is in the chain once, or the
// node that took it has a final rejection and no node has the record.
func checkTold(t *testing.T, told *submitted, taker *Node, others ...*Node) {
	t.Helper()
	for _, n := range append([]*Node{taker}, others...) {
		count := map[string]int{}
		for _, id := range n.Records() {
			count[id]++
		}
		for _, want := range told.committed {
			r, err := n.Record(want.ID)
			if err != nil || r.Status != "committed" || *r.Height != *want.Height || *r.Index != *want.Index || *r.BlockHash != *want.BlockHash {
				t.Errorf("%s: %s was committed: now %q, %v", n.Name, want.ID, r.Status, err)
			}
		}
		for _, id := range told.accepted {
			r, err := taker.Record(id)
			if err != nil {
				t.Errorf("%s: accepted record %s: %v", taker.Name, id, err)
				continue
			}
			want := 1
			if r.Status == "rejected" {
				want = 0
			}
			if count[id.String()] != want {
				t.Errorf("%s: record %s is %s and stands %d times in the chain", n.Name, id, r.Status, count[id.String()])
			}
		}
		if log := n.Log.Tail(1 << 20); strings.Contains(log, "level=ERROR") {
			t.Errorf("%s: %s", n.Name, log[strings.Index(log, "level=ERROR"):])
		}
	}
}
