package chainsync

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

const (
	pullTime     = 5 * time.Second // for a request of parts
	completeTime = 2 * time.Second // then the body is fetched whole
	pullShare    = 64              // records, from which a request is split among peers
	pullPeers    = 3               // asked for the records of one block at once
	pullMost     = 12              // requests for one block, all told
	pullRecords  = 2000            // ids of one request
)

// completion puts the body of an announced block together out of the records
// that wait here, and pulls the rest. The ids of a subtree fix its records and
// the header's root fixes the subtrees, so parts come from anybody. Loop
// goroutine only.
type completion struct {
	parts  []part
	began  time.Time
	last   time.Time        // of the newest request
	out    int              // requests under way
	asks   int              // requests, all told
	tried  map[peer.ID]bool // each is asked once
	pulled int              // records that came by a request
}

// part is one subtree.
type part struct {
	id      chain.Hash
	ids     []chain.Hash // of its records; nil = not known yet
	records [][]byte     // in that order; nil = not here yet
	lacks   int          // records
}

// completes reports whether the block is to be put together.
func (s *session) completes(l link) bool {
	return l.gossip && l.subtrees != nil && s.cfg.Pending != nil && l.header.Height <= s.ledger.Tip().Head.Height+hintAhead
}

// complete begins with a piece of one announced block, which is in window.out.
func (s *session) complete(ctx context.Context, p *piece) {
	c := &completion{began: time.Now(), tried: map[peer.ID]bool{}}
	p.completion = c
	for _, id := range p.links[0].subtrees {
		pt := part{id: id}
		if ids, ok := s.told.records(id); ok {
			s.learn(&pt, ids)
		}
		c.parts = append(c.parts, pt)
	}
	s.goOn(ctx, p)
}

// learn notes the ids of a part and takes what waits here.
func (s *session) learn(pt *part, ids []chain.Hash) {
	pt.ids, pt.records, pt.lacks = ids, make([][]byte, len(ids)), 0
	for i, id := range ids {
		if raw, ok := s.cfg.Pending(id); ok {
			pt.records[i] = raw
		} else {
			pt.lacks++
		}
	}
}

// goOn ends the piece when its body is there, or asks for what is not.
func (s *session) goOn(ctx context.Context, p *piece) {
	c := p.completion
	c.last = time.Now()
	s.pullParts(ctx, p, c.parts)
	s.settle(p)
}

// settle ends the piece if its body is there, or if nobody is left to ask.
func (s *session) settle(p *piece) {
	switch c := p.completion; {
	case c.lacking() == 0:
		s.completed(p)
	case c.out == 0:
		s.giveUp(p)
	}
}

// pullParts asks for what these parts lack: for a subtree whole where it lacks
// most of its records.
func (s *session) pullParts(ctx context.Context, p *piece, parts []part) {
	var names, whole, records []chain.Hash
	for _, pt := range parts {
		switch {
		case pt.ids == nil:
			names = append(names, pt.id)
		case pt.lacks > len(pt.ids)/2:
			whole = append(whole, pt.id)
		default:
			for i, raw := range pt.records {
				if raw == nil {
					records = append(records, pt.ids[i])
				}
			}
		}
	}
	if len(names) > 0 {
		s.pullNames(ctx, p, names)
	}
	if len(whole) > 0 {
		s.pullWhole(ctx, p, whole)
	}
	share := min(max(pullShare, (len(records)+pullPeers-1)/pullPeers), pullRecords)
	for ids := range slices.Chunk(records, share) {
		s.pullRecords(ctx, p, ids)
	}
}

// pullNames asks for the record ids of subtrees; who does not know them all is
// not the last to be asked.
func (s *session) pullNames(ctx context.Context, p *piece, subtrees []chain.Hash) {
	s.pull(ctx, p, func(ctx context.Context, c *completion, src peer.ID) (func(), timing, error) {
		found, took, err := s.fetchIDs(ctx, src, p.from(), subtrees)
		return func() {
			var learnt []part
			for i := range c.parts {
				if pt := &c.parts[i]; pt.ids == nil && found[pt.id] != nil {
					s.learn(pt, found[pt.id])
					learnt = append(learnt, *pt)
				}
			}
			if len(learnt) > 0 {
				delete(c.tried, src) // who knows the ids has the records too
				s.pullParts(ctx, p, learnt)
			}
			if rest := c.unnamed(subtrees); len(rest) > 0 {
				s.pullNames(ctx, p, rest)
			}
		}, took, err
	})
}

func (s *session) pullWhole(ctx context.Context, p *piece, subtrees []chain.Hash) {
	s.pull(ctx, p, func(ctx context.Context, c *completion, src peer.ID) (func(), timing, error) {
		found, took, err := s.fetchSubtrees(ctx, src, p.from(), subtrees)
		return func() {
			c.takeSubtrees(found)
			if rest := without(subtrees, found); len(rest) > 0 {
				s.pullWhole(ctx, p, rest)
			}
		}, took, err
	})
}

func (s *session) pullRecords(ctx context.Context, p *piece, ids []chain.Hash) {
	s.pull(ctx, p, func(ctx context.Context, c *completion, src peer.ID) (func(), timing, error) {
		list, took, err := s.fetchRecords(ctx, src, p.from(), ids)
		found := make(map[chain.Hash][]byte, len(list))
		for _, raw := range list {
			found[consortium.RecordID(raw)] = raw
		}
		return func() {
			c.takeRecords(found)
			if rest := without(ids, found); len(rest) > 0 {
				s.pullRecords(ctx, p, rest)
			}
		}, took, err
	})
}

// without lists those of ids that found lacks.
func without[T any](ids []chain.Hash, found map[chain.Hash]T) []chain.Hash {
	var rest []chain.Hash
	for _, id := range ids {
		if _, ok := found[id]; !ok {
			rest = append(rest, id)
		}
	}
	return rest
}

// pull makes one request of whoever is next, if anybody is. fetch returns what
// the loop does with its outcome.
func (s *session) pull(ctx context.Context, p *piece, fetch func(ctx context.Context, c *completion, src peer.ID) (func(), timing, error)) {
	c := p.completion
	src := s.nextFor(p)
	if src == nil || c.asks >= pullMost {
		return
	}
	c.tried[src.id] = true
	c.asks++
	c.out++
	src.inFlight++
	s.spawn(ctx, func() func() {
		take, took, err := fetch(ctx, c, src.id)
		return func() {
			src.inFlight--
			c.out--
			s.judgeAsked(asked{src, took, err})
			if p.completion == c {
				take()
				s.settle(p)
			}
		}
	})
}

// lacking counts what is not here: records, and subtrees without their ids.
func (c *completion) lacking() int {
	n := 0
	for _, pt := range c.parts {
		if n += pt.lacks; pt.ids == nil {
			n++
		}
	}
	return n
}

// nextFor finds whom to ask for parts of a block: who announced it, else who
// has it, else the fastest.
func (s *session) nextFor(p *piece) *source {
	l, now := p.links[0], time.Now()
	rank := func(src *source) int {
		switch {
		case src.id == l.from:
			return 2
		case src.has >= l.header.Height:
			return 1
		}
		return 0
	}
	var best *source
	for _, src := range s.sources {
		if p.tried[src.id] || src.inFlight >= maxInFlight || !src.load.ready(now) {
			continue
		}
		if best == nil || cmp.Or(rank(src)-rank(best), cmp.Compare(src.speed, best.speed)) > 0 {
			best = src
		}
	}
	return best
}

// unnamed lists those of subtrees whose record ids are not known.
func (c *completion) unnamed(subtrees []chain.Hash) []chain.Hash {
	var rest []chain.Hash
	for _, pt := range c.parts {
		if pt.ids == nil && slices.Contains(subtrees, pt.id) {
			rest = append(rest, pt.id)
		}
	}
	return rest
}

func (c *completion) takeSubtrees(found map[chain.Hash][][]byte) {
	for i := range c.parts {
		pt := &c.parts[i]
		if records, ok := found[pt.id]; ok && pt.lacks > 0 {
			c.pulled += pt.lacks
			pt.records, pt.lacks = records, 0
		}
	}
}

func (c *completion) takeRecords(found map[chain.Hash][]byte) {
	for i := range c.parts {
		pt := &c.parts[i]
		for j, id := range pt.ids {
			if raw, ok := found[id]; ok && pt.records[j] == nil {
				pt.records[j] = raw
				pt.lacks--
				c.pulled++
			}
		}
	}
}

// completed takes the body, which is here.
func (s *session) completed(p *piece) {
	c, l := p.completion, p.links[0]
	body := make(consortium.Body, len(c.parts))
	for i, pt := range c.parts {
		body[i].Records = pt.records
	}
	ready, err := s.ledger.Prepare(&consortium.Block{Header: l.header, Certificate: l.cert, Body: body})
	if err != nil {
		s.log.Warn("block not put together out of its parts", "height", p.from(), "err", err)
		s.giveUp(p)
		return
	}
	how := howRebuilt
	if c.pulled > 0 {
		how = howPart
	}
	s.metrics.completed.WithLabelValues(how).Inc()
	p.completion = nil
	if p.from() > s.ledger.Tip().Head.Height && !s.window.has(p.from()) {
		s.window.bodies[p.from()] = arrived{body: ready, from: l.from}
	}
	s.window.done(p, nil)
}

// giveUp leaves the block to be fetched whole.
func (s *session) giveUp(p *piece) {
	p.completion = nil
	s.metrics.completed.WithLabelValues(howWhole).Inc()
	s.window.done(p, p.links)
}

// hurry asks further peers for what is late, and gives up what takes too long.
func (s *session) hurry(ctx context.Context, now time.Time) {
	tip := s.ledger.Tip().Head.Height
	for _, p := range slices.Clone(s.window.out) {
		c := p.completion
		switch {
		case c == nil:
		case p.from() <= tip: // it came by another way
			p.completion = nil
			s.window.done(p, nil)
		case now.Sub(c.began) >= completeTime:
			s.giveUp(p)
		case now.Sub(c.last) >= lateAfter:
			s.goOn(ctx, p)
		}
	}
}
