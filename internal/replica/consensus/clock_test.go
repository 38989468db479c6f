package consensus

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/event"
)

// The finding about another's clock is a warning, outlives the session that
// made it, and ends: by a proposal in time, by time alone, and with the engine.
func TestSkewEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(n *testNode)
	}{
		{"a proposal in time", func(n *testNode) {
			time.Sleep(clockOver + time.Second)
			n.engine.noteSkew(nil, time.Now())
		}},
		{"time", func(*testNode) { time.Sleep(clockIdle + time.Second) }},
		{"the end of the engine", func(n *testNode) {
			n.stop()
			n.start()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tn := newTestNet(t, 4, inVirtualTime)
				tn.start()
				tn.await(tn.submit(1))
				n := tn.nodes[3]
				last := func() (f event.FindingChanged) {
					synctest.Wait()
					tn.mu.Lock()
					defer tn.mu.Unlock()
					for _, x := range n.found {
						if x.Title == "clock_skew" {
							f = x
						}
					}
					return f
				}
				n.engine.noteSkew(&skewError{proposer: 2, ahead: time.Minute}, time.Now())
				n.engine.noteSkew(errors.New("another fault"), time.Now())
				n.engine.noteSkew(nil, time.Now())
				if f := last(); f.Severity != "warn" {
					t.Errorf("found %+v", f)
				}
				tt.end(n)
				if f := last(); f.Severity != "ok" {
					t.Errorf("still found: %+v", f)
				}
				tn.stop()
			})
		})
	}
}
