package gossip

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// Who publishes as fast as it can is held up by what its peers can take, and
// nothing is lost: neither where it is over the budget of a peer, nor where
// validation is slower, nor where one at a time is judged, near its timeout.
func TestFastPublisherIsHeldUp(t *testing.T) {
	for what, n := range map[string]int{"": 45_000, "take ": 10_000, "turns": 1_000} {
		inLab(t, 2, 0, func(t *testing.T, l *lab) {
			from, to := l.nodes[0], l.nodes[1]
			judged, turn := to.validate, make(chan struct{}, 1)
			if what == "turns" {
				judged = func(ctx context.Context, m chain.Message) error {
					select {
					case turn <- struct{}{}:
					case <-ctx.Done():
						return ctx.Err()
					}
					time.Sleep(50 * time.Millisecond)
					<-turn
					return to.validate(ctx, m)
				}
			}
			for nd, judge := range map[*node]func(context.Context, chain.Message) error{from: func(context.Context, chain.Message) error { return nil }, to: judged} {
				if err := nd.Serve(testNet, []chain.Topic{{Name: "block", MaxBytes: 256, Validate: judge}}); err != nil { // with the fewest places to be validated
					t.Fatal(err)
				}
			}
			l.connect(0, 1)
			time.Sleep(time.Second)
			begin, busy := time.Now(), 0
			for list := texts(what+"%d", n); len(list) > 0; {
				sent, err := from.PublishAll(t.Context(), "block", slices.Values(list[:min(len(list), 100)]))
				if list = list[sent:]; err == nil {
					continue
				}
				if !errors.Is(err, chain.ErrBusy) {
					t.Fatal(err)
				}
				busy++
				time.Sleep(2 * time.Millisecond)
			}
			time.Sleep(2 * time.Minute)
			to.mu.Lock()
			got := len(to.got)
			to.mu.Unlock()
			if got != n {
				t.Errorf("%q: %d of %d messages came", what, got, n)
			}
			for _, queue := range []string{"peer", "stream", "validate", "gater"} {
				if a, b := from.lost(queue), to.lost(queue); a+b > 0 {
					t.Errorf("%q: queue %s lost %d of the sender and %d of the receiver", what, queue, a, b)
				}
			}
			if points, why := to.points(from.Host); points > 0 {
				t.Errorf("%q: the sender has %d points: %s", what, points, why)
			}
			if busy == 0 && n > 4*maxWaiting {
				t.Errorf("%q: the sender was never held up, in %v", what, time.Since(begin))
			}
		})
	}
}
