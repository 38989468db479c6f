package gossip

import (
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

const (
	// peerBudget is how many messages a second a peer may bring, of all topics,
	// control counted as one: ten nodes that gossip records as fast as they do.
	peerBudget = 2_000
	floodSpan  = 10 * time.Second
	// maxFlood of one span is spam, and the rest of the span is not looked at.
	maxFlood = 2 * peerBudget * int(floodSpan/time.Second)
	maxFlows = 4_096 // peers that are counted; far above what can be connected
)

// flow is what a peer has brought since a time.
type flow struct {
	since   time.Time
	brought int
}

// flooded counts an RPC of n messages and reports whether it is over the
// budget of its sender. first is so once a span. pubsub's loop only.
func (g *guard) flooded(from peer.ID, n int, now time.Time) (over, first bool) {
	f := g.flows[from]
	if f == nil {
		if len(g.flows) >= maxFlows { // of some that brought things after they were forgotten
			clear(g.flows)
		}
		f = &flow{since: now}
		g.flows[from] = f
	}
	if now.Sub(f.since) >= floodSpan {
		*f = flow{since: now}
	}
	before := f.brought
	f.brought += max(1, n)
	return f.brought > maxFlood, f.brought > maxFlood && before <= maxFlood
}

// spam is the charge of who is over the budget.
func spam(from peer.ID) charge {
	return charge{from, chain.Spam, fmt.Sprintf("gossip of more than %d messages in %v", maxFlood, floodSpan)}
}
