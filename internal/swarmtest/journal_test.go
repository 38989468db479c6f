package swarmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

// powerLoss ends a node as a cut of power does: what was not synced is gone, or
// a part of it. The node does not run afterwards.
func (n *Node) powerLoss(rng *rand.Rand) {
	after := n.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	n.Stop() // whatever it still writes goes to the disk that is lost
	n.disk = after
}

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
	v, other := s.Add(), s.Add()
	s.Genesis("power", v)
	f := s.Add(Peers(v.Addr()))
	other.cfg.P2P.StaticPeers = []string{v.Addr()}
	f.disk = vfs.NewCrashableMem()
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
	f.powerLoss(rng)

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
	f.powerLoss(rng)
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

// mains is a node with the switch of its power, and what clients are told by it.
type mains struct {
	*Node
	mu   sync.Mutex // guards below
	on   bool
	cuts int            // how often the power failed
	busy sync.WaitGroup // requests that the node works on
	told submitted
}

func (m *mains) powerOn() {
	m.Start()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = true
}

// cut takes the power away. What the node answers afterwards reaches nobody.
func (m *mains) cut(rng *rand.Rand) {
	m.mu.Lock()
	after := m.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	m.on = false
	m.cuts++
	m.mu.Unlock()
	m.stop()
	m.busy.Wait() // nobody may use the node once it is closed
	m.Stop()
	m.disk = after
}

// hand hands in a record, and notes the answer if it came before the next cut.
func (m *mains) hand(ctx context.Context, d parley.Draft, ack parley.Ack) {
	m.mu.Lock()
	if !m.on {
		m.mu.Unlock()
		return
	}
	cuts := m.cuts
	m.busy.Add(1)
	m.mu.Unlock()
	defer m.busy.Done()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := m.Node.Node.Submit(ctx, d, ack)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil || m.cuts != cuts:
	case r.Status == "committed":
		m.told.committed = append(m.told.committed, r)
	default:
		m.told.accepted = append(m.told.accepted, r.ID)
	}
}

// TestNothingAcceptedIsLost: clients hand in records everywhere while the
// validator and its followers lose their power, one by one and all at once. In
// the end every record that was acknowledged is where it was promised to be.
func TestNothingAcceptedIsLost(t *testing.T) {
	Run(t, func(s *Swarm) { nothingIsLost(s, rand.New(rand.NewPCG(1, 4))) })
}

func nothingIsLost(s *Swarm, rng *rand.Rand) {
	t := s.T
	var all []*mains
	for range 5 {
		n := s.Add()
		n.disk = vfs.NewCrashableMem()
		all = append(all, &mains{Node: n})
	}
	s.Genesis("cuts", all[0].Node)
	for i, m := range all[1:] {
		m.cfg.P2P.StaticPeers = []string{all[i].Addr(), all[0].Addr()}
	}
	for _, m := range all {
		m.powerOn()
	}
	s.Until("all are ready", time.Minute, func() bool {
		return !slices.ContainsFunc(all, func(m *mains) bool { return m.Health().Status != "ready" })
	})
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i, m := range all {
		clients.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				ack := []parley.Ack{parley.Accepted, parley.Committed}[k%2]
				notAfter := uint64(0)
				if k%5 == 0 {
					notAfter = uint64(k + 1)
				}
				m.hand(ctx, draft(fmt.Sprintf("client-%d-%d", i, k), notAfter), ack)
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	for round := range 6 {
		time.Sleep(time.Duration(500+rng.IntN(3000)) * time.Millisecond)
		down := []*mains{all[rng.IntN(5)]}
		if round == 3 {
			down = all
		}
		for _, m := range down {
			m.cut(rng)
		}
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
		for _, m := range down {
			m.powerOn()
		}
	}
	time.Sleep(2 * time.Second)
	cancel()
	clients.Wait()
	accepted, committed, rejected := 0, 0, 0
	for _, m := range all {
		s.Until("what node "+m.Name+" accepted has its end", 5*time.Minute, func() bool {
			return !slices.ContainsFunc(m.told.accepted, func(id chain.Hash) bool {
				r, err := m.Record(id)
				return err != nil || r.Status == "pending"
			})
		})
		accepted, committed = accepted+len(m.told.accepted), committed+len(m.told.committed)
		for _, id := range m.told.accepted {
			if r, err := m.Record(id); err == nil && r.Status == "rejected" {
				rejected++
			}
		}
	}
	nodes := []*Node{all[0].Node, all[1].Node, all[2].Node, all[3].Node, all[4].Node}
	s.Agree(time.Minute, nodes...)
	for _, m := range all {
		checkTold(t, &m.told, m.Node, nodes...)
	}
	t.Logf("%d committed in time; %d accepted, %d of them rejected later", committed, accepted, rejected)
	if accepted == 0 || committed == 0 {
		t.Error("nothing was tried")
	}
}
