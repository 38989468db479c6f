package gossip

import (
	"cmp"
	"context"
	"fmt"
	"iter"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

const (
	batchMost  = 32       // messages
	batchBytes = 64 << 10 // from which a batch goes
)

// PublishAll is Publish for one message after the other, which go out in this
// order and cost less together. It takes all until one fails and tells how many
// were published before that one.
func (g *Gossip) PublishAll(ctx context.Context, name string, all iter.Seq[[]byte]) (n int, err error) {
	if !g.wait(ctx.Done()) {
		return 0, fmt.Errorf("publish to %q: %w", name, cmp.Or(ctx.Err(), errClosed))
	}
	t := g.topic(name)
	if t == nil {
		return 0, fmt.Errorf("publish to %q: no such topic is served: call Serve first", name)
	}
	b := &batch{g: g}
	defer func() {
		if failed := b.send(); err == nil {
			err = failed
		}
	}()
	for data := range all {
		if b.bytes >= batchBytes || b.count >= batchMost {
			if err := b.send(); err != nil {
				return n, err
			}
		}
		if g.credit.busy() {
			return n, fmt.Errorf("publish to %q: peers lag behind: %w", name, chain.ErrBusy)
		}
		if err := t.publish(ctx, data, b); err != nil {
			return n, fmt.Errorf("publish to %q: %w", name, err)
		}
		n++
	}
	return n, nil
}

// batch is what pubsub's loop takes at once: messages that are valid.
type batch struct {
	g            *Gossip
	list         pubsub.MessageBatch
	count, bytes int // of list
}

// adder takes the place of h.Publish.
func (b *batch) adder(h *pubsub.Topic) func(context.Context, []byte, ...pubsub.PubOpt) error {
	return func(ctx context.Context, data []byte, opts ...pubsub.PubOpt) error {
		b.count, b.bytes = b.count+1, b.bytes+len(data)
		return h.AddToBatch(ctx, &b.list, data, opts...)
	}
}

// send hands the batch on and begins another one.
func (b *batch) send() error {
	if b == nil || b.count == 0 {
		return nil
	}
	b.count, b.bytes = 0, 0
	return b.g.together(&b.list, &inOrder{})
}

// together has pubsub's loop take messages, and send them in an order. pubsub
// would wait for ever where its loop has ended, but for the first batch: one is
// on its way at a time.
func (g *Gossip) together(list *pubsub.MessageBatch, order pubsub.RPCScheduler) error {
	select {
	case g.batches <- struct{}{}:
	case <-g.stopped:
		return errClosed
	}
	return g.ps.PublishBatch(list, func(o *pubsub.BatchPublishOptions) error {
		o.Strategy = taken{order, func() { <-g.batches }}
		return nil
	})
}

// taken tells when the loop has a batch, before it sends.
type taken struct {
	pubsub.RPCScheduler
	tell func()
}

func (t taken) All() iter.Seq2[peer.ID, *pubsub.RPC] {
	t.tell()
	return t.RPCScheduler.All()
}

// inOrder implements [pubsub.RPCScheduler]; pubsub's own has no order.
type inOrder struct{ rpcs []addressed }

type addressed struct {
	peer peer.ID
	rpc  *pubsub.RPC
}

func (s *inOrder) AddRPC(p peer.ID, _ string, rpc *pubsub.RPC) {
	s.rpcs = append(s.rpcs, addressed{p, rpc})
}

func (s *inOrder) All() iter.Seq2[peer.ID, *pubsub.RPC] {
	return func(yield func(peer.ID, *pubsub.RPC) bool) {
		for _, a := range s.rpcs {
			if !yield(a.peer, a.rpc) {
				return
			}
		}
	}
}
