package sidecar

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// wing is a small p2p wing: it serves in memory, and hands out streams.
type wing struct {
	dial func(p peer.ID, protocol string) (chain.Stream, error)

	mu        sync.Mutex // guards below
	topics    map[string]chain.Topic
	protocols map[string]chain.Protocol
	peers     []chain.Peer
	reports   []string
	sent      []string
	greeted   int
	fail      map[string]error // of Serve and Withdraw, by the name of a topic
}

var _ chain.Services = (*wing)(nil)

const self, other peer.ID = "self", "other"

func (w *wing) Self() peer.ID { return self }
func (w *wing) Serve(_ context.Context, topics []chain.Topic, protocols []chain.Protocol) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range topics {
		if _, ok := w.topics[t.Name]; ok {
			return errors.New(t.Name + " is served already")
		}
		if err := w.fail["serve "+t.Name]; err != nil {
			return err
		}
	}
	for _, t := range topics {
		w.topics[t.Name] = t
	}
	for _, p := range protocols {
		w.protocols[p.ID] = p
	}
	return nil
}

func (w *wing) Withdraw(topics, protocols []string) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range topics {
		if w.fail["withdraw "+t] == nil {
			delete(w.topics, t)
		}
		err = errors.Join(err, w.fail["withdraw "+t])
	}
	for _, p := range protocols {
		delete(w.protocols, p)
	}
	return err
}

func (w *wing) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *wing) Greet() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.greeted++
}

func (w *wing) Publish(ctx context.Context, topic string, data []byte) error {
	w.mu.Lock()
	t, ok := w.topics[topic]
	w.sent = append(w.sent, string(data))
	w.mu.Unlock()
	if !ok {
		return errors.New("not served")
	}
	return t.Validate(ctx, chain.Message{From: self, Data: data, ID: idOf(topic, string(data))})
}

func (w *wing) PublishAll(ctx context.Context, topic string, all iter.Seq[[]byte]) (n int, err error) {
	for data := range all {
		if err := w.Publish(ctx, topic, data); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (w *wing) Open(_ context.Context, p peer.ID, protocol string) (chain.Stream, error) {
	if w.dial == nil {
		return nil, errors.New("not a ready peer")
	}
	return w.dial(p, protocol)
}

func (w *wing) Peers() []chain.Peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.peers)
}
func (w *wing) Keep([]peer.AddrInfo)          {}
func (w *wing) Validated(peer.ID, chain.Head) {}
func (w *wing) Credit(peer.ID, chain.Credit)  {}
func (w *wing) Report(p peer.ID, o chain.Offence, _ string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports = append(w.reports, string(p)+" "+string(o))
}

// idOf is a message's id as gossip has it.
func idOf(topic, data string) string {
	id := wire.MessageID(wire.TopicName(NetOf("main"), topic), []byte(data))
	return string(id[:])
}

// deliver hands a message of a peer to a topic.
func (w *wing) deliver(ctx context.Context, topic, data string) error {
	return w.deliverOf(ctx, other, topic, data)
}

func (w *wing) deliverOf(ctx context.Context, from peer.ID, topic, data string) error {
	w.mu.Lock()
	t := w.topics[topic]
	w.mu.Unlock()
	return t.Validate(ctx, chain.Message{From: from, Data: []byte(data), ID: idOf(topic, data)})
}

// ask asks the program as p does. The answer comes from the connection; ended
// yields when it is over.
func (w *wing) ask(t *testing.T, p peer.ID) (_ net.Conn, ended chan error) {
	t.Helper()
	w.mu.Lock()
	handle := w.protocols["/parley/82bb8147/app/sync/1"].Handle
	w.mu.Unlock()
	ours, theirs := net.Pipe()
	ended = make(chan error, 1)
	go func() {
		ended <- handle(t.Context(), pipe{theirs, p})
		_ = theirs.Close() // a pipe: never fails
	}()
	if err := wire.WriteFrame(ours, wire.AppRequest{Data: []byte("all")}.Encode()); err != nil {
		t.Fatal(err)
	}
	return ours, ended
}

func (w *wing) serves() (topics []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.topics {
		topics = append(topics, name)
	}
	slices.Sort(topics)
	return topics
}

// pipe is a stream in memory.
type pipe struct {
	net.Conn
	peer peer.ID
}

func (p pipe) Peer() peer.ID   { return p.peer }
func (pipe) CloseWrite() error { return nil }
func (p pipe) Reset() error    { return p.Close() }

// room runs a sidecar over a wing until the test ends. It needs a bubble.
func room(t *testing.T, edit func(*config.Sidecar)) (*Sidecar, *wing) {
	t.Helper()
	c := config.Default().Sidecar
	if edit != nil {
		edit(&c)
	}
	s, err := New(Config{Sidecar: c, NetworkName: "main", Reserved: []string{"handshake"}}, event.NewBus(64), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &wing{topics: map[string]chain.Topic{}, protocols: map[string]chain.Protocol{}, fail: map[string]error{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, w
}

var txHello = Hello{API: APIVersion, Topics: []Topic{{Name: "tx", Validate: true}}, Protocols: []string{"sync"}}

func attach(t *testing.T, s *Sidecar, h Hello) *Session {
	t.Helper()
	x, err := s.Attach(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// next is what the program is told next; it fails where nothing comes.
func next[T ToApp](t *testing.T, x *Session) (v T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	item, err := x.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	v, ok := item.(T)
	if !ok {
		t.Fatalf("told %T %+v, want %T", item, item, v)
	}
	return v
}
