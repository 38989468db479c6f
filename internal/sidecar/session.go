package sidecar

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Session is an attached program.
type Session struct {
	s     *Sidecar
	hello Hello
	self  peer.ID

	// below: guarded by s.mu
	queue     queue[ToApp]
	news      map[peer.ID]ToApp    // what is new of a peer, which replaces what was
	knows     map[peer.ID]struct{} // peers that it was told are ready
	lost      uint64               // messages of peers that it had no place for, not told yet
	queueNext bool                 // news had their turn: what is queued is next
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
	x := &Session{s: s, hello: h, self: services.Self(), queue: newQueue[ToApp](), news: map[peer.ID]ToApp{}, knows: map[peer.ID]struct{}{}}
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
		item, ok := x.take()
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

// take gives news and what is queued by turns: neither holds up the other. It
// is called under s.mu, as are those below.
func (x *Session) take() (ToApp, bool) {
	if x.queueNext = !x.queueNext; !x.queueNext {
		if item, ok := x.takeQueued(); ok {
			return item, true
		}
		return x.takeNews()
	}
	if item, ok := x.takeNews(); ok {
		return item, true
	}
	return x.takeQueued()
}

func (x *Session) takeQueued() (ToApp, bool) {
	for {
		item, ok := x.queue.pop()
		if !ok || x.s.awaits(item) {
			return item, ok
		}
		if _, message := item.(Validate); message {
			x.lost++
		}
	}
}

// awaits reports whether item is of use still: verdicts and answers have their
// time.
func (s *Sidecar) awaits(item ToApp) bool {
	switch i := item.(type) {
	case Validate:
		return s.asks[i.ID] != nil
	case Incoming:
		return s.incoming[i.ID] != nil
	}
	return true
}

func (x *Session) takeNews() (ToApp, bool) {
	for p, n := range x.news { // of one peer there is one: they have no order
		delete(x.news, p)
		if _, gone := n.(PeerGone); gone {
			delete(x.knows, p)
		} else {
			x.knows[p] = struct{}{}
		}
		return n, true
	}
	if n := x.lost; n > 0 {
		x.lost = 0
		return Lost{n}, true
	}
	return nil, false
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

// tell has the program learn what is new of a peer. What it has not read yet is
// replaced, so that peers that come and go fill nothing.
func (x *Session) tell(p peer.ID, n ToApp) {
	if x.queue.err != nil {
		return
	}
	if _, gone := n.(PeerGone); gone {
		if _, known := x.knows[p]; !known { // it came and went unread
			delete(x.news, p)
			return
		}
	}
	x.news[p] = n
	x.queue.ring()
}

// give queues a message that nobody is asked about. Where peers send more than
// the program reads, it is told how many it lost; they never end its session.
// Of its own node's there is room, or Send does not send them; where a call came
// in between too often, it begins anew.
func (x *Session) give(m Message) {
	switch {
	case x.queue.err != nil:
	case m.From == x.self:
		if !x.queue.push(ours, m) {
			x.end(ErrSlow)
		}
	case !x.queue.push(messages, m):
		x.lost++
		x.s.metrics.dropped.WithLabelValues(droppedMessage).Inc()
		x.queue.ring()
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
