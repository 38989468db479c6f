package parley

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// Streams that are refused because the peer has all of its own here are spam above
// this many a second for ten seconds: who waits for an answer opens none of them.
const (
	refusedStreams = 128
	refusedAtOnce  = 10 * refusedStreams
)

// visitors bounds the streams of one protocol that each peer has at once. It is
// safe for concurrent use.
type visitors struct {
	most int

	mu sync.Mutex           // guards of
	of map[peer.ID]*visitor // with at least one stream
}

type visitor struct {
	streams int
	refused *rate.Limiter
}

func newVisitors(most int) *visitors {
	if most == 0 {
		most = defaultStreams
	}
	return &visitors{most: most, of: map[peer.ID]*visitor{}}
}

// enter takes a stream of p in, which MUST be followed by leave, or reports
// whether it is the one too many of those that were refused.
func (v *visitors) enter(p peer.ID) (ok, spam bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x := v.of[p]
	if x == nil {
		x = &visitor{refused: rate.NewLimiter(refusedStreams, refusedAtOnce)}
		v.of[p] = x
	}
	if x.streams >= v.most {
		return false, !x.refused.Allow()
	}
	x.streams++
	return true, false
}

func (v *visitors) leave(p peer.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x := v.of[p]
	if x.streams--; x.streams == 0 {
		delete(v.of, p)
	}
}
