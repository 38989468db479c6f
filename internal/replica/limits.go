package replica

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// What one peer may bring, LEDGER 5: a mesh peer carries everybody's records.
const (
	peerRecords = 10_000   // a second
	peerBytes   = 32 << 20 // a second
	maxLimits   = 1024     // peers remembered
)

// limits bounds the records of each peer, whatever way they come.
type limits struct {
	mu sync.Mutex
	of map[peer.ID]limit
}

type limit struct{ records, bytes *rate.Limiter }

func newLimits() *limits { return &limits{of: map[peer.ID]limit{}} }

func (l *limits) allow(p peer.ID, records, bytes int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, ok := l.of[p]
	if !ok {
		if len(l.of) >= maxLimits {
			l.shrink(now)
		}
		x = limit{rate.NewLimiter(peerRecords, peerRecords), rate.NewLimiter(peerBytes, peerBytes)}
		l.of[p] = x
	}
	return x.records.AllowN(now, records) && x.bytes.AllowN(now, bytes)
}

// shrink forgets the peers that were quiet, for which a new pair is the same,
// and any one where none was; mu held.
func (l *limits) shrink(now time.Time) {
	for p, x := range l.of {
		if x.records.TokensAt(now) >= peerRecords && x.bytes.TokensAt(now) >= peerBytes {
			delete(l.of, p)
		}
	}
	for p := range l.of {
		if len(l.of) < maxLimits {
			return
		}
		delete(l.of, p)
	}
}
