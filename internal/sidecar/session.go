package sidecar

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxWaiting      = 1024     // items that wait for a program or a reader
	maxWaitingBytes = 64 << 20 // of them
)

// queue holds what waits to be read, within its bounds. Its owner guards it.
type queue[T interface{ size() int }] struct {
	items []T
	bytes int
	wake  chan struct{} // cap 1
	over  chan struct{} // closed with err
	err   error         // why it ended; nil = it is open
}

func newQueue[T interface{ size() int }]() queue[T] {
	return queue[T]{wake: make(chan struct{}, 1), over: make(chan struct{})}
}

// push reports false where it is full or has ended.
func (q *queue[T]) push(item T) bool {
	n := item.size()
	if q.err != nil || len(q.items) >= maxWaiting || q.bytes+n > maxWaitingBytes {
		return false
	}
	q.items = append(q.items, item)
	q.bytes += n
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

func (q *queue[T]) pop() (item T, ok bool) {
	if len(q.items) == 0 {
		return item, false
	}
	item = q.items[0]
	var zero T
	q.items[0] = zero
	q.items = q.items[1:]
	q.bytes -= item.size()
	return item, true
}

func (q *queue[T]) finish(err error) {
	if q.err == nil {
		q.err, q.items, q.bytes = err, nil, 0
		close(q.over)
	}
}

// Session is an attached program.
type Session struct {
	s     *Sidecar
	hello Hello
	self  peer.ID
	queue queue[ToApp] // guarded by s.mu
}

// Attach makes this the program of the node, once what it declares is served.
// It waits for Run to begin. The one that was attached before is ended with
// ErrReplaced. The caller MUST Close it.
func (s *Sidecar) Attach(ctx context.Context, h Hello) (*Session, error) {
	if err := s.check(h); err != nil {
		return nil, err
	}
	select {
	case <-s.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	services, err := s.wing()
	if err != nil {
		return nil, err
	}
	x := &Session{s: s, hello: h, self: services.Self(), queue: newQueue[ToApp]()}
	o := order{x, make(chan error, 1)}
	select {
	case s.orders <- o:
	case <-s.ended:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := <-o.done; err != nil { // the loop answers what it has taken
		return nil, err
	}
	return x, nil
}

// Net is <net> of the network.
func (x *Session) Net() string { return x.s.id.Net }

// Self is this node's own id.
func (x *Session) Self() peer.ID { return x.self }

// Next waits for what the program is told next. It returns why the session has
// ended: ErrReplaced, ErrSlow, ErrStopped or ErrClosed.
func (x *Session) Next(ctx context.Context) (ToApp, error) {
	for {
		x.s.mu.Lock()
		item, ok := x.queue.pop()
		if v, is := item.(Validate); ok && is && x.s.asks[v.ID] == nil { // its time is over
			x.s.mu.Unlock()
			continue
		}
		err := x.queue.err
		x.s.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case ok:
			return item, nil
		}
		select {
		case <-x.queue.wake:
		case <-x.queue.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close detaches the program. What it declared stays served for 30 s.
func (x *Session) Close() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.end(ErrClosed)
}

// end is called under s.mu.
func (x *Session) end(err error) {
	x.queue.finish(err)
	if x.s.app != x {
		return
	}
	x.s.app = nil
	x.s.metrics.attached.Set(0)
	x.s.log.Info("program detached", "program", x.hello.Name, "why", err)
	select {
	case x.s.left <- struct{}{}:
	default:
	}
}

// must queues what a program cannot miss: one that does not read it has lost
// touch and begins anew. It is called under s.mu.
func (x *Session) must(item ToApp) {
	if x.queue.err == nil && !x.queue.push(item) {
		x.end(ErrSlow)
	}
}

// attach is called by the loop.
func (s *Sidecar) attach(ctx context.Context, x *Session) error {
	if err := s.serve(ctx, x.hello); err != nil {
		return err
	}
	s.mu.Lock()
	if s.app != nil {
		s.app.end(ErrReplaced)
	}
	select {
	case <-s.left: // nobody has left: this one is here
	default:
	}
	s.app = x
	s.status = x.hello.Status
	learned := s.genesis.IsZero() && !x.hello.Genesis.IsZero()
	if learned {
		s.genesis = x.hello.Genesis
	}
	services := s.services
	s.metrics.attached.Set(1)
	s.mu.Unlock()
	s.log.Info("program attached", "program", x.hello.Name, "topics", len(s.served.topics), "protocols", len(s.served.protocols), "genesis", x.hello.Genesis)
	if learned {
		services.Greet()
	}
	clear(s.told)
	s.look()
	return nil
}
