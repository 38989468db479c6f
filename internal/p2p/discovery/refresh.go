package discovery

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"
)

// refreshFirst is when a young table is refreshed, after which it is each
// refreshEvery.
var refreshFirst = []time.Duration{10 * time.Second, 2 * time.Minute}

const (
	refreshEvery = 10 * time.Minute
	emptyEvery   = 5 * time.Second // while nobody is known
	publishEvery = 12 * time.Hour
	pingAfter    = 20 * time.Minute // a peer of the table that was not asked for that long
)

// run keeps the table and what we publish until ctx ends.
func (k *kad) run(ctx context.Context) {
	wake := time.NewTimer(time.Second)
	defer wake.Stop()
	upkeep := time.NewTicker(time.Minute)
	defer upkeep.Stop()
	for _, p := range k.d.host.Network().Peers() {
		k.newcomers.offer(p)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { k.newcomers.run(ctx) })
	rounds := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.newcomers.first:
			rounds = 0
			wake.Reset(time.Second) // there is somebody to ask at last
		case now := <-upkeep.C:
			k.forget(now)
			k.publish(ctx, now)
		case <-wake.C:
			switch {
			case !k.refresh(ctx):
				rounds = 0
				wake.Reset(emptyEvery)
			case rounds < len(refreshFirst):
				wake.Reset(refreshFirst[rounds])
				rounds++
			default:
				wake.Reset(refreshEvery)
			}
		}
	}
}

// refresh looks ourselves and random keys up: several at first, until the size
// of the network is known. It reports false where nobody is there to ask.
func (k *kad) refresh(ctx context.Context) bool {
	if k.table().Size() == 0 {
		for _, p := range k.d.host.Network().Peers() {
			k.newcomers.consider(ctx, p)
		}
		if k.table().Size() == 0 {
			return false
		}
	}
	k.ping(ctx)
	k.lookUp(ctx, string(k.d.host.ID()), lookRefresh)
	for k.measure(ctx) {
		if size, _ := k.sizes.estimate(); size > 0 {
			break
		}
	}
	k.table().MarkAllPeersIrreplaceable()
	return true
}

// lookUp goes to a key and gives its nearest peers.
func (k *kad) lookUp(ctx context.Context, key, kind string) []*candidate {
	l := k.newLookup(key, k.askNode(key))
	near := k.timed(ctx, kind, l)
	return near
}

func (k *kad) askNode(key string) func(context.Context, peer.ID) (answer, error) {
	return func(ctx context.Context, p peer.ID) (answer, error) {
		closer, err := k.messenger.GetClosestPeers(ctx, p, peer.ID(key))
		return answer{closer: closer}, err
	}
}

// timed runs a lookup and counts it.
func (k *kad) timed(ctx context.Context, kind string, l *lookup) []*candidate {
	start := time.Now()
	near := l.run(ctx)
	k.d.metrics.seconds.Observe(time.Since(start).Seconds())
	outcome := "ok"
	switch {
	case ctx.Err() != nil:
		outcome = "error"
	case len(near) == 0:
		outcome = "none"
	}
	k.d.metrics.lookups.WithLabelValues(kind, outcome).Inc()
	return near
}

// measure looks a random key up, for the table and for the size of the network.
// It reports false where there are too few peers to tell.
func (k *kad) measure(ctx context.Context) bool {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	l := k.newLookup(string(key), k.askNode(string(key)))
	near := k.timed(ctx, lookRefresh, l)
	if len(near) < nearest || ctx.Err() != nil {
		return false
	}
	// Dense ones count too: nobody can be near all random keys, and networks grow.
	slices.SortFunc(near, byDistance)
	k.sizes.add(sample{size: density(nearest, near[nearest-1].far), groups: groupsOf(near[:nearest])})
	return true
}

// ping asks the peers of the table that nobody has asked for long.
func (k *kad) ping(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(lastWidth)
	for _, info := range k.table().GetPeerInfos() {
		if ctx.Err() != nil {
			break
		}
		if time.Since(info.LastSuccessfulOutboundQueryAt) > pingAfter {
			g.Go(func() error {
				_, _ = k.question(ctx, &candidate{id: info.Id}, k.askNode(string(k.d.host.ID())))
				return nil
			})
		}
	}
	_ = g.Wait()
}

// seek finds peers: those near a random key, and those that advertise the
// network itself.
func (k *kad) seek(ctx context.Context) {
	if k.table().Size() == 0 {
		for _, p := range k.d.host.Network().Peers() {
			k.newcomers.consider(ctx, p)
		}
	}
	k.measure(ctx)
	if k.d.cfg.Rendezvous {
		k.meet(ctx)
	}
}
