package gossip

import (
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
)

func TestPast(t *testing.T) {
	p := past{ended: map[chain.Hash]ending{}}
	now := time.Now()
	check := func(what string, id chain.Hash, most time.Duration, whole, known bool) {
		t.Helper()
		if w, k := p.of(id, most, now); w != whole || k != known {
			t.Errorf("%s: whole %v, known %v", what, w, k)
		}
	}
	a, b := chain.Hash{1}, chain.Hash{2}
	p.add(a, false, now)
	check("begun", a, pastTime, false, true)
	p.add(a, true, now.Add(time.Minute))
	p.add(a, false, now.Add(time.Minute))
	check("whole", a, pastTime, true, true)
	now = now.Add(pastTime)
	check("a while ago, for others", a, pastTime, false, false)
	check("a while ago, for us", a, ownTime, true, true)
	p.add(a, false, now)
	check("anew", a, pastTime, false, true)
	p.add(b, true, now)
	p.forget(b)
	check("forgotten", b, pastTime, false, false)
	p.add(b, true, now)
	for i := range maxPast {
		p.add(chain.Hash{3, byte(i), byte(i >> 8)}, true, now)
		if len(p.ended) > maxPast || len(p.ring) > maxPast {
			t.Fatalf("%d and %d are remembered", len(p.ended), len(p.ring))
		}
	}
	check("long ago", a, ownTime, false, false)
	check("the oldest", b, ownTime, false, false)
	check("the newest", chain.Hash{3, byte((maxPast - 1) & 255), byte((maxPast - 1) >> 8)}, ownTime, true, true)
}
