package consensus

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"
)

// A library that takes no message any more, whatever the reason, begins anew:
// who waits for it is not silent.
func TestDeafLibraryBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(5))
		var gates []*gate
		for _, n := range tn.nodes {
			g := n.engine.live.Load().gate
			g.shut()
			gates = append(gates, g)
		}
		ids := tn.submit(5)
		anew := 0
		for began := time.Now(); anew < len(gates) && time.Since(began) < 3*time.Minute; time.Sleep(50 * time.Millisecond) {
			for i, n := range tn.nodes {
				if gates[i] != nil && n.warned("engine begins anew") > 0 {
					gates[i].reopen() // so that the old one ends, and is not left behind
					gates[i] = nil
					anew++
				}
			}
		}
		if anew == 0 {
			t.Error("nobody began anew within three minutes")
		}
		for _, g := range gates {
			if g != nil {
				g.reopen()
			}
		}
		tn.await(ids)
		tn.stop()
	})
}

// A sole validator writes each block to its log once.
func TestSoleValidatorsLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 1, inVirtualTime)
		tn.start()
		tn.await(tn.submit(5))
		synctest.Wait()
		if n := len(tn.nodes[0].memory.content()); n > 2 {
			t.Errorf("%d entries for one block, want proposal and vote", n)
		}
		tn.stop()
	})
}

// The first abort waits in the channel and the view changer with a second one,
// and the controller ends without having taken the first.
func TestSecondAbortAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{Engine: &Engine{log: slog.New(slog.DiscardHandler)}, ending: make(chan struct{})}
		s.controller.line(controllerStarts)
		s.meetController()
		ended := make(chan struct{})
		handed := false
		go func() {
			defer close(ended)
			s.meetController()
			handed = true
		}()
		s.controller.line(syncTaken) // it brings a new view, and the controller ends its old one
		s.controller.line(abortTaken)
		synctest.Wait()
		select {
		case <-ended:
			t.Error("the view changer hands over a second abort, for which there is no room")
		default:
		}
		s.controller.line(controllerEnds)
		select {
		case <-ended:
		case <-time.After(time.Hour):
			t.Error("the view changer waits for a controller that has ended")
		}
		close(s.ending)
		<-ended
		if handed {
			t.Error("the view changer goes on, where nobody takes its abort")
		}
	})
}

// One traitor of four sends B to 3 and 4 and B' to 2. Validator 4 votes for B; 3
// loses its power in the view change, and B with it. The next view brings B', for
// which 4 votes. It did nothing wrong and is not named.
func TestHonestVoterIsNotNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		x := &traitor{t: t, tn: tn, self: tn.nodes[0], b: map[uint64]*smartbftprotos.PrePrepare{}}
		n1, n2, n3, n4 := tn.nodes[0], tn.nodes[1], tn.nodes[2], tn.nodes[3]
		stage, changes := 0, false
		at := func(s int) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			stage = s
		}
		for _, n := range tn.nodes {
			n.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				now, second := stage, x.b[2]
				changes = changes || n == n3 && m.GetViewData() != nil && now == 1
				tn.mu.Unlock()
				switch {
				case now == 0:
				case n == n1 && m.GetPrePrepare() != nil:
					if other := x.other(m.GetPrePrepare()); to == n2 {
						return &smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: other}}
					}
				case n == n1 && m.GetCommit() != nil && now == 1:
					return nil
				case n == n1 && m.GetViewData() != nil:
					return x.resign(m, func(d *smartbftprotos.ViewData) {
						d.InFlightProposal, d.InFlightPrepared = second.Proposal, true
					})
				case n == n4 && (m.GetPrepare() != nil && to == n3 || m.GetViewData() != nil):
					return nil
				case n == n3 && m.GetViewData() != nil && now == 1:
					return nil
				}
				return m
			}
		}
		tn.start()
		tn.await(tn.submit(1))
		at(1)
		tn.submit(1)
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
			tn.mu.Lock()
			seen := changes
			tn.mu.Unlock()
			if seen {
				break
			}
		}
		at(2)
		n3.kill()
		log := n3.memory.content()
		n3.memory = &MemoryWAL{entries: slices.DeleteFunc(log, func(raw []byte) bool {
			m := &smartbftprotos.SavedMessage{}
			return proto.Unmarshal(raw, m) != nil || m.GetProposedRecord().GetPrePrepare().GetSeq() == 2
		})}
		n3.start()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n4.ledger.Tip().Head.Height < 2 {
			t.Error("the block of the new view was not decided: the story did not come about")
		}
		for i, n := range tn.nodes {
			for line := range strings.Lines(n.told.String()) {
				if strings.Contains(line, "double_vote") && !strings.Contains(line, "validator=1 ") {
					t.Errorf("at %d: %s", i+1, line)
				}
			}
		}
		for _, n := range tn.running() {
			n.stop()
		}
		for _, n := range tn.nodes {
			_ = n.ledger.Close()
		}
	})
}
