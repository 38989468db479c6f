package reputation

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

const (
	maxDue       = 1024
	longestBan   = 7 * 24 * time.Hour // of an automatic ban that is repeated
	brakeAt      = 3                  // outbound peers at the threshold …
	brakeWithin  = 10 * time.Minute   // … within
	brakeFor     = 10 * time.Minute   // then nobody is banned automatically
	strikesForIP = 5                  // banned peers of one address …
	strikeWithin = 24 * time.Hour     // … within, ban the address as long
	maxStruck    = 10_000             // addresses
	pauseFirst   = time.Minute        // of an exempt peer; it doubles
	pauseMost    = 10 * time.Minute
	stormAt      = 20 // automatic bans …
	stormWithin  = 10 * time.Minute
	lookEvery    = time.Minute // for alarms that are over
)

// Facts are what is known of a peer where it is connected.
type Facts struct {
	// Addr is where it is. Not valid = unknown, or through a relay, or not to
	// be banned: of a static or trusted peer.
	Addr netip.Addr
	// Outbound is set where we chose it.
	Outbound bool
}

// Facts sets who knows the facts of connected peers. f MUST be quick.
func (b *Book) Facts(f func(peer.ID) Facts) { b.facts.Store(&f) }

func (b *Book) factsOf(p peer.ID) Facts {
	if f := b.facts.Load(); f != nil {
		return (*f)(p)
	}
	return Facts{}
}

// pause keeps an exempt peer away for a while: the operator wants it, and is
// told. mu held.
func (e *entry) pause(now time.Time) {
	e.pausedTill = now.Add(min(pauseFirst<<min(e.pauses, 10), pauseMost))
	e.pauses++
}

// brake stops automatic bans where peers that we chose ourselves look bad one
// after the other: then likely we are wrong. Peers that came to us cannot press
// it.
type brake struct {
	hits  []time.Time // outbound peers at the threshold
	until time.Time
}

// press enters a peer at the threshold, and reports whether bans are off.
func (k *brake) press(outbound bool, now time.Time) (on, tripped bool) {
	was := now.Before(k.until)
	if outbound {
		for len(k.hits) > 0 && now.Sub(k.hits[0]) > brakeWithin {
			k.hits = k.hits[1:]
		}
		if k.hits = append(k.hits, now); len(k.hits) >= brakeAt {
			k.hits = k.hits[len(k.hits)-brakeAt:]
			k.until = now.Add(brakeFor)
		}
	}
	on = now.Before(k.until)
	return on, on && !was
}

// Doubtful reports whether the brake was on of late: what this node holds
// against others is likely its own fault. It is so until the points of then
// have run off.
func (b *Book) Doubtful() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	runOff := time.Duration(b.most()-b.watched) * time.Minute
	return !b.brake.until.IsZero() && time.Now().Before(b.brake.until.Add(runOff))
}

// strikes are when peers of an address were banned.
type strikes map[netip.Prefix][]time.Time

// add enters a strike on a, and reports whether its address has had enough.
func (s strikes) add(a netip.Addr, now time.Time) (netip.Prefix, bool) {
	a, bits := a.Unmap(), 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil || !a.IsValid() || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || shared.Contains(a) {
		return p, false
	}
	at := s[p]
	for len(at) > 0 && now.Sub(at[0]) > strikeWithin {
		at = at[1:]
	}
	if at = append(at, now); len(at) >= strikesForIP {
		delete(s, p)
		return p, true
	}
	if s[p] == nil && len(s) >= maxStruck {
		s.forget(now)
	}
	s[p] = at
	return p, false
}

// shared is the space of providers' address translation.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// forget makes room: of what is old, else of any.
func (s strikes) forget(now time.Time) {
	for p, at := range s {
		if now.Sub(at[len(at)-1]) > strikeWithin {
			delete(s, p)
		}
	}
	for p := range s {
		if len(s) < maxStruck {
			return
		}
		delete(s, p)
	}
}

// sentence is a peer that is to be banned.
type sentence struct {
	peer   peer.ID
	addr   netip.Addr
	reason chain.Offence
	note   string
}

// judge has p banned, unless the brake is on.
func (b *Book) judge(p peer.ID, o chain.Offence, detail string, now time.Time) {
	facts := b.factsOf(p)
	b.mu.Lock()
	braked, tripped := b.brake.press(facts.Outbound, now)
	b.mu.Unlock()
	if tripped && b.alarms != nil {
		b.alarms.Set("ban_brake", true, "three peers that this node chose look bad: no automatic bans for now, the fault may be its own",
			map[string]any{"peer": p, "reason": o})
	}
	if braked {
		b.unsentence(p)
		return
	}
	b.sentence(sentence{peer: p, addr: facts.Addr, reason: o, note: detail})
}

// warned discourages a peer that another node of the fleet banned by itself.
func (b *Book) warned(p peer.ID, why string) {
	now := time.Now()
	b.mu.Lock()
	e := b.get(p, now)
	added := b.add(e, max(0, b.discouraged-e.points), false, Reason{At: now.UTC(), Reason: chain.Manual, Detail: clean("banned by another node of the fleet: " + why)})
	e.discouraged = e.discouraged || added > 0
	total := e.points
	b.mu.Unlock()
	if added > 0 {
		b.publish(event.PeerDiscouraged{Peer: p, Points: total})
	}
}

// sentence hands s to Run. Where too many wait it stays discouraged.
func (b *Book) sentence(s sentence) {
	select {
	case b.due <- s:
	default:
		b.unsentence(s.peer)
		b.log.Warn("too many peers are to be banned at once: this one stays discouraged", "peer", s.peer)
	}
}

func (b *Book) unsentence(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.peers[p]; e != nil {
		e.sentenced = false
	}
}

// Run bans who passed the threshold, and saves the points, until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return b.save()
		case s := <-b.due:
			b.ban(ctx, s)
		case now := <-look.C:
			b.look(now)
		case <-save.C:
			if err := b.save(); err != nil {
				b.log.Warn("points of peers are not saved", "err", err)
			}
		}
	}
}

// ban carries a sentence out.
func (b *Book) ban(ctx context.Context, s sentence) {
	now := time.Now()
	offences := b.bans.list.offences(Target{Peer: s.peer}, now) + 1
	first := b.bans.duration()
	d := first
	for range offences - 1 {
		d = min(2*d, longestBan)
	}
	if offences > 1 {
		d = max(d, first) // which may be longer than the longest
	}
	if err := b.bans.auto(ctx, Target{Peer: s.peer}, s.reason, s.note, d, offences); err != nil {
		b.unsentence(s.peer)
		b.log.Error("a peer is not banned, and stays discouraged", "peer", s.peer, "err", err)
		return
	}
	b.mu.Lock()
	p, enough := b.strikes.add(s.addr, now)
	b.storm = append(b.storm, now)
	b.mu.Unlock()
	b.look(now)
	if !enough {
		return
	}
	t := Target{Prefix: p}
	if err := b.bans.auto(ctx, t, s.reason, "several banned peers came from it", strikeWithin, b.bans.list.offences(t, now)+1); err != nil {
		b.log.Warn("an address of several banned peers is not banned", "target", t, "err", err)
	}
}

// look raises and clears the alarms of bans.
func (b *Book) look(now time.Time) {
	b.mu.Lock()
	for len(b.storm) > 0 && (now.Sub(b.storm[0]) > stormWithin || len(b.storm) > 10*stormAt) {
		b.storm = b.storm[1:]
	}
	n, braked := len(b.storm), now.Before(b.brake.until)
	b.mu.Unlock()
	if b.alarms == nil {
		return
	}
	b.alarms.Set("ban_storm", n > stormAt, fmt.Sprintf("%d automatic bans in %v", n, stormWithin), map[string]any{"bans": n})
	if !braked {
		b.alarms.Set("ban_brake", false, "automatic bans are on again", nil)
	}
}

// banChanged follows the ban list: who is banned keeps its points, who no
// longer is begins anew.
func (b *Book) banChanged(t Target, banned bool) {
	if t.Peer == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.peers[t.Peer]
	switch {
	case e == nil:
	case banned:
		e.sentenced = true
	default:
		e.sentenced, e.discouraged, e.points, b.dirty = false, false, 0, true
	}
}
