package gossip

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	repeatSpan = time.Minute // at least so long, at most twice, is remembered
	maxRepeats = 1 << 16     // pairs of peer and message in a span; then it ends early
)

// repeats remembers who brought which message, to tell who brings one twice,
// and what was asked of whom, which may come twice.
type repeats struct {
	seed maphash.Seed

	mu      sync.Mutex // guards below
	brought [2]map[uint64]struct{}
	asked   [2]map[uint64]uint8
	turned  time.Time
}

func newRepeats() *repeats {
	r := &repeats{seed: maphash.MakeSeed()}
	for i := range r.brought {
		r.brought[i], r.asked[i] = map[uint64]struct{}{}, map[uint64]uint8{}
	}
	return r
}

func (r *repeats) key(p peer.ID, id string) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	_, _ = h.WriteString(string(p))
	_ = h.WriteByte(0) // so that no peer can look like another with a longer name
	_, _ = h.WriteString(id)
	return h.Sum64()
}

// turn drops the older half when the newer one is old or full. mu held.
func (r *repeats) turn(now time.Time) {
	if now.Sub(r.turned) < repeatSpan && len(r.brought[0]) < maxRepeats && len(r.asked[0]) < maxRepeats {
		return
	}
	r.brought = [2]map[uint64]struct{}{{}, r.brought[0]}
	r.asked = [2]map[uint64]uint8{{}, r.asked[0]}
	r.turned = now
}

// brings notes that p brought a message and reports whether it had brought it
// before, unasked.
func (r *repeats) brings(p peer.ID, id string, now time.Time) (again bool) {
	k := r.key(p, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	for _, had := range r.brought {
		if _, ok := had[k]; ok {
			return !r.answers(k)
		}
	}
	r.brought[0][k] = struct{}{}
	return false
}

// answers takes one question off, if there is one. mu held.
func (r *repeats) answers(k uint64) bool {
	for _, asked := range r.asked {
		if asked[k] > 0 {
			asked[k]--
			return true
		}
	}
	return false
}

// asks notes that a message was asked of p.
func (r *repeats) asks(p peer.ID, id string, now time.Time) {
	k := r.key(p, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	if n := r.asked[0][k]; n < 255 {
		r.asked[0][k] = n + 1
	}
}
