package consensus

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// A validator waits for votes for the block in flight, and hears two others vote in
// the next view, just when its session ends. The view that waits asks for a sync, of
// which the view changer takes no notice any more: they must not wait for each other.
func TestInFlightFallsBehindAtTheEnd(t *testing.T) {
	for try := range 6 {
		synctest.Test(t, func(t *testing.T) {
			tn := newTestNet(t, 4, inVirtualTime)
			losses := tn.losses()
			tn.start()
			tn.await(tn.submit(1))
			last := tn.nodes[3]
			ids := tn.blockInFlight(losses, tn.nodes[0])
			for _, l := range losses[:3] {
				l.begin(isCommit)
			}
			for range 1000 {
				time.Sleep(10 * time.Millisecond)
				if s := last.engine.live.Load(); s.settling.Load() {
					break
				}
			}
			time.Sleep(heartbeat(tn.genesis.Config.Params) / 2)
			s := last.engine.live.Load()
			if !s.settling.Load() {
				t.Fatal("no block in flight is waited for")
			}
			h := last.ledger.Tip().Head.Height + 2
			for i, key := range tn.nodes[1:3] {
				id := uint64(i + 2)
				sig := consortium.SignVote(key.key, tn.genesis.Hash(), chain.Hash{1}, h, 1)
				go func() {
					<-s.ending
					for range try {
						runtime.Gosched()
					}
					s.hand(id, &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{View: 1, Seq: h, Digest: "next",
						Signature: &smartbftprotos.Signature{Signer: id, Value: sig[:], Msg: consortium.VoteMessage(tn.genesis.Hash(), chain.Hash{1}, h, 1)}}}})
				}()
			}
			s.anew(whyStuck)
			time.Sleep(stopTimeout + time.Second)
			if told := last.told.String(); strings.Contains(told, "left behind") {
				t.Error("the library was left behind")
			}
			for _, l := range losses {
				l.end()
			}
			tn.nodes[0].start()
			tn.await(append(ids, tn.submit(1)...))
			tn.stop()
		})
	}
}

// The same, at the moment of the wait.
func TestInFlightThatIsBehindEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		n := tn.nodes[1]
		l, waits, over := &logger{session: n.engine.live.Load()}, false, make(chan struct{})
		go func() {
			defer close(over)
			l.Debugf(inFlightBehind, 2)
			waits = true
		}()
		<-over
		if waits {
			t.Error("it goes on to wait for the view changer")
		}
		tn.await(tn.submit(1))
		time.Sleep(restartMin)
		if n.sessions() != 2 {
			t.Errorf("%d sessions", n.sessions())
		}
		tn.stop()
	})
}
