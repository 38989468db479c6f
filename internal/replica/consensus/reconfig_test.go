package consensus

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// stopAt is a log that holds up who writes a line.
type stopAt struct {
	slog.Handler
	line string
	hold chan struct{} // closed: nobody waits
}

func (h stopAt) Enabled(context.Context, slog.Level) bool { return true }

func (h stopAt) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h stopAt) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if strings.Contains(a.Value.Resolve().String(), h.line) {
			<-h.hold
		}
		return true
	})
	return nil
}

// A reconfiguration waits for the view changer with a lock held, and meanwhile
// the heartbeat of the leader is missed: who complains needs that lock, and is
// waited for.
func TestComplaintInReconfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		last, beat := tn.nodes[3], heartbeat(tn.genesis.Config.Params)
		hold, silent := make(chan struct{}), false
		last.log = stopAt{slog.DiscardHandler, "got viewChange message", hold}
		tn.nodes[0].twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			if silent && to == last {
				return nil
			}
			return m
		}
		tn.start()
		tn.await(tn.submit(1))
		old := last.engine.live.Load()
		old.bft.HandleMessage(2, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 9}}})
		tn.await([]chain.Hash{tn.change(func(c *consortium.Config) { c.Params.IntervalMS += 10 })})
		synctest.Wait()
		if !old.taking.Load() {
			t.Fatal("no reconfiguration waits")
		}
		tn.mu.Lock()
		silent = true
		tn.mu.Unlock()
		time.Sleep(beat + beat/2)
		tn.mu.Lock()
		silent = false
		tn.mu.Unlock()
		close(hold)
		time.Sleep(reconfigTimeout)
		tn.await(tn.submit(5))
		synctest.Wait()
		if last.engine.live.Load() != old || last.sessions() != 1 {
			t.Errorf("%d sessions, want the first to go on: %s", last.sessions(), last.told.String())
		}
		tn.stop()
	})
}

// Records time out at once, and the view changes before the complaints of the
// next leader about the old one are out: it does not leave its own view by them.
func TestComplaintsOfTheViewBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime, heartbeats(10*time.Second), links(rand.New(rand.NewPCG(4, 8))))
		first, second, hold := tn.nodes[0], tn.nodes[1], make(chan struct{})
		second.log = stopAt{slog.DiscardHandler, "leader-forwarding timeout expired, complaining about leader: 1", hold}
		tn.start()
		tn.await(tn.submit(5))
		first.kill()
		ids := tn.submit(5)
		s := second.engine.live.Load()
		for s.view.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		close(hold)
		began := time.Now()
		tn.await(ids)
		if d := time.Since(began); d > 500*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		time.Sleep(5 * time.Second)
		for _, n := range tn.running() {
			if now := n.engine.live.Load().view.Load(); now != 1 || n.sessions() != 1 {
				t.Errorf("%s: view %d, %d sessions", n.id.ShortString(), now, n.sessions())
			}
		}
		tn.stop()
	})
}
