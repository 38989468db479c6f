package swarmtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

const maxGraver = 200 // charges that are told one by one

// Verdicts is what nodes held against peers.
type Verdicts struct {
	mu          sync.Mutex // guards below
	points      map[chain.Offence]int
	details     map[string]int // of charges
	graver      []string       // charges that weigh more than a slow answer does
	discouraged []string
	banned      []string
	alarms      map[string]int
}

func newVerdicts() *Verdicts {
	return &Verdicts{points: map[chain.Offence]int{}, details: map[string]int{}, alarms: map[string]int{}}
}

// follow hears what the present run of n tells, until it ends.
func (v *Verdicts) follow(n *Node) {
	l := n.life.Load()
	sub := l.run.Events().Subscribe()
	go func() {
		defer sub.Close()
		for {
			select {
			case <-sub.Wake():
			case <-l.ending:
				v.hear(n, sub)
				return
			}
			v.hear(n, sub)
		}
	}()
}

func (v *Verdicts) hear(n *Node, sub *event.Subscription) {
	for {
		events, lost := sub.Take(1000)
		if lost > 0 {
			n.swarm.T.Errorf("%s: %d events were lost", n.Name, lost)
		}
		v.mu.Lock()
		for _, e := range events {
			v.note(n, e.Data)
		}
		v.mu.Unlock()
		if len(events) < 1000 {
			return
		}
	}
}

func (v *Verdicts) note(n *Node, e event.Event) { // mu held
	who := func(p peer.ID) string {
		for _, o := range n.swarm.nodes {
			if id, err := o.PublicKey().PeerID(); err == nil && id == p {
				return o.Name
			}
		}
		return p.String()
	}
	switch e := e.(type) {
	case event.PeerPenalized:
		v.points[e.Reason] += e.Points
		v.details[fmt.Sprintf("%s: %s", e.Reason, e.Detail)] += e.Points
		if e.Reason != chain.Timeout && len(v.graver) < maxGraver {
			v.graver = append(v.graver, fmt.Sprintf("%s by %s at %s: %s, %d points, %s", who(e.Peer), n.Name, time.Now().Format(time.DateTime), e.Reason, e.Points, e.Detail))
		}
	case event.PeerDiscouraged:
		v.discouraged = append(v.discouraged, fmt.Sprintf("%s by %s at %d", who(e.Peer), n.Name, e.Points))
	case event.PeerBanned:
		v.banned = append(v.banned, fmt.Sprintf("%s by %s for %s: %s", e.Target, n.Name, e.Reason, e.Note))
	case event.AlarmRaised:
		v.alarms[e.Code]++
	}
}

// Points is what was charged for each reason.
func (v *Verdicts) Points() map[chain.Offence]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.points)
}

// Hard lists who was discouraged, and who was banned.
func (v *Verdicts) Hard() (discouraged, banned []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.discouraged), slices.Clone(v.banned)
}

// Graver lists the first charges that were for more than a timeout.
func (v *Verdicts) Graver() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.graver)
}

// Alarms counts those that were raised.
func (v *Verdicts) Alarms() map[string]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.alarms)
}

// String lists the charges, the dearest first.
func (v *Verdicts) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "points %v, alarms %v", v.points, v.alarms)
	keys := slices.SortedFunc(maps.Keys(v.details), func(x, y string) int { return v.details[y] - v.details[x] })
	for _, k := range keys[:min(len(keys), 12)] {
		fmt.Fprintf(&b, "\n%6d %s", v.details[k], k)
	}
	return b.String()
}
