package chainsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	maxHeaders = wire.MaxSyncHeaders
	maxBuffer  = 64 << 20 // bytes of bodies asked for and not appended
	bodyCost   = 1 << 10  // bytes that a body counts beside its own
	recordCost = 384      // bytes that a decoded record counts beside its own
	maxAskers  = 3        // of one piece
	lateAfter  = 500 * time.Millisecond
)

// piece is a run of blocks whose bodies are asked for at once.
type piece struct {
	links       []link
	bytes       int64
	since       time.Time                      // of its last request
	askers      map[peer.ID]context.CancelFunc // whoever is asked for it now
	*completion                                // of a lone block that was announced, until it fails; else nil
}

func newPiece(links []link) *piece {
	p := &piece{links: links, askers: map[peer.ID]context.CancelFunc{}}
	for _, l := range links {
		p.bytes += cost(l)
	}
	return p
}

// cost is what a body takes of the buffer.
func cost(l link) int64 {
	return int64(l.header.BodyBytes) + bodyCost + recordCost*int64(l.header.Records)
}

func (p *piece) from() uint64 { return p.links[0].header.Height }

// arrived is a body that fits its header.
type arrived struct {
	body *ledger.Prepared
	from peer.ID
}

// window is the bodies between the tip and the last one asked for: each is
// here, asked for, or to be asked for again. Loop goroutine only.
type window struct {
	next   uint64 // first height that is in no piece yet
	passed uint64 // the tip
	cost   map[uint64]int64
	held   int64 // sum of cost
	bodies map[uint64]arrived
	todo   []*piece // given back, in order
	out    []*piece // asked for, in order
}

func (w *window) reset(tip uint64) {
	*w = window{next: tip + 1, passed: tip, cost: map[uint64]int64{}, bodies: map[uint64]arrived{}}
}

func (w *window) busy() bool { return len(w.todo) > 0 || len(w.out) > 0 || len(w.bodies) > 0 }

func (w *window) has(height uint64) bool { _, ok := w.bodies[height]; return ok }

func (w *window) take(height uint64) (arrived, bool) { b, ok := w.bodies[height]; return b, ok }

// pass frees what the ledger has.
func (w *window) pass(tip uint64) {
	for ; w.passed < tip; w.passed++ {
		h := w.passed + 1
		w.held -= w.cost[h]
		delete(w.cost, h)
		delete(w.bodies, h)
	}
	w.next = max(w.next, tip+1)
}

// cut makes the next piece out of verified headers, within the buffer. It is
// nil when there are none, or no room; the lowest piece always has room.
func (w *window) cut(r *run, target int64) *piece {
	links := r.between(w.next, wire.MaxSyncBodies)
	n, size := 0, int64(0)
	for _, l := range links {
		c := cost(l)
		if n > 0 && (size+c > target || l.subtrees != nil) || w.held > 0 && w.held+c > maxBuffer {
			break
		}
		n++
		size += c
		w.held += c
		w.cost[l.header.Height] = c
		w.next = l.header.Height + 1
	}
	if n == 0 {
		return nil
	}
	return newPiece(links[:n])
}

func byHeight(a, b *piece) int { return cmp.Compare(a.from(), b.from()) }

// done ends a piece; what is left of it waits to be asked for again.
func (w *window) done(p *piece, rest []link) {
	w.out = slices.DeleteFunc(w.out, func(o *piece) bool { return o == p })
	if len(rest) > 0 {
		w.todo = append(w.todo, newPiece(rest))
		slices.SortFunc(w.todo, byHeight)
	}
}

// askBodies gives work to whoever has room for it: pieces that came back,
// then new ones, then pieces of others that are late.
func (s *session) askBodies(ctx context.Context) {
	now := time.Now()
	s.starved = false
	s.hurry(ctx, now)
	for i := 0; i < len(s.window.todo); {
		p := s.window.todo[i]
		if src := s.choose(p.links[0], now, p); src != nil {
			s.window.todo = slices.Delete(s.window.todo, i, i+1)
			s.window.out = append(s.window.out, p)
			s.ask(ctx, src, p)
			continue
		}
		i++
	}
	for {
		next := s.run.between(s.window.next, 1)
		if len(next) == 0 {
			break
		}
		if s.completes(next[0]) {
			p := s.window.cut(&s.run, 0)
			if p == nil {
				break
			}
			s.window.out = append(s.window.out, p)
			s.complete(ctx, p)
			continue
		}
		src := s.choose(next[0], now, nil)
		if src == nil {
			return // nobody is idle
		}
		p := s.window.cut(&s.run, src.pieceBytes())
		if p == nil {
			break
		}
		s.window.out = append(s.window.out, p)
		s.ask(ctx, src, p)
	}
	s.askAgain(ctx, now)
}

// askAgain is the end-game: nothing is unasked, so idle peers race for what is
// late. The first answer wins.
func (s *session) askAgain(ctx context.Context, now time.Time) {
	if len(s.window.todo) > 0 {
		return
	}
	for askers := 1; askers < maxAskers; askers++ {
		for _, p := range s.window.out {
			if len(p.askers) != askers || now.Sub(p.since) < lateAfter {
				continue
			}
			if src := s.choose(p.links[0], now, p); src != nil {
				s.ask(ctx, src, p)
			}
		}
	}
}

// choose finds the peer to ask for a block: who announced it, else who has the
// least to do, else the fastest. p, if not nil, is the piece that is asked for
// again. nil means that nobody has room.
func (s *session) choose(l link, now time.Time, p *piece) *source {
	active := 0
	for _, src := range s.sources {
		if src.inFlight > 0 {
			active++
		}
	}
	var best *source
	held := false
	for _, src := range s.sources {
		held = held || src.has >= l.header.Height && src.load.ready(now) && (p == nil || p.askers[src.id] == nil)
		if src.has < l.header.Height || src.inFlight >= maxInFlight || !src.load.ready(now) || src.inFlight == 0 && active >= maxPeers {
			continue
		}
		if p != nil && p.askers[src.id] != nil {
			continue
		}
		if l.gossip && src.id == l.from {
			return src
		}
		if best == nil || src.inFlight < best.inFlight || src.inFlight == best.inFlight && src.speed > best.speed {
			best = src
		}
	}
	s.starved = s.starved || !held
	return best
}

func (s *session) ask(ctx context.Context, src *source, p *piece) {
	src.inFlight++
	actx, cancel := context.WithCancel(ctx)
	p.askers[src.id] = cancel
	p.since = time.Now()
	limit := src.limit(p.bytes)
	s.spawn(ctx, func() func() {
		bodies, took, err := s.fetchBodies(actx, src.id, p.links, limit)
		lost := actx.Err() != nil
		cancel()
		return func() { s.onBodies(src, p, bodies, took, err, lost) }
	})
}

// onBodies takes what a peer delivered; what it did not goes back to the queue
// unless another peer is at it. lost means that another one was faster.
func (s *session) onBodies(src *source, p *piece, bodies []*ledger.Prepared, took timing, err error, lost bool) {
	src.inFlight--
	delete(p.askers, src.id)
	s.keep(src, p, bodies)
	switch {
	case lost && took.bytes == 0:
		src.load.failed(time.Now(), false) // it may be charged another time, when nobody is faster
	case lost:
	case err != nil:
		if bad := (*chain.InvalidError)(nil); errors.As(err, &bad) {
			s.metrics.blocks.WithLabelValues(resultInvalid).Inc()
		}
		s.blame(src, &src.load, err)
	case len(bodies) == 0:
		s.onNoBodies(src, p.from())
	default:
		src.load.good()
		src.measure(took)
		s.credit(src, took.bytes)
	}
	if lost || !slices.Contains(s.window.out, p) {
		return
	}
	rest := p.links[len(bodies):]
	if len(rest) > 0 && len(bodies) > 0 && err == nil {
		src.lacks(rest[0].header.Height)
		src.asked = false
	}
	if len(rest) == 0 {
		for _, cancel := range p.askers {
			cancel()
		}
	} else if len(p.askers) > 0 {
		return
	}
	s.window.done(p, rest)
}

// onNoBodies judges an empty answer: of a peer that only relayed an
// announcement it is no fault, of one that showed the block as its own it is.
func (s *session) onNoBodies(src *source, height uint64) {
	src.lacks(height)
	if src.head >= height {
		s.peers.Report(src.id, chain.Useless, fmt.Sprintf("no body of block %d, its head is %d", height, src.head))
		src.head, src.proven = 0, false
	}
	src.load.failed(time.Now(), false)
	src.asked = false // where is it really?
}

// keep stores bodies that are new.
func (s *session) keep(src *source, p *piece, bodies []*ledger.Prepared) {
	tip := s.ledger.Tip().Head.Height
	for i, b := range bodies {
		h := p.links[i].header.Height
		if h <= tip || s.window.has(h) {
			s.metrics.blocks.WithLabelValues(resultWasted).Inc()
			continue
		}
		s.window.bodies[h] = arrived{body: b, from: src.id}
	}
}

const mebibyte = 1 << 20

// credit praises a peer for each MiB of what was right.
func (s *session) credit(src *source, n int64) {
	for src.served += n; src.served >= mebibyte; src.served -= mebibyte {
		s.peers.Credit(src.id, chain.Served)
	}
}
