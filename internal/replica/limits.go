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
	peerOffers  = 16_384   // ids offered a second: four times what one of us offers
	maxLimits   = 1024     // peers remembered
)

// limits bounds the records of each peer, whatever way they come.
type limits struct {
	mu sync.Mutex
	of map[peer.ID]limit
}

type limit struct{ records, bytes, offers *rate.Limiter }

func newLimits() *limits { return &limits{of: map[peer.ID]limit{}} }

// allow takes records that p brought from its share.
func (l *limits) allow(p peer.ID, records, bytes int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.get(p, now)
	if x.bytes.TokensAt(now) < float64(bytes) { // what is refused costs nothing of either
		return false
	}
	return x.records.AllowN(now, records) && x.bytes.AllowN(now, bytes)
}

// allowOffer takes ids that p offers from its share.
func (l *limits) allowOffer(p peer.ID, ids int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.get(p, now).offers.AllowN(now, ids)
}

// get finds what p has left, mu held.
func (l *limits) get(p peer.ID, now time.Time) limit {
	x, ok := l.of[p]
	if !ok {
		if len(l.of) >= maxLimits {
			l.shrink(now)
		}
		x = limit{rate.NewLimiter(peerRecords, peerRecords), rate.NewLimiter(peerBytes, peerBytes), rate.NewLimiter(peerOffers, peerOffers)}
		l.of[p] = x
	}
	return x
}

// shrink forgets the peers that were quiet, for which a new pair is the same,
// and any one where none was; mu held.
func (l *limits) shrink(now time.Time) {
	for p, x := range l.of {
		if x.records.TokensAt(now) >= peerRecords && x.bytes.TokensAt(now) >= peerBytes && x.offers.TokensAt(now) >= peerOffers {
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
