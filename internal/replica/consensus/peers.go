package consensus

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	outMessages = 1024
	outBytes    = 64 << 20
	// staleAfter drops what waited for a connection: old messages of an old
	// view make the receiver leave its own.
	staleAfter   = time.Second
	writeTimeout = 10 * time.Second
	flushTimeout = time.Second
	openTimeout  = 5 * time.Second
	aliveEvery   = time.Second    // an empty frame says that we are there
	silentAfter  = 3 * aliveEvery // a stream can stand long after its network is gone
	backoffMin   = 50 * time.Millisecond
	backoffMax   = time.Second
)

// peers are the streams to and from the other validators.
type peers struct {
	engine  *Engine
	session *session
	changed chan struct{} // the set changed
	ended   chan struct{} // closed when run ends
	came    chan struct{} // a stream stands, to or from another

	mu      sync.Mutex // guards below
	out     map[uint64]*outbox
	inbound map[peer.ID]chain.Stream // the newest of each
	heard   map[uint64]time.Time     // when each was heard last
	waiting map[uint64]int           // messages of each that the library does not take: it is not silent
	closed  bool
}

func newPeers(e *Engine, s *session) *peers {
	p := &peers{engine: e, session: s, changed: make(chan struct{}, 1), ended: make(chan struct{}), came: make(chan struct{}, 1),
		out: map[uint64]*outbox{}, inbound: map[peer.ID]chain.Stream{}, heard: map[uint64]time.Time{}, waiting: map[uint64]int{}}
	p.update()
	return p
}

// update takes over the ledger's validator set.
func (p *peers) update() {
	for _, st := range p.replace(p.engine.ledger.Tip().Set) {
		_ = st.Reset()
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// replace returns the streams of those that are no longer in the set.
func (p *peers) replace(set *consortium.ValidatorSet) (left []chain.Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, o := range p.out {
		if key, ok := set.Key(id); !ok || key != o.key {
			o.close()
			delete(p.out, id)
			delete(p.heard, id)
		}
	}
	for _, id := range set.IDs() {
		key, _ := set.Key(id)
		if id == p.session.id || p.out[id] != nil {
			continue
		}
		to, err := key.PeerID()
		if err != nil {
			p.engine.log.Warn("validator has a key that is no peer's", "validator", id, "err", err)
			continue
		}
		p.out[id] = &outbox{id: id, key: key, to: to, wake: make(chan struct{}, 1), redial: make(chan struct{}, 1), done: make(chan struct{})}
	}
	for from, st := range p.inbound {
		if p.validatorOf(from) == 0 {
			left = append(left, st)
		}
	}
	return left
}

// validatorOf is the id of another validator of the set, 0 for all else.
func (p *peers) validatorOf(from peer.ID) uint64 { // mu held
	for id, o := range p.out {
		if o.to == from {
			return id
		}
	}
	return 0
}

// run keeps a stream to each other validator until ctx ends.
func (p *peers) run(ctx context.Context) {
	var wg sync.WaitGroup
	running := map[*outbox]bool{}
	for ctx.Err() == nil {
		p.mu.Lock()
		for _, o := range p.out {
			if !running[o] {
				running[o] = true
				wg.Go(func() { p.serve(ctx, o) })
			}
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-p.changed:
		}
	}
	p.mu.Lock()
	p.closed = true
	open := slices.Collect(maps.Values(p.inbound))
	p.mu.Unlock()
	for _, st := range open {
		_ = st.Reset()
	}
	close(p.ended)
	wg.Wait()
}

func (p *peers) connected() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, o := range p.out {
		if o.isUp() {
			n++
		}
	}
	return n
}

// waits counts the messages of id that wait for the library.
func (p *peers) waits(id uint64, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[id] += by; p.waiting[id] == 0 {
		delete(p.waiting, id)
	}
}

// audible is to how many a stream stands that were heard a moment ago, or whom
// the library keeps waiting.
func (p *peers) audible(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for id, o := range p.out {
		if o.isUp() && (p.waiting[id] > 0 || now.Sub(p.heard[id]) < silentAfter) {
			n++
		}
	}
	return n
}

func (p *peers) send(to uint64, m *smartbftprotos.Message) {
	p.mu.Lock()
	o := p.out[to]
	p.mu.Unlock()
	if o == nil {
		return // it left the set
	}
	for _, b := range p.encode(to, m) {
		if !o.put(b, time.Now()) {
			p.engine.metrics.dropped.Inc()
		}
	}
}

// encode is what goes over the wire for m: m, but where a test makes us lie.
func (p *peers) encode(to uint64, m *smartbftprotos.Message) (frames [][]byte) {
	all := []*smartbftprotos.Message{m}
	if lie := p.engine.cfg.Outgoing; lie != nil {
		all = lie(to, m)
	}
	for _, m := range all {
		b, err := proto.Marshal(m)
		if err != nil {
			p.session.die("encode a message: " + err.Error())
		}
		frames = append(frames, b)
	}
	return frames
}

// outbox is the queue to one validator. When it is full the newest message is
// dropped: the protocol sends again.
type outbox struct {
	id     uint64
	key    consortium.PublicKey
	to     peer.ID
	wake   chan struct{} // something was put
	redial chan struct{} // it reached us, so it can be reached
	done   chan struct{} // it left the set

	mu    sync.Mutex // guards below
	queue []message
	bytes int
	up    bool
	ended bool
}

type message struct {
	data []byte
	at   time.Time
}

func (o *outbox) put(b []byte, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) >= outMessages || o.bytes+len(b) > outBytes {
		return false
	}
	o.queue = append(o.queue, message{b, now})
	o.bytes += len(b)
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return true
}

func (o *outbox) take() ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil, false
	}
	m := o.queue[0]
	o.queue[0] = message{}
	o.queue = o.queue[1:]
	o.bytes -= len(m.data)
	return m.data, true
}

// connect notes that the stream stands, and forgets what waited for too long.
func (o *outbox) connect(up bool, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = up
	for up && len(o.queue) > 0 && now.Sub(o.queue[0].at) > staleAfter {
		o.bytes -= len(o.queue[0].data)
		o.queue = o.queue[1:]
	}
}

func (o *outbox) isUp() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.up
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.ended = true
		close(o.done)
	}
}

// serve opens the stream again and again and writes the queue to it.
func (p *peers) serve(ctx context.Context, o *outbox) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, o.close)
	wait := backoffMin
	for {
		began := time.Now()
		err := p.stream(ctx, o)
		select {
		case <-o.done:
			return
		default:
		}
		p.engine.log.Debug("no consensus stream", "validator", o.id, "peer", o.to, "err", err)
		if time.Since(began) > backoffMax {
			wait = backoffMin
		}
		again := time.NewTimer(wait/2 + rand.N(wait))
		wait = min(2*wait, backoffMax)
		select {
		case <-o.done:
		case <-o.redial:
			wait = backoffMin
		case <-again.C:
		}
		again.Stop()
	}
}

// stream opens one stream and writes the queue to it until it breaks.
func (p *peers) stream(ctx context.Context, o *outbox) error {
	octx, cancel := context.WithTimeout(ctx, openTimeout)
	st, err := p.engine.net.Open(octx, o.to, p.engine.protocol)
	cancel()
	if err != nil {
		return err
	}
	broken := make(chan error, 1)
	go func() { // the other side never writes: a read ends with the stream
		_, err := st.Read(make([]byte, 1))
		if err == nil {
			err = errors.New("unexpected byte on a one-way stream")
		}
		broken <- err
	}()
	err, ended := p.write(o, st, broken)
	o.connect(false, time.Now())
	if err == nil {
		_ = st.Close() // what was written arrives: our vote for the block that parts us
	} else {
		_ = st.Reset()
	}
	if !ended {
		<-broken
	}
	return err
}

// write reports as well whether the reader of the stream has ended.
func (p *peers) write(o *outbox, st chain.Stream, broken <-chan error) (err error, ended bool) {
	send := func(b []byte) error {
		if err := st.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		return wire.WriteFrame(st, b)
	}
	if err := send(nil); err != nil { // a stream has to begin within 10 s
		return err, false
	}
	o.connect(true, time.Now())
	p.tellCame()
	for _, m := range p.session.again(o.id) {
		for _, b := range p.encode(o.id, m) {
			if err := send(b); err != nil {
				return err, false
			}
		}
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		b, ok := o.take()
		if ok {
			if err := send(b); err != nil {
				return err, false
			}
			continue
		}
		select {
		case <-o.done:
			return p.flush(o, st), false
		case err := <-broken:
			return err, true
		case <-o.wake:
		case <-alive.C:
			if err := send(nil); err != nil {
				return err, false
			}
		}
	}
}

// flush writes what is left for a validator with which we part.
func (p *peers) flush(o *outbox, st chain.Stream) error {
	if err := st.SetWriteDeadline(time.Now().Add(flushTimeout)); err != nil {
		return err
	}
	for b, ok := o.take(); ok; b, ok = o.take() {
		if err := wire.WriteFrame(st, b); err != nil {
			return err
		}
	}
	return nil
}

// accept lets a stream in if it is of another validator, in place of the old
// one, which the caller resets.
func (p *peers) accept(from peer.ID, st chain.Stream) (id uint64, old chain.Stream, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id = p.validatorOf(from); id == 0 || p.closed {
		return 0, nil, false
	}
	old = p.inbound[from]
	p.inbound[from] = st
	p.out[id].hurry()
	p.tellCame()
	return id, old, true
}

func (p *peers) tellCame() {
	select {
	case p.came <- struct{}{}:
	default:
	}
}

func (p *peers) release(from peer.ID, st chain.Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inbound[from] == st {
		delete(p.inbound, from)
	}
}

// hears notes that id was heard, and reports whether it is still in the set, and
// still that peer.
func (p *peers) hears(id uint64, from peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.out[id]
	if o == nil || o.to != from || p.closed {
		return false
	}
	p.heard[id] = time.Now()
	return true
}
