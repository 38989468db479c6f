package sidecar

import (
	"context"
	"fmt"
	"slices"

	"github.com/parley-p2p/parley/chain"
)

const maxReaders = 64

// Reader reads accepted messages without judging them.
type Reader struct {
	s      *Sidecar
	topics []string       // empty = all
	queue  queue[Message] // guarded by s.mu
}

// Subscribe reads the messages of topics from now on, of all where none is
// named. A topic may be served later. The caller MUST Close it.
func (s *Sidecar) Subscribe(topics []string) (*Reader, error) {
	if len(topics) > maxNames {
		return nil, badInput("%d topics: at most %d", len(topics), maxNames)
	}
	r := &Reader{s: s, topics: slices.Clone(topics), queue: newQueue[Message]()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services == nil {
		return nil, ErrStopped
	}
	if len(s.readers) >= maxReaders {
		return nil, fmt.Errorf("%d readers: %w", maxReaders, chain.ErrBusy)
	}
	s.readers[r] = struct{}{}
	return r, nil
}

func (r *Reader) takes(topic string) bool {
	return len(r.topics) == 0 || slices.Contains(r.topics, topic)
}

// give is called under s.mu.
func (r *Reader) give(m Message) {
	if !r.queue.push(messages, m) {
		r.end(ErrSlow)
	}
}

// end is called under s.mu.
func (r *Reader) end(err error) {
	r.queue.finish(err)
	delete(r.s.readers, r)
}

// Next waits for the next message. It returns why the reading has ended:
// ErrSlow, ErrStopped or ErrClosed.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	for {
		r.s.mu.Lock()
		m, ok := r.queue.pop()
		err := r.queue.err
		r.s.mu.Unlock()
		switch {
		case ok:
			return m, nil
		case err != nil:
			return Message{}, err
		}
		select {
		case <-r.queue.wake:
		case <-r.queue.over:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
	}
}

// Close ends the reading.
func (r *Reader) Close() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.end(ErrClosed)
}
