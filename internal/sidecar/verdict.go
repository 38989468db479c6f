package sidecar

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	maxAsks      = 256      // verdicts that are awaited at once
	maxAsksBytes = 64 << 20 // of their messages
)

// ask is a verdict that is awaited.
type ask struct {
	verdict  chan answer // cap 1
	deadline time.Time
}

type answer struct {
	kind    Verdict
	offence chain.Offence
	late    bool // there was none in time
}

// named is a topic by its name, and how many verdicts it had of each kind.
type named struct {
	name     string
	verdicts map[string]prometheus.Counter
}

// judge is Validate of every topic.
func (s *Sidecar) judge(ctx context.Context, n named, m chain.Message) error {
	s.mu.Lock()
	services := s.services
	t, ok := s.topics[n.name]
	s.mu.Unlock()
	switch {
	case services == nil, !ok:
		return chain.ErrUnready // it has just been withdrawn
	case !t.validate, m.From == services.Self():
		s.deliver(n.name, m, true)
		return nil
	}
	if err := s.ask(ctx, n, m); err != nil {
		return err
	}
	s.deliver(n.name, m, false)
	return nil
}

// ask waits for the program's verdict for sidecar.validate_timeout. nil relays the
// message.
func (s *Sidecar) ask(ctx context.Context, n named, m chain.Message) error {
	start := time.Now()
	a := &ask{make(chan answer, 1), start.Add(s.cfg.ValidateTimeout)}
	s.mu.Lock()
	app := s.app
	if app == nil {
		s.mu.Unlock()
		return s.without(n, "detached", s.cfg.OnDetached)
	}
	s.lastID++
	id := s.lastID
	v := Validate{ID: id, Topic: n.name, From: m.From, Data: m.Data, Deadline: a.deadline}
	if len(s.asks) >= maxAsks || s.asked+len(m.Data) > maxAsksBytes || !app.queue.push(verdicts, v) {
		app.lost++
		app.queue.ring()
		s.mu.Unlock()
		n.verdicts["busy"].Inc()
		return fmt.Errorf("%d verdicts are awaited: %w", maxAsks, chain.ErrBusy)
	}
	s.asks[id] = a
	s.asked += len(m.Data)
	if s.late == nil {
		s.late = time.AfterFunc(s.cfg.ValidateTimeout, s.giveUp)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asks, id)
		s.asked -= len(m.Data)
	}()
	select {
	case got := <-a.verdict:
		if got.late {
			return s.without(n, "timeout", s.cfg.OnTimeout)
		}
		s.metrics.seconds.Observe(time.Since(start).Seconds())
		return s.obey(n, got)
	case <-app.queue.over:
		return s.without(n, "detached", s.cfg.OnDetached)
	case <-ctx.Done(): // the node stops
		return ctx.Err()
	}
}

// giveUp ends what is awaited past its deadline: one timer is cheaper than one
// for each message.
func (s *Sidecar) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.late = nil
	var next time.Time
	for id, a := range s.asks {
		switch {
		case !a.deadline.After(now):
			s.settle(id, answer{late: true})
		case next.IsZero() || a.deadline.Before(next):
			next = a.deadline
		}
	}
	if !next.IsZero() && s.services != nil {
		s.late = time.AfterFunc(next.Sub(now), s.giveUp)
	}
}

func (s *Sidecar) obey(n named, got answer) error {
	switch got.kind {
	case Accept:
		n.verdicts["accept"].Inc()
		return nil
	case Reject:
		n.verdicts["reject"].Inc()
		return chain.Invalid(got.offence, "topic %s: rejected by the program", n.name)
	default:
		n.verdicts["ignore"].Inc()
		return fmt.Errorf("the program: %w", chain.ErrUnready)
	}
}

// without decides where there is no verdict.
func (s *Sidecar) without(n named, why, policy string) error {
	n.verdicts[why].Inc()
	if policy == config.SidecarAccept {
		return nil
	}
	return fmt.Errorf("no verdict of the program (%s): %w", why, chain.ErrUnready)
}

// Verdict answers a Validate, and those of more too. One that comes too late changes
// nothing.
func (x *Session) Verdict(id uint64, kind Verdict, reason string, more ...uint64) error {
	a := answer{kind: kind}
	switch kind {
	case Accept, Ignore:
	case Reject:
		o, err := offenceOf(reason)
		if err != nil {
			return err
		}
		a.offence = o
	default:
		return badInput("verdict of kind %d: want ACCEPT, IGNORE or REJECT", kind)
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.queue.err != nil {
		return x.queue.err
	}
	x.s.settle(id, a)
	for _, id := range more {
		x.s.settle(id, a)
	}
	return nil
}

// settle is called under s.mu.
func (s *Sidecar) settle(id uint64, a answer) {
	ask := s.asks[id]
	if ask == nil {
		return
	}
	select {
	case ask.verdict <- a:
	default: // the second one
	}
}

// deliver gives an accepted message to those who read it, to the program too
// where it was not asked.
func (s *Sidecar) deliver(name string, m chain.Message, toApp bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	toApp = toApp && s.app != nil && !(s.app.hello.SkipOwn && m.From == s.app.self)
	if !toApp && len(s.readers) == 0 {
		return
	}
	msg := Message{Topic: name, ID: hex.EncodeToString([]byte(m.ID)), From: m.From, Data: m.Data}
	if toApp {
		s.app.give(msg)
	}
	for r := range s.readers {
		if r.takes(name) {
			r.give(msg)
		}
	}
}

// messageID is a message's id as gossip has it.
func (s *Sidecar) messageID(topic string, data []byte) string {
	id := wire.MessageID(wire.TopicName(s.id.Net, topic), data)
	return hex.EncodeToString(id[:])
}

// Publish is Send, and returns the message's id, which costs a hash.
func (s *Sidecar) Publish(ctx context.Context, name string, data []byte) (string, error) {
	if err := s.Send(ctx, name, data); err != nil {
		return "", err
	}
	return s.messageID(name, data), nil
}

// Send sends data to all. It is not validated here: who publishes answers for
// it, and the peers judge it. It returns ErrNoTopic, a *SizeError, or
// chain.ErrBusy when queues are full, that of the own program too, or
// chain.ErrCut.
func (s *Sidecar) Send(ctx context.Context, name string, data []byte) error {
	services, err := s.sends(name, data)
	if err != nil {
		return err
	}
	return services.Publish(ctx, name, data)
}

// SendAll is Send for one message after the other, which cost less together. It
// sends all until one fails and tells how many were sent before that one.
func (s *Sidecar) SendAll(ctx context.Context, name string, list [][]byte) (n int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	services, err := s.sends(name, list[0])
	if err != nil {
		return 0, err
	}
	var bad error
	n, err = services.PublishAll(ctx, name, func(yield func([]byte) bool) {
		for _, data := range list {
			if _, bad = s.sends(name, data); bad != nil || !yield(data) {
				return
			}
		}
	})
	return n, cmp.Or(err, bad)
}

// sends tells whether data may be sent now.
func (s *Sidecar) sends(name string, data []byte) (chain.Services, error) {
	s.mu.Lock()
	services := s.services
	t, ok := s.topics[name]
	room := s.app == nil || s.app.queue.room(ours, Message{Data: data}.size())
	s.mu.Unlock()
	switch {
	case services == nil:
		return nil, ErrStopped
	case !ok:
		return nil, fmt.Errorf("topic %q: %w: declare it in Hello or sidecar.topics", cut(name), ErrNoTopic)
	case len(data) == 0:
		return nil, badInput("a message without data: give at least one byte")
	case len(data) > t.max:
		return nil, &SizeError{fmt.Sprintf("a message of %d bytes: topic %q takes at most %d: %s", len(data), name, t.max, config.SidecarLonger)}
	}
	if !room {
		return nil, fmt.Errorf("the program does not read what it has published: %w", chain.ErrBusy)
	}
	return services, nil
}
