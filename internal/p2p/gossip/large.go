package gossip

import (
	"context"
	"fmt"
	"iter"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	largeFrom = 32 << 10 // bytes; longer ones of a large topic go in chunks
	sendAhead = 2 << 20  // bytes of a message that are handed on at once, beside what credit allows
	lookSoon  = 10 * time.Millisecond
	meshWait  = 3 * time.Second // a new topic's mesh is there after a heartbeat, of one second
)

// large reports whether messages of t go in chunks where they are long.
func (t *topic) large() bool { return t.Large && t.MaxBytes > largeFrom }

// openLarge has the second instance run for net, from the first topic on that
// needs it, and serve topic chunk.
func (g *Gossip) openLarge(net string) error {
	g.mu.Lock()
	r, first := g.relay, g.relay == nil
	if first {
		r = newRelay(g, net)
		g.relay = r
	}
	g.mu.Unlock()
	if r.net != net {
		return fmt.Errorf("large messages are those of %s: one network has them", r.net)
	}
	if !first {
		return nil
	}
	g.opened <- r // holds one, and there is one
	if !r.inner.wait(g.stopped) {
		return errClosed
	}
	return r.inner.Serve(net, []chain.Topic{{
		Name: chunkTopic, MaxBytes: wire.MaxChunkTopic, Timeout: chunkTime, AtOnce: 2 * maxAhead, Validate: r.validate,
	}})
}

// runLarge runs the second instance, once there is one.
func (g *Gossip) runLarge(ctx context.Context) error {
	select {
	case r := <-g.opened:
		return r.run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// chunks is what carries large messages; nil = no topic needs it.
func (g *Gossip) chunks() *relay {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.relay
}

// publish sends data of t, which is large. It waits its turn and for the peers
// to have taken what was sent before; who gets chain.ErrBusy has sent nothing.
func (r *relay) publish(ctx context.Context, t *topic, data []byte) error {
	begin, cancel := context.WithTimeout(ctx, largeTime)
	defer cancel()
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-begin.Done():
		return busy(ctx, "another large message is being sent")
	}
	if r.speed.Wait(begin) != nil || !r.meshed(begin) || !r.clear(begin, maxWaitingBytes) {
		return busy(ctx, "peers lag behind")
	}
	m := cut(t, data)
	if again, err := r.again(m.id); again {
		return err
	}
	manifest, err := sealClaim(r.g.cfg.Key, chunkTopic, time.Now(), r.next(), m.Encode())
	if err == nil {
		err = t.deliver(ctx, data)
	}
	if err != nil {
		r.unsent(m.id)
		return err
	}
	sending, done := context.WithTimeout(ctx, largeTime)
	defer done()
	if err := r.send(sending, manifest, m); err != nil {
		return err
	}
	r.sent(m.id)
	return nil
}

func busy(ctx context.Context, why string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w", why, chain.ErrBusy)
}

// meshed waits for the mesh, without which chunks go to nobody; false: ctx ended.
// Where none comes, they go on by what peers ask for.
func (r *relay) meshed(ctx context.Context) bool {
	for end := time.Now().Add(meshWait); time.Now().Before(end); {
		h := r.handle()
		if h != nil && (r.inner.tracer.size(h.String()) > 0 || len(h.ListPeers()) == 0) {
			return true
		}
		if !pause(ctx) {
			return false
		}
	}
	return r.handle() != nil
}

// handle is that of topic chunk; nil = it is not joined yet.
func (r *relay) handle() *pubsub.Topic {
	if t := r.inner.topic(chunkTopic); t != nil {
		return t.handle.Load()
	}
	return nil
}

// clear waits until most peers have taken what was sent before but for some
// bytes; false: ctx ended.
func (r *relay) clear(ctx context.Context, but int) bool {
	for r.inner.credit.most(maxWaiting, but) {
		if !pause(ctx) {
			return false
		}
	}
	return ctx.Err() == nil
}

func pause(ctx context.Context) bool {
	select {
	case <-time.After(lookSoon):
		return true
	case <-ctx.Done():
		return false
	}
}

// again reports whether bytes that we are to publish are nothing new, as pubsub
// has it still, and what to say of it.
func (r *relay) again(id chain.Hash) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	whole, known := r.past.of(id, ownTime, now)
	switch {
	case r.open[id] != nil, whole:
		return true, nil
	case known:
		return true, fmt.Errorf("the same bytes were %w: send them in four minutes, or changed", chain.ErrCut)
	}
	r.past.add(id, false, now)
	return false, nil
}

// unsent takes back again, for nothing of the message was sent.
func (r *relay) unsent(id chain.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.forget(id)
}

func (r *relay) sent(id chain.Hash) {
	r.g.metrics.large.WithLabelValues(largeSent).Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.add(id, true, time.Now())
}

// next numbers our manifests, rising over restarts. turn is held.
func (r *relay) next() uint64 {
	r.seq = max(r.seq+1, uint64(time.Now().UnixMilli()))
	return r.seq
}

// deliver has a topic judge, and so deliver, a message of ours that goes in chunks.
func (t *topic) deliver(ctx context.Context, data []byte) error {
	if !t.g.scope.enter() {
		return errClosed
	}
	defer t.g.scope.leave()
	pm := t.message(data, t.g.self)
	t.g.tracer.seen.arrived(pm, t.Name, true, time.Now())
	err := t.Validate(ctx, chain.Message{From: t.g.self, Data: data, ID: pm.ID})
	t.judge(pm, "", err)
	return err
}

// pieces is a large message on its way out.
type pieces struct {
	wire.Manifest
	id   chain.Hash
	data []byte
	tree [][]chain.Hash
}

// cut makes what is sent of a message of t.
func cut(t *topic, data []byte) *pieces {
	m := &pieces{Manifest: wire.Manifest{Topic: t.wire, Size: uint32(len(data)), ChunkSize: uint32(chunkSize(len(data)))}, data: data}
	var leaves []chain.Hash
	for i := 0; i*int(m.ChunkSize) < len(data); i++ {
		leaves = append(leaves, leafOf(i, m.piece(i)))
	}
	m.tree = treeOf(leaves)
	m.Root = m.tree[len(m.tree)-1][0]
	m.id = largeID(m.Manifest)
	return m
}

func (m *pieces) piece(i int) []byte {
	from := i * int(m.ChunkSize)
	return m.data[from:min(from+int(m.ChunkSize), len(m.data))]
}

// send hands the manifest and the chunks to pubsub, some at once: between them
// it waits for the peers.
func (r *relay) send(ctx context.Context, manifest []byte, m *pieces) error {
	h := r.handle()
	next, count := 0, len(m.tree[0])
	for out := [][]byte{manifest}; ; out = out[:0] {
		for bytes := 0; next < count && bytes < sendAhead; next++ {
			out = append(out, wire.Chunk{Message: m.id, Index: uint32(next), Branch: branchOf(m.tree, next), Data: m.piece(next)}.Encode())
			bytes += int(m.ChunkSize)
		}
		if err := r.hand(ctx, h, out); err != nil {
			return err
		}
		ahead := maxWaitingBytes
		if next == count {
			ahead = 0
		}
		if !r.clear(ctx, ahead) {
			return fmt.Errorf("peers lag behind: %w: %d of %d chunks", chain.ErrCut, next, count)
		}
		if next == count {
			return nil
		}
	}
}

// hand has pubsub send messages, and waits until it has queued them.
func (r *relay) hand(ctx context.Context, h *pubsub.Topic, messages [][]byte) error {
	var batch pubsub.MessageBatch
	for _, data := range messages {
		o := &own{message: chain.Message{From: r.g.self, Data: data}}
		if err := h.AddToBatch(ctx, &batch, data, pubsub.WithValidatorData(o)); err != nil {
			return err
		}
	}
	order := &rounds{sent: make(chan struct{}), at: map[string]int{}}
	if err := r.inner.together(&batch, order); err != nil {
		return err
	}
	select {
	case <-order.sent:
		return nil
	case <-r.inner.stopped:
		return errClosed
	}
}

// rounds sends the first copy of every message before the second of any, each
// to another peer, so that peers can give them to each other meanwhile. The
// first message, which is the manifest at first, goes to all of them before:
// nothing is of use without it.
type rounds struct {
	at     map[string]int // of a message in queued
	queued [][]copyTo
	sent   chan struct{} // closed when all are queued
}

type copyTo struct {
	peer peer.ID
	rpc  *pubsub.RPC
}

// AddRPC implements [pubsub.RPCScheduler].
func (s *rounds) AddRPC(p peer.ID, id string, rpc *pubsub.RPC) {
	i, ok := s.at[id]
	if !ok {
		i = len(s.queued)
		s.at[id] = i
		s.queued = append(s.queued, nil)
	}
	s.queued[i] = append(s.queued[i], copyTo{p, rpc})
}

// All implements [pubsub.RPCScheduler].
func (s *rounds) All() iter.Seq2[peer.ID, *pubsub.RPC] {
	return func(yield func(peer.ID, *pubsub.RPC) bool) {
		defer close(s.sent)
		if len(s.queued) == 0 {
			return
		}
		for _, c := range s.queued[0] {
			yield(c.peer, c.rpc)
		}
		s.queued = s.queued[1:]
		for round, left := 0, true; left; round++ {
			left = false
			for _, copies := range s.queued {
				if round < len(copies) {
					left = true
					yield(copies[round].peer, copies[round].rpc)
				}
			}
		}
	}
}
