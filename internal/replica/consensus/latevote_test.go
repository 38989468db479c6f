package consensus

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// A vote that comes after its change of view, as some do in each one, is no
// warning; one for a view that is far ahead is.
func TestLateVoteIsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime)
		tn.start()
		tn.await(tn.submit(1))
		n := tn.nodes[3]
		vote := func(view uint64) bool {
			n.engine.live.Load().bft.HandleMessage(2, &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: view}}})
			synctest.Wait()
			return strings.Contains(n.told.String(), "got viewChange message")
		}
		if vote(0) {
			t.Errorf("a late vote: %s", n.told.String())
		}
		if !vote(9) {
			t.Errorf("a vote for view 9 is not told: %s", n.told.String())
		}
		tn.stop()
	})
}
