package discovery

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	turn       = 2 * time.Second // until the next source is asked too: a slow or lying one holds up nobody
	askTimeout = time.Minute     // of one source in all
)

// Who told of nobody is asked again soon: nodes that are started together are
// not all up at once. The phases are those of a static peer.
const (
	eagerFor   = 5 * time.Second
	eagerEvery = time.Second
	fastFor    = 2 * time.Minute
	fastEvery  = 5 * time.Second
	slowEvery  = 30 * time.Second // while nobody is connected; else a Need does it
)

// source is something that can be asked for peers. Its fields belong to the
// goroutine of askSources, but for done.
type source struct {
	kind addrbook.Kind
	rest time.Duration // between two questions
	is   func() bool   // it can be asked by now; nil = always
	// ask counts those of whom the source consists that told of somebody, and
	// those that told of nobody. again asks the latter of the last time alone.
	ask func(ctx context.Context, again bool) (told, silent int)

	owed   bool // a question, since the start or the last Need
	begun  time.Time
	last   time.Time
	retry  time.Duration // after last, where somebody was silent
	done   chan struct{} // closed when the last question is answered; nil = never asked
	told   int           // once done is closed, as is silent
	silent int
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

// pace is how long after a question of now the silent ones are asked again,
// ± 20 %.
func (s *source) pace(now time.Time) time.Duration {
	every := slowEvery
	switch age := now.Sub(s.begun); {
	case age < eagerFor:
		every = eagerEvery
	case age < fastFor:
		every = fastEvery
	}
	return every*8/10 + rand.N(every*4/10)
}

// insists reports whether the silent ones of s are asked again without a Need:
// each of them in the eager phase, and all together as long as nobody else
// told of anybody either.
func (d *Discovery) insists(s *source, now time.Time) bool {
	if s.done == nil || s.silent == 0 {
		return false
	}
	age := now.Sub(s.begun)
	return age < eagerFor || s.told == 0 && (age < fastFor || len(d.host.Network().Peers()) == 0)
}

func (d *Discovery) sources() []*source {
	list := []*source{{
		kind: addrbook.Bootstrap, rest: 30 * time.Second,
		is:  func() bool { return d.Bootstraps() > 0 },
		ask: d.askBootstrap,
	}}
	if len(d.cfg.DNS) > 0 {
		list = append(list, &source{kind: addrbook.DNS, rest: 30 * time.Second, ask: d.askDNS})
	}
	if d.cfg.PEX {
		list = append(list, &source{
			kind: addrbook.PEX, rest: 10 * time.Second,
			is: func() bool { _, x := d.parts(); return x != nil },
			ask: func(ctx context.Context, _ bool) (int, int) {
				_, x := d.parts()
				x.askSome(ctx)
				return 0, 0 // it asks who is connected: there is nobody to insist on
			},
		})
	}
	if d.cfg.DHT != config.DHTOff {
		list = append(list, &source{
			kind: addrbook.DHT, rest: 20 * time.Second,
			is: func() bool { k, _ := d.parts(); return k != nil },
			ask: func(ctx context.Context, _ bool) (int, int) {
				k, _ := d.parts()
				k.seek(ctx)
				return 0, 0
			},
		})
	}
	return list
}

// askSources asks each source once at the start, and again at each Need: in
// turns, another one first each time. Who rests is asked when it has rested, and
// who was silent soon.
func (d *Discovery) askSources(ctx context.Context) { d.askThese(ctx, d.sources()) }

func (d *Discovery) askThese(ctx context.Context, list []*source) {
	var wg sync.WaitGroup
	defer wg.Wait()
	owe(list)
	started := d.started
	answered := make(chan struct{}, 1)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for first := 0; ; first++ {
		select {
		case <-ctx.Done():
			return
		case <-retry.C: // the start, or somebody has rested
		case <-answered:
		case <-started: // now there is a network to ask for
			started = nil
			for _, s := range list {
				s.last, s.begun = time.Time{}, time.Time{}
			}
			owe(list)
		case <-d.need:
			owe(list)
		}
		if wait := d.askAll(ctx, &wg, list, first, answered); wait > 0 {
			retry.Reset(wait)
		}
	}
}

func owe(list []*source) {
	for _, s := range list {
		s.owed = true
	}
}

// askAll asks all whom a question is owed and who can be asked, and again those
// who were silent. It returns how long the first of those rests who cannot be
// asked yet, 0 = nobody does.
func (d *Discovery) askAll(ctx context.Context, wg *sync.WaitGroup, list []*source, first int, answered chan struct{}) (wait time.Duration) {
	for i := range list {
		s := list[(first+i)%len(list)]
		if s.is != nil && !s.is() {
			continue
		}
		if s.busy() {
			s.owed = false // its answer is to come
			continue
		}
		now := time.Now()
		left := time.Duration(-1)
		if s.owed {
			left = s.last.Add(s.rest).Sub(now)
		}
		again := d.insists(s, now)
		if sooner := s.last.Add(s.retry).Sub(now); again && (!s.owed || sooner < left) {
			left = sooner
		} else {
			again = false
		}
		switch {
		case !s.owed && !again:
			continue
		case !s.last.IsZero() && left > 0:
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		if s.begun.IsZero() {
			s.begun = now
		}
		s.owed, s.last, s.retry, s.done = s.owed && again, now, s.pace(now), make(chan struct{})
		done := s.done
		wg.Go(func() {
			defer func() {
				close(done)
				select {
				case answered <- struct{}{}:
				default:
				}
			}()
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			s.told, s.silent = s.ask(ctx, again)
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
