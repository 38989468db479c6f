package chainsync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

const (
	headEvery    = 2 * time.Second        // ± a quarter: an idle node asks somebody for its head
	lookEvery    = 100 * time.Millisecond // while there is work: rests and late pieces come due
	eventsAtOnce = 1024
)

// session is one Follow or CatchUp: a loop that owns all of it, and requests
// in goroutines of their own that post what they found back to the loop.
type session struct {
	*Syncer
	once    bool // CatchUp: end when nobody shows more
	post    chan func()
	wg      sync.WaitGroup
	sources map[peer.ID]*source
	window  window

	headers  bool // a request for headers is out
	asking   int  // requests for heads that are out
	early    int  // hints whose records are being asked for
	nextHead time.Time
	starved  bool // there are headers, and nobody that we know of to ask for their bodies
	allHeads time.Time
	stored   int  // blocks stored in this round of CatchUp
	rate     rate // of blocks stored
	failed   error
}

// work runs a session until ctx ends, it fails, or, with once, it is done.
func (y *Syncer) work(ctx context.Context, once bool) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{Syncer: y, once: once, post: make(chan func()), sources: map[peer.ID]*source{}}
	s.window.reset(y.ledger.Tip().Head.Height)
	defer s.wg.Wait()
	defer cancel()
	err := s.loop(ctx)
	if errors.Is(err, ledger.ErrFork) {
		y.noteFork(err) // for AwaitFork: CatchUp's caller may go on
	}
	return err
}

func (s *session) loop(ctx context.Context) error {
	sub := s.bus.Subscribe()
	defer sub.Close()
	look := time.NewTimer(0)
	defer look.Stop()
	s.refresh()
	for {
		if done, err := s.step(ctx); done || err != nil {
			return err
		}
		if s.window.has(s.ledger.Tip().Head.Height + 1) { // a block can be appended: only look who else is there
			select {
			case f := <-s.post:
				f()
			case <-sub.Wake():
				s.news(sub)
			default:
			}
			continue
		}
		look.Reset(s.idleFor())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-s.post:
			f()
		case <-s.wake:
		case <-sub.Wake():
			s.news(sub)
		case <-look.C:
			s.refresh()
		}
	}
}

// news looks whether peers came or went.
func (s *session) news(sub *event.Subscription) {
	events, lost := sub.Take(eventsAtOnce)
	for _, e := range events {
		switch e.Data.(type) {
		case event.PeerReady, event.PeerDisconnected:
			lost++
		}
	}
	if lost > 0 {
		s.refresh()
	}
}

// idleFor is how long nothing is due by the clock.
func (s *session) idleFor() time.Duration {
	if s.window.busy() || s.asking > 0 || s.headers || s.target() > s.ledger.Tip().Head.Height {
		return lookEvery
	}
	return max(time.Until(s.nextHead), time.Millisecond)
}

// step does all that can be done now: it appends one block at most, so that
// the loop never leaves its peers waiting for long.
func (s *session) step(ctx context.Context) (done bool, err error) {
	if err := errors.Join(ctx.Err(), s.failed, s.forked()); err != nil {
		return false, err
	}
	s.heed()
	top, open, err := s.run.top(s.ledger.Tip())
	if err != nil {
		return false, fmt.Errorf("sync: %w", err)
	}
	if open {
		s.askHeaders(ctx, top)
	}
	s.askBodies(ctx)
	s.askEarly(ctx)
	if err := s.appendNext(); err != nil {
		return false, err
	}
	s.askHeads(ctx)
	s.setState(s.answered(), s.target(), s.rate.speed(time.Now()))
	return s.once && s.finished(), nil
}

// spawn makes a request in its own goroutine; f returns what the loop does
// with its outcome.
func (s *session) spawn(ctx context.Context, f func() func()) {
	s.wg.Go(func() {
		outcome := f()
		select {
		case s.post <- outcome:
		case <-ctx.Done():
		}
	})
}

// refresh reads who is there.
func (s *session) refresh() {
	now := map[peer.ID]bool{}
	for _, p := range s.peers.Peers() {
		if p.Genesis != s.genesis && (s.once || !p.Genesis.IsZero()) {
			continue // who had no chain when we met may have ours now, but that is not worth waiting for
		}
		now[p.ID] = true
		if s.sources[p.ID] == nil {
			s.sources[p.ID] = &source{id: p.ID}
		}
	}
	for id := range s.sources {
		if !now[id] {
			delete(s.sources, id) // its requests end by themselves
		}
	}
}

// heed takes what announcements told. An announcer of something out of reach
// is asked at once for its head, which is what counts.
func (s *session) heed() {
	hints := s.takeHints()
	if len(hints) == 0 {
		return
	}
	tip := s.ledger.Tip()
	for id, height := range hints {
		src := s.sources[id]
		if src == nil {
			s.refresh()
			if src = s.sources[id]; src == nil {
				continue
			}
		}
		src.has = max(src.has, height)
		if _, ok := s.run.at(tip, height); !ok && height > tip.Head.Height {
			src.asked = false
		}
	}
}

// answered reports whether anybody that is there told us of its head.
func (s *session) answered() bool {
	for _, src := range s.sources {
		if src.answered {
			return true
		}
	}
	return false
}

// target is the highest block that certificates prove to exist.
func (s *session) target() uint64 {
	top, _, _ := s.run.top(s.ledger.Tip())
	target := top.Head.Height
	for _, src := range s.sources {
		if src.proven {
			target = max(target, src.head)
		}
	}
	return target
}

// askHeads asks each new peer for its head, and one of the others every now
// and then.
func (s *session) askHeads(ctx context.Context) {
	now := time.Now()
	if s.starved && now.Sub(s.allHeads) >= lateAfter {
		s.allHeads = now
		for _, src := range s.sources {
			src.asked = false
		}
	}
	if !s.once && !now.Before(s.nextHead) {
		s.nextHead = now.Add(headEvery*3/4 + rand.N(headEvery/2))
		var next *source
		for _, src := range s.sources { // whose turn it is: a map's own order is not fair
			if src.talk.ready(now) && (next == nil || src.askedAt.Before(next.askedAt)) {
				next = src
			}
		}
		if next != nil {
			next.asked = false
		}
	}
	for _, src := range s.sources {
		if s.asking >= maxHeadAsks {
			return
		}
		if src.asked || src.asking || !src.talk.ready(now) {
			continue
		}
		src.asked, src.asking, src.askedAt = true, true, now
		s.asking++
		id := src.id
		s.spawn(ctx, func() func() {
			head, took, err := s.fetchHead(ctx, id)
			return func() { s.onHead(src, head, took, err) }
		})
	}
}

func (s *session) onHead(src *source, head *sealed, took timing, err error) {
	src.asking = false
	s.asking--
	if err == nil && head != nil {
		err = s.judgeHead(src, *head)
	}
	if err != nil {
		s.blame(src, &src.talk, err)
		src.asked = errors.As(err, new(*silence)) // a silent one keeps CatchUp waiting once
		return
	}
	src.answered = true
	src.talk.good()
	src.measure(took)
}

// judgeHead believes a head as far as its certificate goes.
func (s *session) judgeHead(src *source, head sealed) error {
	h := head.header
	at := chain.Head{Height: h.Height, Hash: head.header.Hash()}
	if h.Genesis != s.genesis || h.Height == 0 {
		return chain.Invalid(chain.ForgedBlock, "head: block %d of genesis %s, our chain's is %s", h.Height, h.Genesis, s.genesis)
	}
	tip := s.ledger.Tip()
	if h.Height <= tip.Head.Height {
		if ours, ok := s.ledger.HeightOf(at.Hash); !ok || ours != h.Height {
			return s.other(head)
		}
		src.head, src.proven, src.has = h.Height, true, max(src.has, h.Height)
		s.peers.Validated(src.id, at)
		return nil
	}
	top, _, err := s.run.top(tip)
	if err != nil {
		return err
	}
	set, known := top.Set, top.Set.Hash() == h.Set
	if l, ok := s.run.at(tip, h.Height); ok {
		if l.hash != at.Hash {
			return s.ahead(l, src.id, head)
		}
		set, known = l.prev.Set, true
	}
	src.head, src.proven, src.has = h.Height, known, max(src.has, h.Height)
	if !known {
		return nil // to be seen when we get there
	}
	if err := head.cert.Verify(h, set); err != nil {
		src.head, src.proven = 0, false
		return chain.Invalid(chain.ForgedBlock, "head: %v", err)
	}
	s.peers.Validated(src.id, at)
	return nil
}

// askHeaders asks one peer for the headers that follow top.
func (s *session) askHeaders(ctx context.Context, top ledger.Tip) {
	if s.headers {
		return
	}
	now := time.Now()
	var best *source
	for _, src := range s.sources {
		if src.head <= top.Head.Height || !src.talk.ready(now) {
			continue
		}
		if best == nil || src.talk.failures < best.talk.failures || src.talk.failures == best.talk.failures && src.head > best.head {
			best = src
		}
	}
	if best == nil {
		return
	}
	s.headers = true
	count := int(min(best.head-top.Head.Height, maxHeaders))
	limit := best.limit(int64(count) << 10)
	sure := top.Head == s.ledger.Tip().Head
	s.spawn(ctx, func() func() {
		headers, took, err := s.fetchHeaders(ctx, best.id, top.Head.Height+1, count, limit)
		links, closed, bad := verify(top, sure, headers, best.id)
		if bad != nil {
			err = bad
		}
		return func() { s.onHeaders(best, top, links, closed, took, err) }
	})
}

func (s *session) onHeaders(src *source, top ledger.Tip, links []link, closed bool, took timing, err error) {
	s.headers = false
	extended := s.run.extend(s.ledger.Tip(), top.Head.Hash, links, closed)
	if n := len(links); n > 0 {
		src.has = max(src.has, links[n-1].header.Height)
		if extended {
			s.log.Debug("headers verified", "peer", src.id, "from", links[0].header.Height, "count", n)
		}
	}
	switch {
	case err != nil:
		s.blame(src, &src.talk, err)
	case len(links) == 0 && !closed:
		// it showed a head above, and does not show what leads there
		why := chain.Useless
		if src.unmet++; src.unmet%falseClaims == 0 {
			why = chain.FalseClaim
		}
		s.peers.Report(src.id, why, fmt.Sprintf("no header above %d, its head is %d", top.Head.Height, src.head))
		src.head, src.proven = 0, false
		src.talk.failed(time.Now(), false)
	default:
		src.unmet = 0
		src.talk.good()
		src.measure(took)
	}
}

// blame charges a peer for what it did, and rests it by b. A fork is kept for the
// loop, which ends with it.
func (s *session) blame(src *source, b *backoff, err error) {
	var bad *chain.InvalidError
	var quiet *silence
	now := time.Now()
	switch {
	case errors.Is(err, ledger.ErrFork):
		s.failed = fmt.Errorf("sync: %w", err)
	case errors.Is(err, context.Canceled):
	case errors.As(err, &bad):
		s.log.Debug("peer served wrong bytes", "peer", src.id, "err", err)
		s.peers.Report(src.id, bad.Offence, "sync: "+bad.Detail)
		src.lied(now)
	case errors.As(err, &quiet):
		s.log.Debug("peer is silent", "peer", src.id, "err", err)
		s.peers.Report(src.id, quiet.Offence(), "sync: "+quiet.Error())
		b.failed(now, true)
	default:
		s.log.Debug("request failed", "peer", src.id, "err", err)
		b.failed(now, false)
	}
}

// appendNext appends the block above the tip, if its body is here.
func (s *session) appendNext() error {
	tip := s.ledger.Tip()
	s.window.pass(tip.Head.Height)
	height := tip.Head.Height + 1
	b, ok := s.window.take(height)
	if !ok {
		return nil
	}
	l, ok := s.run.at(tip, height)
	if !ok {
		return nil
	}
	source := "sync"
	if l.gossip {
		source = "gossip"
	}
	err := s.ledger.AppendPrepared(b.body, source, b.from)
	var bad *chain.InvalidError
	switch {
	case errors.Is(err, chain.ErrKnown):
	case errors.As(err, &bad):
		return fmt.Errorf("block %d has a certificate and a body that fits it, but breaks our rules: %w: compare the versions of this node and of the validators", height, err)
	case err != nil:
		return fmt.Errorf("sync: %w", err)
	default:
		s.tracedStored(height)
		s.stored++
		s.rate.add(time.Now(), int64(l.header.BodyBytes))
		s.metrics.blocks.WithLabelValues(resultStored).Inc()
	}
	s.window.pass(height)
	return nil
}

// finished reports that every peer was asked and none shows more than we have.
// Who failed is waited for while a further try is near. After blocks were
// stored all are asked once more.
func (s *session) finished() bool {
	tip := s.ledger.Tip().Head.Height
	soon := time.Now().Add(patience)
	for _, src := range s.sources {
		if src.asking || (!src.asked || src.head > tip) && src.talk.ready(soon) {
			return false
		}
	}
	if s.headers || len(s.window.out) > 0 || s.window.has(tip+1) {
		return false
	}
	if s.stored > 0 {
		s.stored = 0
		for _, src := range s.sources {
			src.asked = false
		}
		return len(s.sources) == 0
	}
	return true
}
