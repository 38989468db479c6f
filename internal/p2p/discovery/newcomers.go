package discovery

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"
)

const (
	offersQueue   = 256
	considerWidth = 8 // asked at once: one that is silent holds up nobody else, and no refresh
	considerMost  = 6 // times in a row
	considerAgain = time.Second
	maxSilent     = 256
	offerEvery    = 30 * time.Second // one that asks us is looked at no more often
)

// newcomers are connected peers that are looked at for the table.
type newcomers struct {
	k      *kad
	offers chan peer.ID
	first  chan struct{} // somebody is in a table that was empty

	mu     sync.Mutex // guards below
	asking map[peer.ID]bool
	silent map[peer.ID]int // questions in a row that it did not answer
}

func newNewcomers(k *kad) *newcomers {
	return &newcomers{
		k: k, offers: make(chan peer.ID, offersQueue), first: make(chan struct{}, 1),
		asking: map[peer.ID]bool{}, silent: map[peer.ID]int{},
	}
}

// offer has a peer looked at for the table. It does not block.
func (n *newcomers) offer(p peer.ID) {
	select {
	case n.offers <- p:
	default: // it is offered again when it asks us, and found by the next refresh
	}
}

// run looks at who is offered until ctx ends.
func (n *newcomers) run(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(considerWidth)
	for {
		select {
		case <-ctx.Done():
			_ = g.Wait()
			return
		case p := <-n.offers:
			if n.wanted(p) {
				g.Go(func() error {
					n.consider(ctx, p)
					return nil
				})
			}
		}
	}
}

// wanted reports whether p is connected, may be asked, and the table has room for
// it. What p speaks is known once it has identified itself.
func (n *newcomers) wanted(p peer.ID) bool {
	if !n.k.d.visits.connected(p) {
		return false
	}
	id, err := n.k.d.host.Peerstore().FirstSupportedProtocol(p, n.k.proto)
	return err == nil && id == n.k.proto && n.k.admits(p) && n.k.table().UsefulNewPeer(p)
}

// consider asks a connected peer for itself, which takes it into the table if it
// answers. Else it is asked again soon: who greeted us learns that it is ready
// half a round trip after us, and refuses what comes before.
func (n *newcomers) consider(ctx context.Context, p peer.ID) {
	if !n.wanted(p) || !n.begin(p) {
		return
	}
	_, err := n.k.question(ctx, &candidate{id: p}, func(ctx context.Context, p peer.ID) (answer, error) {
		closer, err := n.k.messenger.GetClosestPeers(ctx, p, p)
		return answer{closer: closer}, err
	})
	n.end(ctx, p, err == nil)
	if err != nil {
		n.k.d.log.Debug("peer does not serve the DHT", "peer", p, "err", err)
	}
}

// begin reports false where p is being asked already.
func (n *newcomers) begin(p peer.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	busy := n.asking[p]
	n.asking[p] = true
	return !busy
}

// end notes how it went, and has a silent peer offered again a few times, each
// time twice as late.
func (n *newcomers) end(ctx context.Context, p peer.ID, answered bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.asking, p)
	tries, known := n.silent[p]
	switch {
	case answered:
		delete(n.silent, p)
	case ctx.Err() != nil || !known && len(n.silent) >= maxSilent:
	case tries < considerMost:
		n.silent[p] = tries + 1
		time.AfterFunc(considerAgain<<tries, func() { n.offer(p) })
	}
}

// forget drops what is known of peers that are gone.
func (n *newcomers) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.silent, func(p peer.ID, _ int) bool { return !n.k.d.visits.connected(p) })
}
