package discovery

import (
	"context"
	"sync"
	"time"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	turn       = 2 * time.Second // until the next source is asked too: a slow or lying one holds up nobody
	askTimeout = time.Minute     // of one source in all
)

// source is something that can be asked for peers. Its fields belong to the
// goroutine of askSources, but for done.
type source struct {
	kind addrbook.Kind
	rest time.Duration // between two questions
	is   func() bool   // it can be asked by now; nil = always
	ask  func(ctx context.Context)

	owed bool // a question, since the start or the last Need
	last time.Time
	done chan struct{} // closed when the last question is answered; nil = never asked
}

func (s *source) busy() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (d *Discovery) sources() []*source {
	var list []*source
	if len(d.items) > 0 {
		list = append(list, &source{kind: addrbook.Bootstrap, rest: 30 * time.Second, ask: d.askBootstrap})
	}
	if len(d.cfg.DNS) > 0 {
		list = append(list, &source{kind: addrbook.DNS, rest: 30 * time.Second, ask: d.askDNS})
	}
	if d.cfg.PEX {
		list = append(list, &source{
			kind: addrbook.PEX, rest: 10 * time.Second,
			is:  func() bool { _, x := d.parts(); return x != nil },
			ask: func(ctx context.Context) { _, x := d.parts(); x.askSome(ctx) },
		})
	}
	if d.cfg.DHT != config.DHTOff {
		list = append(list, &source{
			kind: addrbook.DHT, rest: 20 * time.Second,
			is:  func() bool { k, _ := d.parts(); return k != nil },
			ask: func(ctx context.Context) { k, _ := d.parts(); k.seek(ctx) },
		})
	}
	return list
}

// askSources asks each source once at the start, and again at each Need: in
// turns, another one first each time. Who rests is asked when it has rested.
func (d *Discovery) askSources(ctx context.Context) { d.askThese(ctx, d.sources()) }

func (d *Discovery) askThese(ctx context.Context, list []*source) {
	var wg sync.WaitGroup
	defer wg.Wait()
	owe(list)
	started := d.started
	retry := time.NewTimer(0)
	defer retry.Stop()
	for first := 0; ; first++ {
		select {
		case <-ctx.Done():
			return
		case <-retry.C: // the start, or somebody has rested
		case <-started: // now there is a network to ask for
			started = nil
			for _, s := range list {
				s.last = time.Time{}
			}
			owe(list)
		case <-d.need:
			owe(list)
		}
		if wait := d.askAll(ctx, &wg, list, first); wait > 0 {
			retry.Reset(wait)
		}
	}
}

func owe(list []*source) {
	for _, s := range list {
		s.owed = true
	}
}

// askAll asks all whom a question is owed and who can be asked. It returns how
// long the first of those rests who cannot, 0 = nobody does.
func (d *Discovery) askAll(ctx context.Context, wg *sync.WaitGroup, list []*source, first int) (wait time.Duration) {
	for i := range list {
		s := list[(first+i)%len(list)]
		if !s.owed || s.is != nil && !s.is() {
			continue
		}
		if s.busy() {
			s.owed = false // its answer is to come
			continue
		}
		if left := s.rest - time.Since(s.last); !s.last.IsZero() && left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		s.owed, s.last, s.done = false, time.Now(), make(chan struct{})
		done := s.done
		wg.Go(func() {
			defer close(done)
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			s.ask(ctx)
		})
		select {
		case <-ctx.Done():
			return 0
		case <-done:
		case <-time.After(turn):
		}
	}
	return wait
}
