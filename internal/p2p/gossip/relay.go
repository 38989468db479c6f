package gossip

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// Bounds of large messages (DEFENCE 10.3).
const (
	chunkTopic = "chunk"

	maxOpen      = 4 // unfinished messages of a topic
	maxStrangers = 1 // of them of signers of whom none was valid yet
	largeTime    = 10 * time.Second
	largeRate    = 10 // manifests a second of one signer

	maxAhead   = 64 // chunks before their manifest, and manifests before their place
	maxAheadOf = 16 // of them of one peer
	aheadTime  = 2 * time.Second
	chunkTime  = 30 * time.Second // for what waits for the verdict on a message of the same signer

	maxProven = 1_024 // signers of a topic
	maxPast   = 1_024 // messages
)

// What became of large messages.
const (
	largeSent    = "sent"
	largeWhole   = "whole"
	largeLate    = "late"
	largeRefused = "refused"
	largeLeft    = "left"
)

var errAhead = errors.New("no manifest, or no place for the message")

// relay sends large messages in chunks, over an instance of its own, puts
// together what comes, and has the named topic judge it.
type relay struct {
	g     *Gossip
	inner *Gossip // carries topic chunk
	net   string
	turn  chan struct{} // held by who publishes
	seq   uint64        // of our last manifest; guarded by turn
	speed *rate.Limiter // of our manifests

	origins *origins
	whole   chan *incoming // to the loop of run

	mu      sync.Mutex // guards below
	open    map[chain.Hash]*incoming
	past    past
	wanted  map[chain.Hash]int               // manifests that wait for their place
	proven  map[string]map[peer.ID]time.Time // by topic
	waiting map[peer.ID]int                  // what is ahead, by who brought it
	ahead   int                              // all of it
	news    chan struct{}                    // closed, and made anew, when what is ahead is to look again
}

// incoming is a large message that is not judged yet.
type incoming struct {
	wire.Manifest
	t        *topic
	id       chain.Hash
	manifest string // the id of its message
	signer   peer.ID
	time     time.Time // by the signer's clock
	stranger bool      // when it came
	until    time.Time
	relayed  bool   // the manifest is: chunks may follow
	data     []byte // nil before the first chunk
	have     []bool
	left     int // chunks
}

func newRelay(g *Gossip, net string) *relay {
	r := &relay{
		g: g, net: net, turn: make(chan struct{}, 1), speed: rate.NewLimiter(largeRate, 1),
		origins: newOrigins(largeRate), whole: make(chan *incoming),
		open: map[chain.Hash]*incoming{}, past: past{ended: map[chain.Hash]ending{}}, wanted: map[chain.Hash]int{}, proven: map[string]map[peer.ID]time.Time{},
		waiting: map[peer.ID]int{}, news: make(chan struct{}),
	}
	cfg := Config{Key: g.cfg.Key, MaxBytes: wire.MaxChunkTopic, PeerRate: g.cfg.PeerRate, Takes: g.cfg.Takes}
	r.inner = newGossip(cfg, largeKind(net), g.scope.Host, g.rep, g.bus, g.log, g.metrics)
	r.inner.delivered = r.delivered
	return r
}

// run carries the second instance until ctx ends, and judges what is whole.
func (r *relay) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	ended := make(chan error, 1)
	all.Go(func() { ended <- r.inner.Run(ctx) })
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case l := <-r.whole:
			all.Go(func() { r.judge(ctx, l) })
		case now := <-look.C:
			r.expire(now)
		}
	}
}

// validate is that of topic chunk: what it accepts is relayed at once.
func (r *relay) validate(ctx context.Context, m chain.Message) error {
	switch {
	case m.From == r.g.self:
		return nil
	case wire.IsChunk(m.Data):
		return r.chunk(ctx, m)
	}
	return r.manifest(ctx, m)
}

func (r *relay) manifest(ctx context.Context, m chain.Message) error {
	c, signer, err := openClaim(chunkTopic, m.Data)
	if err != nil {
		return err
	}
	w, err := wire.DecodeManifest(c.Body)
	if err != nil {
		return wire.Fault(err)
	}
	switch size := int(w.Size); {
	case size <= largeFrom || int(w.ChunkSize) != chunkSize(size) || w.Root.IsZero():
		return chain.Invalid(chain.Malformed, "manifest of %d bytes in chunks of %d", size, w.ChunkSize)
	case size > wire.MaxLarge: // [REJECT] longer than any topic allows
		return chain.Invalid(chain.Oversize, "%d bytes in chunks, at most %d", size, wire.MaxLarge)
	}
	count := (int(w.Size) + int(w.ChunkSize) - 1) / int(w.ChunkSize)
	l := &incoming{
		Manifest: w, t: r.g.onWire(w.Topic), id: largeID(w), manifest: m.ID,
		signer: signer, time: time.UnixMilli(int64(c.TimeMS)), left: count,
	}
	if err := r.admit(ctx, m.From, l, c); err != nil {
		r.pass(l.id)
		return err
	}
	return nil
}

// admit waits for the place of l, if it may have one. Nobody is charged where
// it may not: others serve other topics, and may have larger bounds.
func (r *relay) admit(ctx context.Context, from peer.ID, l *incoming, c wire.Claim) error {
	switch {
	case l.t == nil || !l.t.large() || int(l.Size) > l.t.MaxBytes, r.g.rep.Refused(l.signer):
		return chain.ErrUnready
	case l.signer == r.g.self: // of our last life
		return chain.ErrKnown
	}
	if err := r.origins.admit(l.signer, c, time.Now()); err != nil {
		return err
	}
	r.want(l.id, 1)
	defer r.want(l.id, -1)
	err := r.await(ctx, from, func() (state, error) { return r.take(l) })
	if errors.Is(err, chain.ErrOrphan) || errors.Is(err, chain.ErrBusy) {
		r.g.metrics.large.WithLabelValues(largeRefused).Inc()
		return chain.ErrBusy
	}
	return err
}

// want counts manifests of a message that wait: while there are some, its chunks
// are not passed over.
func (r *relay) want(id chain.Hash, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted[id] += n; r.wanted[id] == 0 {
		delete(r.wanted, id)
	}
}

// pass has the chunks of a message that has no place wait for none.
func (r *relay) pass(id chain.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.add(id, false, time.Now())
	r.tell()
}

// take gives l a place, if there is one. mu held.
func (r *relay) take(l *incoming) (state, error) {
	now := time.Now()
	if whole, _ := r.past.of(l.id, pastTime, now); whole || r.open[l.id] != nil {
		return settled, chain.ErrKnown
	}
	if r.g.onWire(l.Topic) != l.t { // it was left
		return settled, chain.ErrUnready
	}
	_, proven := r.proven[l.t.Name][l.signer]
	l.stranger = !proven
	all, strangers := 0, 0
	for _, o := range r.open {
		if o.t.Name != l.t.Name {
			continue
		}
		switch {
		case o.signer == l.signer && o.left == 0:
			return behind, nil
		case o.signer == l.signer:
			return ahead, nil
		}
		all++
		if o.stranger {
			strangers++
		}
	}
	if all >= maxOpen || l.stranger && strangers >= maxStrangers {
		return ahead, nil
	}
	l.until = now.Add(largeTime)
	r.open[l.id] = l
	return settled, nil
}

// delivered is called in pubsub's loop when it sends on what was accepted. Only
// then are chunks accepted, so that they follow their manifest to every peer.
func (r *relay) delivered(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.open {
		if l.manifest == id {
			l.relayed = true
			r.tell()
		}
	}
}

func (r *relay) chunk(ctx context.Context, m chain.Message) error {
	c, err := wire.DecodeChunk(m.Data)
	if err != nil {
		return wire.Fault(err)
	}
	if !bytes.Equal(c.Encode(), m.Data) { // [REJECT] one chunk has one message
		return chain.Invalid(chain.Malformed, "chunk with more than its fields")
	}
	var l *incoming
	err = r.await(ctx, m.From, func() (state, error) {
		l = r.open[c.Message]
		switch _, past := r.past.of(c.Message, pastTime, time.Now()); {
		case l == nil && past && r.wanted[c.Message] == 0:
			return settled, chain.ErrKnown
		case l == nil && r.wanted[c.Message] > 0:
			return behind, nil
		case l == nil:
			return ahead, nil
		case !l.relayed:
			return near, nil
		}
		return settled, nil
	})
	if err != nil {
		return err
	}
	if !l.fits(c) { // [REJECT] does not fit its branch
		return chain.Invalid(chain.BadChunk, "%s: chunk %d of %d bytes does not fit", l.t.Name, c.Index, len(c.Data))
	}
	last, err := r.put(l, c)
	if last {
		select {
		case r.whole <- l:
		case <-ctx.Done():
			r.close(l, largeLate)
		}
	}
	return err
}

func (l *incoming) fits(c wire.Chunk) bool {
	size, step, i := int(l.Size), int(l.ChunkSize), int(c.Index)
	count := (size + step - 1) / step
	if i >= count || len(c.Data) != min(step, size-i*step) {
		return false
	}
	top, ok := climb(leafOf(i, c.Data), i, count, c.Branch)
	return ok && top == l.Root
}

// put keeps a chunk that fits, and reports whether it was the last one.
func (r *relay) put(l *incoming, c wire.Chunk) (last bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.open[l.id] != l:
		return false, chain.ErrKnown // its time is over
	case l.data == nil:
		l.data, l.have = make([]byte, l.Size), make([]bool, l.left)
	case l.have[c.Index]:
		return false, chain.ErrKnown
	}
	copy(l.data[int(c.Index)*int(l.ChunkSize):], c.Data)
	l.have[c.Index] = true
	l.left--
	return l.left == 0, nil
}

// judge has the named topic decide. Who signed the manifest answers for it, and
// nobody who relayed it.
func (r *relay) judge(ctx context.Context, l *incoming) {
	pm := l.t.message(l.data, l.signer)
	l.t.g.tracer.seen.arrived(pm, l.t.Name, false, time.Now())
	err := l.t.whole(ctx, chain.Message{From: l.signer, Origin: l.signer, Time: l.time, Data: l.data, ID: pm.ID})
	l.t.judge(pm, l.signer, err)
	r.mu.Lock()
	if err == nil {
		r.prove(l.t.Name, l.signer)
	} else if bad := new(chain.InvalidError); errors.As(err, &bad) {
		delete(r.proven[l.t.Name], l.signer)
	}
	r.mu.Unlock()
	r.close(l, largeWhole)
}

// prove remembers a signer of a valid message; the one not heard for longest
// goes. mu held.
func (r *relay) prove(topic string, signer peer.ID) {
	signers := r.proven[topic]
	if signers == nil {
		signers = map[peer.ID]time.Time{}
		r.proven[topic] = signers
	}
	signers[signer] = time.Now()
	if len(signers) <= maxProven {
		return
	}
	oldest := signer
	for p, at := range signers {
		if at.Before(signers[oldest]) {
			oldest = p
		}
	}
	delete(signers, oldest)
}

// close gives back the place and the memory of l.
func (r *relay) close(l *incoming, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(l, why)
}

func (r *relay) end(l *incoming, why string) { // mu held
	r.g.metrics.large.WithLabelValues(why).Inc()
	delete(r.open, l.id)
	r.past.add(l.id, why == largeWhole, time.Now())
	r.tell()
}

// left gives up what is not whole of a topic that is not served any more.
func (r *relay) left(t *topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.open {
		if l.t == t && l.left > 0 {
			r.end(l, largeLeft)
		}
	}
	r.tell() // those that wait
}

// expire closes what was not whole in its time.
func (r *relay) expire(now time.Time) {
	r.mu.Lock()
	var late []*incoming
	for _, l := range r.open {
		if l.left > 0 && !now.Before(l.until) {
			late = append(late, l)
			r.end(l, largeLate)
		}
	}
	r.mu.Unlock()
	for _, l := range late {
		r.g.log.Debug("large message not whole in time", "topic", l.t.Name, "peer", l.signer, "size", l.Size)
	}
}

// state is that of a message of topic chunk before its verdict.
type state int

const (
	settled state = iota
	near          // its manifest is about to be sent on: pace bounds these
	ahead         // of its manifest, or of its place
	behind        // as ahead, but for what will end: a verdict, or the wait of its manifest
)

// await calls try, with mu held, until it is settled, for aheadTime at most, or
// while it is behind.
func (r *relay) await(ctx context.Context, from peer.ID, try func() (state, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch is, err := try(); {
	case is == settled:
		return err
	case is != near && (r.ahead >= maxAhead || r.waiting[from] >= maxAheadOf):
		return chain.ErrBusy
	case is != near:
		r.ahead++
		r.waiting[from]++
		defer func() {
			r.ahead--
			if r.waiting[from]--; r.waiting[from] == 0 {
				delete(r.waiting, from)
			}
		}()
	}
	over := time.NewTimer(aheadTime)
	defer over.Stop()
	for {
		news := r.news
		r.mu.Unlock()
		var err error
		select {
		case <-news:
		case <-over.C:
			err = errors.Join(errAhead, chain.ErrOrphan)
		case <-ctx.Done():
			err = ctx.Err()
		}
		r.mu.Lock()
		switch is, verdict := try(); {
		case is == settled:
			return verdict
		case is == behind && ctx.Err() == nil:
			over.Reset(aheadTime)
		case err != nil:
			return err
		}
	}
}

// tell has what is ahead look again. mu held.
func (r *relay) tell() {
	close(r.news)
	r.news = make(chan struct{})
}

// message is a large one as pubsub would have it.
func (t *topic) message(data []byte, from peer.ID) *pubsub.Message {
	id := wire.MessageID(t.wire, data)
	return &pubsub.Message{Message: &pb.Message{Topic: &t.wire, Data: data}, ID: string(id[:]), ReceivedFrom: from}
}

// whole is Validate within the topic's bounds.
func (t *topic) whole(ctx context.Context, m chain.Message) error {
	if t.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.timeout)
		defer cancel()
	}
	if !t.Quick {
		select {
		case t.places <- struct{}{}:
			defer func() { <-t.places }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	start := time.Now()
	err := t.Validate(ctx, m)
	t.count.seconds.Observe(time.Since(start).Seconds())
	return err
}
