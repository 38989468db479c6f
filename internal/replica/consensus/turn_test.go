package consensus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

func prepareOf(seq uint64) *smartbftprotos.Message {
	return &smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{Seq: seq}}}
}

// What is about the block after a config block waits for the new config, a
// second at most; all else goes on.
func TestTurnHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turn turn
		ended := make(chan struct{})
		held := func(m *smartbftprotos.Message) time.Duration {
			began := time.Now()
			turn.hold(m, ended)
			return time.Since(began)
		}
		if d := held(prepareOf(9)); d != 0 {
			t.Errorf("without a config block: held for %v", d)
		}
		turn.begin(7)
		turn.begin(7) // proposed, then stored
		if d := held(prepareOf(7)); d != 0 {
			t.Errorf("the config block's own message: held for %v", d)
		}
		beat := &smartbftprotos.Message{Content: &smartbftprotos.Message_HeartBeat{HeartBeat: &smartbftprotos.HeartBeat{Seq: 8}}}
		if d := held(beat); d != 0 {
			t.Errorf("a heartbeat: held for %v", d)
		}
		if d := held(prepareOf(8)); d != turnMost {
			t.Errorf("a config that does not come: held for %v, want %v", d, turnMost)
		}
		time.AfterFunc(100*time.Millisecond, turn.end)
		if d := held(prepareOf(8)); d != 100*time.Millisecond {
			t.Errorf("held for %v, want until the config is there", d)
		}
		turn.end() // once more does no harm
		turn.begin(9)
		close(ended)
		if d := held(prepareOf(10)); d != 0 {
			t.Errorf("at the end of the session: held for %v", d)
		}
		if !turn.once(7) || turn.once(7) || !turn.once(9) {
			t.Error("the leader waits once at a height")
		}
	})
}
