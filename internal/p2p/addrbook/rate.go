package addrbook

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	perSecond = 0.1 // peers that one source may tell of
	burst     = 10  // of them at once, unasked
	answer    = 250 // more, once, after our own request
	answerFor = 10 * time.Minute
	maxLive   = 64   // places in new that one source peer holds
	maxRates  = 8192 // sources whose rate is remembered; the others' is full
)

// rate is the budget of one source peer, in peers.
type rate struct {
	left  float64
	at    time.Time
	asked time.Time
}

func (r *rate) refill(now time.Time) {
	if r.left > burst && now.Sub(r.asked) > answerFor {
		r.left = burst
	}
	if more := now.Sub(r.at).Seconds() * perSecond; more > 0 && r.left < burst {
		r.left = min(burst, r.left+more)
	}
	r.at = now
}

// full reports whether r is worth nothing to remember.
func (r *rate) full(now time.Time) bool {
	r.refill(now)
	return r.left == burst
}

// allow takes one peer from the budget of a source. Sources that the operator
// chose have none.
func (b *Book) allow(src Source, now time.Time) bool {
	if src.Kind.ours() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.rateOf(src.Peer, now)
	if r.left < 1 {
		return false
	}
	r.left--
	return true
}

// Asked says that we asked p for peers: it may tell of 250 more within ten
// minutes. Asking again fills them up and never adds to them.
func (b *Book) Asked(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.rateOf(p, time.Now())
	r.left, r.asked = min(r.left+answer, burst+answer), r.at
}

func (b *Book) rateOf(p peer.ID, now time.Time) *rate { // mu held
	r := b.rates[p]
	if r == nil {
		if len(b.rates) >= maxRates {
			b.dropRate()
		}
		r = &rate{left: burst, at: now}
		b.rates[p] = r
	}
	r.refill(now)
	return r
}

// dropRate forgets the longest silent of a few: ids are free, so a full table
// is an attack and must not shut out the next honest source.
func (b *Book) dropRate() {
	var oldest peer.ID
	n := 0
	for p, r := range b.rates {
		if n == 0 || r.at.Before(b.rates[oldest].at) {
			oldest = p
		}
		if n++; n == 8 {
			break
		}
	}
	delete(b.rates, oldest)
}

// quotaFloor is what each kind may bring in an hour before shares count: one
// answer of peer exchange. Else the first kind to speak could bring nothing.
const quotaFloor = answer

// quota counts the newcomers of this hour by kind.
type quota struct {
	hour  time.Time
	total int
	by    map[Kind]int
}

// allows reports whether one more of kind keeps it at half or below.
func (q *quota) allows(kind Kind, sources int, now time.Time) bool {
	if q.by == nil || now.Sub(q.hour) >= time.Hour || now.Before(q.hour) {
		*q = quota{hour: now, by: map[Kind]int{}}
	}
	n := q.by[kind] + 1
	return sources < 2 || kind.ours() || n <= quotaFloor || 2*n <= q.total+1
}

func (q *quota) took(kind Kind) {
	q.by[kind]++
	q.total++
}
