package consensus

import (
	"context"
	"log/slog"
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
