package consensus

import (
	"fmt"
	"testing"
	"time"
)

// Records are ordered with a log on disk and the clock of the machine, however
// slow it is: a leader that gets no time is replaced. TestVirtualTime knows more.
func TestOrder(t *testing.T) {
	for _, n := range []int{1, 3, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			tn := newTestNet(t, n)
			tn.start()
			ids := tn.submit(300)
			tn.await(ids)
			view, leader, connected, quorum := tn.nodes[0].engine.State()
			last := tn.nodes[0].ledger.Tip().Header
			md, err := metadataOf(last.Metadata)
			if err != nil {
				t.Fatal(err)
			}
			if quorum != []int{1, 1, 2, 2, 3}[n] || connected < quorum || view == md.ViewId && leader != last.Proposer {
				t.Errorf("view %d, leader %d, connected %d, quorum %d; the last block is of view %d by %d", view, leader, connected, quorum, md.ViewId, last.Proposer)
			}
			for _, node := range tn.nodes {
				node.emptyPool()
			}
			tn.stop()
			for _, node := range tn.nodes {
				if got := node.ledger.Tip().Records; got != 300 {
					t.Errorf("%d records, want 300", got)
				}
				if node.engine.Leader() != 0 {
					t.Error("a stopped engine has a leader")
				}
			}
		})
	}
}

// emptyPool waits until the engine has taken what is in blocks out of the pool: where
// a catch-up brought a block, that is when the next session feeds the records.
func (n *testNode) emptyPool() {
	limit := time.Now().Add(90 * time.Second)
	for n.pool.Len() > 0 {
		if time.Now().After(limit) {
			n.net.t.Fatalf("%d records left in the pool", n.pool.Len())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A killed follower is not missed, comes back with what its disk holds, and
// votes again: the third one is not there then.
func TestFollowerRestarts(t *testing.T) {
	tn := newTestNet(t, 3, heartbeats(time.Second))
	tn.start()
	tn.await(tn.submit(50))
	tn.nodes[2].stop()
	tn.await(tn.submit(100))
	tn.nodes[2].start()
	tn.await(tn.submit(20))
	tn.nodes[1].stop()
	tn.await(tn.submit(50))
	tn.nodes[1].start()
	tn.await(tn.submit(1))
	tn.stop()
	if got := tn.nodes[1].ledger.Tip().Records; got != 221 {
		t.Errorf("%d records, want 221", got)
	}
}

func TestLeaderRestarts(t *testing.T) {
	tn := newTestNet(t, 3, heartbeats(500*time.Millisecond))
	tn.start()
	tn.await(tn.submit(50))
	tn.nodes[0].stop()
	tn.await(tn.submit(50))
	for _, n := range tn.running() {
		if leader := n.engine.Leader(); leader == 1 {
			t.Errorf("the dead leader leads")
		}
	}
	tn.nodes[0].start()
	tn.await(tn.submit(50))
	tn.stop()
}

func TestLags(t *testing.T) {
	tn := newTestNet(t, 1)
	e := &Engine{ledger: tn.nodes[0].ledger}
	s := &session{Engine: e}
	now := time.Now()
	wait := heartbeat(tn.genesis.Config.Params)
	for i, step := range []struct {
		seq   uint64
		after time.Duration
		want  bool
	}{
		{0, 0, false}, {1, 0, false}, {1, wait / 2, false}, {1, wait / 2, true}, {1, wait, false}, {1, 4 * wait, true},
		{0, wait, false}, {1, 9 * wait, false}, {1, wait, true},
	} {
		now = now.Add(step.after)
		if got := s.lags(step.seq, now); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	tn.stop()
}

// BenchmarkOrder is records through validators that share this machine: their
// consensus, ledgers in memory, and logs on disk.
func BenchmarkOrder(b *testing.B) {
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tn := newTestNet(b, n)
			tn.start()
			b.ReportAllocs()
			const batch = 500
			for done := 0; done < b.N; done += batch {
				tn.await(tn.submit(min(batch, b.N-done)))
			}
			b.StopTimer()
			tn.stop()
		})
	}
}
