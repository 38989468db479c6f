package chainsync

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// Ahead asks the ready peers that claim a head above our tip for it, and
// reports whether one showed a header above our tip whose certificate is good
// by the set in force here. A header of another set cannot be judged from here:
// the chain may have changed the set since. It counts when it comes from a peer
// that we were told to keep, and nobody is charged for it.
func (y *Syncer) Ahead(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	tip := y.ledger.Tip().Head.Height
	var ask []chain.Peer
	for _, p := range y.peers.Peers() {
		if p.Genesis == y.genesis && p.Claimed.Height > tip {
			ask = append(ask, p)
		}
	}
	turn := make(chan struct{}, maxHeadAsks)
	verdicts := make(chan bool, len(ask))
	for _, p := range ask {
		go func() {
			select {
			case turn <- struct{}{}:
				defer func() { <-turn }()
				verdicts <- y.showsMore(ctx, p)
			case <-ctx.Done():
				verdicts <- false
			}
		}()
	}
	ahead := false
	for range ask { // all, so that no goroutine is left
		if <-verdicts && !ahead {
			ahead = true
			cancel()
		}
	}
	return ahead
}

// showsMore asks one peer for its head, and judges it.
func (y *Syncer) showsMore(ctx context.Context, p chain.Peer) bool {
	head, _, err := y.fetchHead(ctx, p.ID)
	if err == nil && head != nil {
		h, tip := head.header, y.ledger.Tip()
		switch {
		case h.Genesis != y.genesis:
			err = chain.Invalid(chain.ForgedBlock, "head: block %d of genesis %s, our chain's is %s", h.Height, h.Genesis, y.genesis)
		case h.Height <= tip.Head.Height:
			return false
		case h.Set != tip.Set.Hash():
			return p.Kept
		default:
			if bad := head.cert.Verify(h, tip.Set); bad != nil {
				err = chain.Invalid(chain.ForgedBlock, "head: %v", bad)
			} else {
				y.peers.Validated(p.ID, chain.Head{Height: h.Height, Hash: h.Hash()})
				return true
			}
		}
	}
	if bad, ok := errors.AsType[*chain.InvalidError](err); ok {
		y.peers.Report(p.ID, bad.Offence, "sync: "+bad.Detail)
	}
	return false
}

// ErrElsewhere means that a peer's head is not one of ours.
var ErrElsewhere = errors.New("its head is not on our chain")

// HeadOf asks a ready peer for its head. A head up to our tip is proved by being
// ours, one above it by its certificate, where that is of the set in force here.
func (y *Syncer) HeadOf(ctx context.Context, p peer.ID) (chain.Head, error) {
	s, _, err := y.fetchHead(ctx, p)
	if err != nil {
		return chain.Head{}, err
	}
	if s == nil {
		return chain.Head{Hash: y.genesis}, nil
	}
	h, tip := s.header, y.ledger.Tip()
	head := chain.Head{Height: h.Height, Hash: h.Hash()}
	if h.Height <= tip.Head.Height {
		if ours, ok := y.ledger.HeightOf(head.Hash); !ok || ours != h.Height {
			return chain.Head{}, fmt.Errorf("%w: block %d is %s there", ErrElsewhere, h.Height, head.Hash)
		}
	} else if h.Genesis != y.genesis || h.Set == tip.Set.Hash() && s.cert.Verify(h, tip.Set) != nil {
		return chain.Head{}, fmt.Errorf("%w: block %d, %s", ErrElsewhere, h.Height, head.Hash)
	} else if h.Set != tip.Set.Hash() {
		return chain.Head{}, fmt.Errorf("block %d is of another validator set than the one in force here at %d", h.Height, tip.Head.Height)
	}
	y.peers.Validated(p, head)
	return head, nil
}
