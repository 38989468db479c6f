package consensus

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// loss is what a node sends and is lost on the way; guarded by net.mu.
type loss struct {
	n     *testNode
	is    func(to *testNode, m *smartbftprotos.Message) bool // nil: nothing is lost
	count int                                                // since begin
	kept  []*smartbftprotos.Message                          // the same
	first chan struct{}                                      // closed by the first
}

// losses are those of each node, to be made before it starts.
func (tn *testNet) losses() (all []*loss) {
	for _, n := range tn.nodes {
		l := &loss{n: n}
		n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			if l.is == nil || !l.is(to, m) {
				return m
			}
			l.kept = append(l.kept, m)
			if l.count++; l.count == 1 {
				close(l.first)
			}
			return nil
		}
		all = append(all, l)
	}
	return all
}

// begin loses what is, and returns when the first is lost.
func (l *loss) begin(is func(m *smartbftprotos.Message) bool, to ...*testNode) (first <-chan struct{}) {
	l.n.net.mu.Lock()
	defer l.n.net.mu.Unlock()
	l.is = func(n *testNode, m *smartbftprotos.Message) bool {
		return is(m) && (len(to) == 0 || slices.Contains(to, n))
	}
	l.count, l.kept, l.first = 0, nil, make(chan struct{})
	return l.first
}

// end returns how much was lost.
func (l *loss) end() int {
	l.n.net.mu.Lock()
	defer l.n.net.mu.Unlock()
	l.is = nil
	return l.count
}

func isProposal(m *smartbftprotos.Message) bool   { return m.GetPrePrepare() != nil }
func isPrepare(m *smartbftprotos.Message) bool    { return m.GetPrepare() != nil }
func isCommit(m *smartbftprotos.Message) bool     { return m.GetCommit() != nil }
func isViewChange(m *smartbftprotos.Message) bool { return m.GetViewChange() != nil }
func isViewData(m *smartbftprotos.Message) bool   { return m.GetViewData() != nil }
func isNewView(m *smartbftprotos.Message) bool    { return m.GetNewView() != nil }
func isNewViewOrCommit(m *smartbftprotos.Message) bool {
	return m.GetNewView() != nil || m.GetCommit() != nil
}

// Three of four are up, and each is needed. What one of them says is lost with
// the links to it, which are back within a second: it tells it again, and nobody
// waits for a timeout, of 2.5 s for a block and of two heartbeats for a view.
func TestLostIsToldAgain(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from     int // validator that says it
		is       func(m *smartbftprotos.Message) bool
		view     uint64 // in which it ends: the leader dies where it is not 0
		inFlight bool   // with a block that all three voted for
	}{
		{"proposal", 1, isProposal, 0, false},
		{"prepare", 2, isPrepare, 0, false},
		{"commit", 2, isCommit, 0, false},
		{"view change", 3, isViewChange, 1, false},
		{"view data", 3, isViewData, 1, false},
		{"new view", 2, isNewView, 1, false},
		{"vote for the block in flight", 3, isCommit, 1, true},
		{"new view with a block in flight, and the vote for it", 2, isNewViewOrCommit, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { lostByOne(t, tt.from, tt.is, tt.view, tt.inFlight) })
		})
	}
}

func lostByOne(t *testing.T, from int, is func(m *smartbftprotos.Message) bool, view uint64, inFlight bool) {
	const beat = 10 * time.Second // the library asks for a view every 5 s
	tn := newTestNet(t, 4, inVirtualTime, heartbeats(beat), links(rand.New(rand.NewPCG(1, 8))))
	losses, n, absent := tn.losses(), tn.nodes[from-1], tn.nodes[3]
	if view > 0 {
		absent = tn.nodes[0] // the leader
	}
	tn.start()
	tn.await(tn.submit(5))
	time.Sleep(time.Second) // until all streams stand
	var ids []chain.Hash
	if inFlight {
		ids = tn.blockInFlight(losses, absent)
	} else {
		absent.stop()
	}
	lost := losses[from-1].begin(is)
	ids = append(ids, tn.submit(5)...)
	<-lost
	time.Sleep(600 * time.Millisecond) // the library asks for a view once more at once
	tn.split(n)
	time.Sleep(300 * time.Millisecond)
	losses[from-1].end()
	tn.heal()
	began := time.Now()
	tn.await(ids)
	most := 500 * time.Millisecond
	if inFlight {
		most += 2 * beat / ticks // the library waits so long before it takes votes
	}
	if d := time.Since(began); d > most {
		t.Errorf("it took %v", d)
	} else {
		t.Log(d)
	}
	for _, n := range tn.running() {
		if now := n.engine.live.Load().view.Load(); now != view || n.sessions() != 1 {
			t.Errorf("%s: view %d, %d sessions", n.id.ShortString(), now, n.sessions())
		}
	}
	absent.start()
	tn.await(tn.submit(5))
	tn.stop()
}

// blockInFlight makes a block that all voted for and nobody has, and stops one.
func (tn *testNet) blockInFlight(losses []*loss, absent *testNode) (ids []chain.Hash) {
	var voted []<-chan struct{}
	for _, l := range losses {
		voted = append(voted, l.begin(isCommit))
	}
	ids = tn.submit(5)
	for i := range losses {
		<-voted[i]
	}
	time.Sleep(50 * time.Millisecond) // to each other
	absent.stop()
	for _, l := range losses {
		l.end()
	}
	return ids
}

// A new view with a block in flight comes with its leader's vote for that block
// right behind it, and the library takes the vote first: it would drop it, and
// wait for it until a timeout.
func TestVoteBeforeTheNewView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		losses, beat := tn.losses(), heartbeat(tn.genesis.Config.Params)
		tn.start()
		tn.await(tn.submit(5))
		ids := tn.blockInFlight(losses, tn.nodes[0])
		<-losses[1].begin(isNewViewOrCommit)
		time.Sleep(2*beat/ticks + 50*time.Millisecond)
		var votes, views []*smartbftprotos.Message
		tn.mu.Lock()
		for _, m := range losses[1].kept {
			if isCommit(m) {
				votes = append(votes, m)
			} else {
				views = append(views, m)
			}
		}
		tn.mu.Unlock()
		losses[1].end()
		if len(votes) == 0 || len(views) == 0 {
			t.Fatalf("%d votes and %d new views were lost", len(votes), len(views))
		}
		for _, n := range tn.nodes[2:] {
			s := n.engine.live.Load()
			s.hear(2, votes[0])
			s.hear(2, views[0])
		}
		began := time.Now()
		tn.await(ids)
		if d := time.Since(began); d > 2*beat/ticks+100*time.Millisecond { // the library waits for two
			t.Errorf("it took %v", d)
		}
		tn.stop()
	})
}

// A validator asked for a view change that is over. It does not ask again those
// that it can reach again: they would count that vote with the next one.
func TestStaleViewChangeIsNotToldAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		over func(tn *testNet, last *testNode, losses []*loss) // asks, and ends where it is over
		view uint64
	}{
		{"a config block came all the same, and with it a library that knows nothing of it", func(tn *testNet, last *testNode, _ []*loss) {
			last.engine.live.Load().bft.Complain(0, false)
			time.Sleep(100 * time.Millisecond)
			tn.await([]chain.Hash{tn.change(func(c *consortium.Config) { c.Params.BatchRecords++ })})
		}, 0},
		{"the view before it began by a sync", func(tn *testNet, last *testNode, losses []*loss) {
			late := losses[1].begin(isNewView, last)
			for _, n := range tn.nodes[:3] { // all live: who lacks a new view confirms none
				n.engine.live.Load().bft.Complain(0, false)
			}
			<-late
			time.Sleep(3 * heartbeat(tn.genesis.Config.Params)) // it waits for two, and asks for the next view
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(2, 8))))
				losses, last := tn.losses(), tn.nodes[3]
				tn.start()
				tn.await(tn.submit(5))
				tt.over(tn, last, losses)
				said := &last.engine.live.Load().said
				said.mu.Lock()
				if next := said.viewChange.GetViewChange().GetNextView(); next != tt.view+1 {
					t.Errorf("it asked for view %d", next)
				}
				said.mu.Unlock()
				losses[3].begin(isViewChange)
				tn.split(last)
				time.Sleep(300 * time.Millisecond)
				tn.heal()
				time.Sleep(time.Second)
				if n := losses[3].end(); n > 0 {
					t.Errorf("it asked %d times more", n)
				}
				tn.await(tn.submit(5))
				time.Sleep(10 * time.Second)
				for _, n := range tn.running() {
					if now := n.engine.live.Load().view.Load(); now != tt.view || n.sessions() != 1 {
						t.Errorf("%s: view %d, %d sessions", n.id.ShortString(), now, n.sessions())
					}
				}
				tn.stop()
			})
		})
	}
}
