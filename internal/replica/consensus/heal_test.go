package consensus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/event"
)

// split cuts nodes off from the others: their streams end, and none begins.
func (tn *testNet) split(group ...*testNode) {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	for _, n := range group {
		tn.away[n] = true
	}
	for c, ends := range tn.over {
		if tn.away[ends[0]] != tn.away[ends[1]] {
			_ = c.Close()
		}
	}
}

func (tn *testNet) heal() {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	clear(tn.away)
	for _, n := range tn.live {
		for id := range tn.live {
			n.bus.Publish(event.PeerReady{PeerConnected: event.PeerConnected{Peer: id}})
		}
	}
}

// After a partition that left nobody a quorum the chain goes on at once,
// however far the view changes got that were asked for meanwhile.
func TestStallAfterPartition(t *testing.T) {
	for _, n := range []int{3, 4, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var all stalls
			for seed := range seeds(3) {
				d := healed(t, seed, n)
				if d > 3*time.Second {
					t.Logf("seed %d: %v", seed, d)
				}
				all = append(all, d)
			}
			t.Log(all)
			all.mostly(t, 3*time.Second)
		})
	}
}

func healed(t *testing.T, seed uint64, n int) (d time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		tn := newTestNet(t, n, inVirtualTime, links(rand.New(rand.NewPCG(seed, 8))))
		for _, n := range tn.nodes {
			n.ahead = tn.aheadOf(n)
			n.start()
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		}
		tn.await(tn.submit(20))
		var group []*testNode
		for _, i := range rnd.Perm(n)[:n-tn.genesis.Config.Set().Quorum()+1] {
			group = append(group, tn.nodes[i])
		}
		tn.split(group...)
		all := tn.submit(rnd.IntN(20))
		time.Sleep(time.Second + time.Duration(rnd.IntN(29_000))*time.Millisecond)
		all = append(all, tn.submit(1)...)
		tn.heal()
		began := time.Now()
		tn.await(append(tn.submit(5), all...))
		d = time.Since(began)
		tn.stop()
	})
	return d
}

// What matters still is told again, and nothing that would make who hears it
// leave its view.
func TestSaid(t *testing.T) {
	change := func(next uint64) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: next}}}
	}
	prepare := func(view, seq uint64, assist bool) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{View: view, Seq: seq, Assist: assist}}}
	}
	commit := func(view, seq uint64) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{View: view, Seq: seq}}}
	}
	equal := func(a, b []*smartbftprotos.Message) bool {
		return slices.EqualFunc(a, b, func(a, b *smartbftprotos.Message) bool { return proto.Equal(a, b) })
	}
	raw, err := proto.Marshal(&smartbftprotos.ViewData{NextView: 4})
	if err != nil {
		t.Fatal(err)
	}
	signed := &smartbftprotos.SignedViewData{RawViewData: raw}
	data := &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: signed}}
	newView := &smartbftprotos.Message{Content: &smartbftprotos.Message_NewView{NewView: &smartbftprotos.NewView{SignedViewData: []*smartbftprotos.SignedViewData{signed}}}}
	for _, c := range []struct {
		name string
		to   uint64
		now  moment
		want []*smartbftprotos.Message
	}{
		{"in the middle of a view", 1, moment{3, 3, 7}, []*smartbftprotos.Message{change(4), prepare(3, 7, false), commit(3, 7)}},
		{"a block came all the same", 1, moment{3, 3, 8}, nil},
		{"changing, to its leader", 1, moment{4, 3, 7}, []*smartbftprotos.Message{change(4), data, newView, commit(3, 7)}},
		{"changing, to another", 2, moment{4, 3, 7}, []*smartbftprotos.Message{change(4), newView, commit(3, 7)}},
		{"changing, after the block in flight", 2, moment{4, 3, 8}, []*smartbftprotos.Message{change(4), newView}},
		{"the new view has begun", 1, moment{4, 4, 7}, []*smartbftprotos.Message{newView}},
		{"and the next change is under way", 1, moment{5, 4, 7}, nil},
		{"and a later one", 1, moment{5, 5, 8}, nil},
	} {
		var s said
		for _, m := range []*smartbftprotos.Message{change(4), change(2), data, newView, prepare(3, 7, false), prepare(3, 6, true), commit(3, 7)} {
			s.note(1, m, moment{3, 3, 7})
		}
		if got := s.due(c.to, c.now); !equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name string
		now  moment
		want []*smartbftprotos.Message
	}{
		{"changing, with a block in flight of a view that began without us", moment{5, 3, 7}, []*smartbftprotos.Message{change(6), commit(4, 7)}},
		{"the view began with that block", moment{5, 5, 8}, []*smartbftprotos.Message{commit(4, 7)}},
		{"and a block came", moment{5, 5, 9}, nil},
		{"it began without that block", moment{5, 5, 7}, nil},
	} {
		var s said
		s.note(1, change(6), moment{5, 3, 7})
		s.note(1, commit(4, 7), moment{5, 3, 7})
		if got := s.due(1, c.now); !equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
