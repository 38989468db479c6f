package chainsync

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	xrate "golang.org/x/time/rate"
)

// What one peer may ask for: all that a link of a gigabit carries, so that no
// newcomer next door waits, and no peer has a core to itself. More of it waits,
// and its further streams are refused meanwhile.
const (
	peerRequests = 512       // a second
	peerBytes    = 128 << 20 // a second
	maxBudgets   = 1024      // peers remembered
)

// budgets is what each peer has left. It is safe for concurrent use.
type budgets struct {
	mu sync.Mutex // guards of
	of map[peer.ID]*budget
}

type budget struct {
	requests, bytes *xrate.Limiter
	open            int // requests under way; budgets.mu
}

func newBudgets() *budgets { return &budgets{of: map[peer.ID]*budget{}} }

// begin waits until p may ask again. end MUST be called where there is no error.
func (b *budgets) begin(ctx context.Context, p peer.ID) (_ *budget, end func(), err error) {
	x := b.get(p, time.Now())
	end = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		x.open--
	}
	if err := x.requests.Wait(ctx); err != nil {
		end()
		return nil, nil, fmt.Errorf("wait for the budget of %s: %w", p, err)
	}
	return x, end, nil
}

func (b *budgets) get(p peer.ID, now time.Time) *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.of[p]
	if x == nil {
		if len(b.of) >= maxBudgets {
			b.shrink(now)
		}
		x = &budget{requests: xrate.NewLimiter(peerRequests, peerRequests), bytes: xrate.NewLimiter(peerBytes, peerBytes)}
		b.of[p] = x
	}
	x.open++
	return x
}

// shrink forgets the peers that were quiet, for which a new budget is the same,
// and any that ask nothing now where none was; mu held.
func (b *budgets) shrink(now time.Time) {
	for p, x := range b.of {
		if x.open == 0 && x.requests.TokensAt(now) >= peerRequests && x.bytes.TokensAt(now) >= peerBytes {
			delete(b.of, p)
		}
	}
	for p, x := range b.of {
		if len(b.of) < maxBudgets {
			return
		}
		if x.open == 0 {
			delete(b.of, p)
		}
	}
}
