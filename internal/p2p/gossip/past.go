package gossip

import (
	"slices"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// pubsub forgets the chunks of a message two to three minutes after they came.
// Until then what it is of cannot come again; who publishes waits until all have
// forgotten it.
const (
	pastTime = 3 * time.Minute
	ownTime  = 4 * time.Minute
)

// past are the newest messages that are open no more, or have no place.
type past struct {
	ended map[chain.Hash]ending
	ring  []chain.Hash // zero = forgotten
	next  int
}

type ending struct {
	whole bool // or ours
	at    time.Time
}

// of tells how the message id ended, if it did within the last most.
func (p *past) of(id chain.Hash, most time.Duration, now time.Time) (whole, known bool) {
	e, known := p.ended[id]
	known = known && now.Sub(e.at) < most
	return known && e.whole, known
}

func (p *past) add(id chain.Hash, whole bool, now time.Time) {
	if _, known := p.of(id, pastTime, now); known {
		e := p.ended[id]
		e.whole = e.whole || whole
		p.ended[id] = e
		return
	}
	p.forget(id)
	if len(p.ring) < maxPast {
		p.ring = append(p.ring, id)
	} else {
		delete(p.ended, p.ring[p.next])
		p.ring[p.next] = id
		p.next = (p.next + 1) % maxPast
	}
	p.ended[id] = ending{whole, now}
}

func (p *past) forget(id chain.Hash) {
	if _, known := p.ended[id]; known {
		delete(p.ended, id)
		p.ring[slices.Index(p.ring, id)] = chain.Hash{}
	}
}
