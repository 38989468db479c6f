package consensus

import (
	"testing"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// What is said of a view waits until we are there, also where we are several
// views behind: nobody says it again.
func TestEarly(t *testing.T) {
	ids := []uint64{1, 2, 3, 4, 5}
	data := func(next uint64) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: &smartbftprotos.SignedViewData{
			RawViewData: marshal(t, &smartbftprotos.ViewData{NextView: next}),
		}}}
	}
	e := &early{joined: 3, begun: 3}
	const self = 2 // leads views 1, 6, 11
	for _, tt := range []struct {
		next uint64
		want bool
	}{{3, false}, {5, false}, {6, true}, {11, true}, {6 + 5*earlyViews, false}} {
		if got := e.hold(4, data(tt.next), self, ids); got != tt.want {
			t.Errorf("view data for view %d held: %v", tt.next, got)
		}
	}
	e.hold(5, data(6), self, ids)
	if due := e.at(5, 3); len(due) != 0 {
		t.Errorf("%d handed over in view 5", len(due))
	}
	due := e.at(6, 3)
	if len(due) != 1 || due[0].from != 5 { // 4 has gone on to 11
		t.Errorf("handed over in view 6: %v", due)
	}
	if due := e.at(11, 3); len(due) != 1 || due[0].from != 4 {
		t.Errorf("handed over in view 11: %v", due)
	}
	if due := e.at(11, 11); len(due) != 0 || len(e.held) != 0 {
		t.Errorf("%d twice, %d left", len(due), len(e.held))
	}
}
