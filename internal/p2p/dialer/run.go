package dialer

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// job is one attempt of a slot, or a look at a name where slot is nil.
type job struct {
	item *item
	slot *slot
}

// tellStart says whom the node waits for: an attempt fails only when the last of
// the peer's addresses has, which takes seconds by QUIC.
func (d *Dialer) tellStart() {
	const most = 5
	var items []string
	for _, s := range d.Static() {
		items = append(items, s.Item)
	}
	if len(items) > 0 {
		d.log.Info("static peers are dialled", "peers", len(items), "items", items[:min(most, len(items))])
	}
}

// Run tries and keeps the peers until ctx ends. Connections stay open.
func (d *Dialer) Run(ctx context.Context) error {
	sub := d.bus.Subscribe()
	defer sub.Close()
	d.recheck(time.Now())
	d.tellStart()
	var wg sync.WaitGroup
	defer wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-d.wake:
		case <-sub.Wake():
			d.hear(sub)
		}
		d.mu.Lock()
		due, wake := d.step(time.Now())
		d.metrics.set(d.counts())
		d.mu.Unlock()
		for _, j := range due {
			wg.Go(func() {
				d.do(ctx, j)
				d.changed()
			})
		}
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
	}
}

// step picks what is due, marks it busy and says when it wants to be called
// next; zero = when something changes. mu held.
func (d *Dialer) step(now time.Time) (due []job, wake time.Time) {
	soonest := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	running := d.running()
	first := map[peer.ID]bool{}
	for _, it := range d.items {
		trying := false
		for _, s := range it.slots {
			double := s.id != "" && first[s.id]
			if s.id != "" && (s.retry.state == Connected || s.retry.state == Trying) {
				first[s.id] = true
			}
			trying = trying || s.busy || !s.retry.next.IsZero()
			if s.busy || s.retry.next.IsZero() {
				continue
			}
			if double && !now.Before(s.retry.next) {
				s.retry.next = now.Add(doubleWait) // the first one is at it
			}
			switch {
			case now.Before(s.retry.next):
				soonest(s.retry.next)
			case running < maxAttempts: // else the end of an attempt wakes us
				s.busy = true
				running++
				due = append(due, job{it, s})
			}
		}
		if trying || it.busy || !it.named() {
			continue
		}
		switch {
		case now.Before(it.lookAt):
			soonest(it.lookAt)
		case running < maxAttempts:
			it.busy = true
			running++
			due = append(due, job{it, nil})
		}
	}
	return due, wake
}

func (d *Dialer) running() int { // mu held
	n := 0
	for _, it := range d.items {
		if it.busy {
			n++
		}
		for _, s := range it.slots {
			if s.busy {
				n++
			}
		}
	}
	return n
}

// hear takes peers that came or went by themselves. Where events were lost it
// looks at all of them.
func (d *Dialer) hear(sub *event.Subscription) {
	envelopes, lost := sub.Take(256)
	now := time.Now()
	if lost > 0 {
		d.recheck(now)
	}
	for _, e := range envelopes {
		switch v := e.Data.(type) {
		case event.PeerReady:
			d.each(v.Peer, func(s *slot) func() {
				if s.retry.state == Connected || s.retry.state == self {
					return nil
				}
				return d.rose(s, now)
			})
		case event.PeerDisconnected:
			if d.connected(v.Peer) {
				continue
			}
			d.mu.Lock()
			if dialling := d.hand[v.Peer]; !dialling {
				delete(d.hand, v.Peer)
			}
			d.mu.Unlock()
			d.each(v.Peer, func(s *slot) func() {
				if s.retry.state != Connected {
					return nil
				}
				return d.fell(s, now, v.Goodbye)
			})
		}
	}
}

// recheck compares every slot with the connections as they are.
func (d *Dialer) recheck(now time.Time) {
	d.mu.Lock()
	ids := slotIDs(d.items)
	maps.DeleteFunc(d.hand, func(p peer.ID, dialling bool) bool { return !dialling && !d.connected(p) })
	d.mu.Unlock()
	for _, p := range ids {
		up := d.connected(p)
		d.each(p, func(s *slot) func() {
			switch {
			case !up && s.retry.state == Connected:
				return d.fell(s, now, 0)
			case up && s.retry.state == Trying:
				s.retry.next = now // the attempt finds it connected
			}
			return nil
		})
	}
}

func (d *Dialer) connected(p peer.ID) bool {
	return d.host.Network().Connectedness(p) == network.Connected
}

// each calls f under the lock for each slot of p, and what f returns after it.
func (d *Dialer) each(p peer.ID, f func(*slot) func()) {
	var tell []func()
	d.mu.Lock()
	for _, it := range d.items {
		for _, s := range it.slots {
			if s.id == p {
				tell = append(tell, f(s))
			}
		}
	}
	d.mu.Unlock()
	for _, f := range slices.DeleteFunc(tell, func(f func()) bool { return f == nil }) {
		f()
	}
}

// rose notes that a slot's peer is ready; the function it returns tells so. mu
// held.
func (d *Dialer) rose(s *slot, now time.Time) func() {
	s.retry.up(now)
	s.lastErr, s.wholeErr, s.warned, s.bannedAt = "", "", "", time.Time{}
	e := d.changeOf(s)
	double := d.isDouble(s)
	return func() {
		if !double {
			d.log.Info("static peer connected", "item", e.Item, "peer", e.ID)
			d.bus.Publish(e)
		}
	}
}

// fell notes that a slot's peer is gone, with that goodbye; 0 = without one. mu
// held.
func (d *Dialer) fell(s *slot, now time.Time, goodbye uint64) func() {
	lasted := now.Sub(s.retry.upAt)
	s.retry.down(now, classOfGoodbye(goodbye))
	s.lastErr = wordsOfGoodbye(goodbye)
	log, why := d.log.Info, s.lastErr
	if goodbye == wire.GoodbyeBanned {
		log, s.bannedAt = d.log.Warn, now
	}
	e := d.changeOf(s)
	double := d.isDouble(s)
	return func() {
		if !double {
			log("static peer lost", "item", e.Item, "peer", e.ID, "class", e.Class, "why", why, "after", lasted, "next", e.NextAt)
			d.bus.Publish(e)
		}
	}
}

// isDouble reports whether an earlier slot is at the same peer. mu held.
func (d *Dialer) isDouble(s *slot) bool {
	return s.id != "" && !slices.Contains(d.shown(), s)
}

func (d *Dialer) changeOf(s *slot) event.StaticPeerChanged { // mu held
	e := event.StaticPeerChanged{Item: s.item.text, ID: s.id, State: string(s.retry.state), Class: string(s.retry.class)}
	if at := s.retry.next; !at.IsZero() {
		e.NextAt = &at
	}
	return e
}
