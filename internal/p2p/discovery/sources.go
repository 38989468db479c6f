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
	ask  func(ctx context.Context)

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
		list = append(list, &source{kind: addrbook.PEX, rest: 10 * time.Second, ask: func(ctx context.Context) {
			if _, x := d.parts(); x != nil {
				x.askSome(ctx)
			}
		}})
	}
	if d.cfg.DHT != config.DHTOff {
		list = append(list, &source{kind: addrbook.DHT, rest: 20 * time.Second, ask: func(ctx context.Context) {
			if k, _ := d.parts(); k != nil {
				k.seek(ctx)
			}
		}})
	}
	return list
}

// askSources asks each source once at the start, and again at each Need: in
// turns, another one first each time.
func (d *Discovery) askSources(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	list := d.sources()
	started := d.started
	for first := 0; ; first++ {
		d.askAll(ctx, &wg, list, first)
		select {
		case <-ctx.Done():
			return
		case <-started: // now they can be asked who need the network's name
			started = nil
		case <-d.need:
		}
	}
}

func (d *Discovery) askAll(ctx context.Context, wg *sync.WaitGroup, list []*source, first int) {
	for i := range list {
		s := list[(first+i)%len(list)]
		if s.busy() || !s.last.IsZero() && time.Since(s.last) < s.rest {
			continue
		}
		s.last, s.done = time.Now(), make(chan struct{})
		done := s.done
		wg.Go(func() {
			defer close(done)
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			s.ask(ctx)
		})
		select {
		case <-ctx.Done():
			return
		case <-done:
		case <-time.After(turn):
		}
	}
}
