package mempool

import (
	"container/list"
	"encoding/hex"
	"errors"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// Next returns records for a block, without taking them out: config records
// first, then one of each author in turn, each author's oldest first, until max
// records or the first that would pass maxBytes. The author after the last one
// served is first in the next call. skip, which may be nil, names records to
// leave out; it is called under the pool's lock and MUST NOT call the pool or
// block. The records MUST NOT be changed.
func (p *Pool) Next(max, maxBytes int, skip func(chain.Hash) bool) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := selection{max: max, left: maxBytes, skip: skip}
	for at := s.pass(p.configs.Front()); at != nil; at = s.pass(at.Next()) {
		if !s.take(at) {
			return s.out
		}
	}
	var cursors []*list.Element // of the authors served, at the record taken last
	for turn := p.turns.Front(); turn != nil; turn = turn.Next() {
		at := s.pass(turn.Value.(*author).records.Front())
		if at == nil {
			continue
		}
		if !s.take(at) {
			p.rotate(turn)
			return s.out
		}
		cursors = append(cursors, at)
	}
	for len(cursors) > 0 { // all had their first: the others, round by round
		rest := cursors[:0]
		for _, at := range cursors {
			if at = s.pass(at.Next()); at == nil {
				continue
			}
			if !s.take(at) {
				p.rotate(p.authors[at.Value.(*entry).author].turn)
				return s.out
			}
			rest = append(rest, at)
		}
		cursors = rest
	}
	return s.out
}

// selection is the state of one Next.
type selection struct {
	max, left int // records in all, bytes still free
	skip      func(chain.Hash) bool
	out       [][]byte
}

// pass is the first element from at on that is not skipped.
func (s *selection) pass(at *list.Element) *list.Element {
	for at != nil && s.skip != nil && s.skip(at.Value.(*entry).id) {
		at = at.Next()
	}
	return at
}

// take adds a record, or reports that the selection is full without it.
func (s *selection) take(at *list.Element) bool {
	raw := at.Value.(*entry).raw
	if len(s.out) >= s.max || len(raw) > s.left {
		return false
	}
	s.left -= len(raw)
	s.out = append(s.out, raw)
	return true
}

// rotate puts first to the front, keeping the cycle; mu held.
func (p *Pool) rotate(first *list.Element) {
	for p.turns.Front() != first {
		p.turns.MoveToBack(p.turns.Front())
	}
}

// Sweep ends the stay of records that cannot be in the block at height, which
// is the next one, and drops those that were only heard of, 10 minutes ago.
// After a change of epoch every record is judged again. It returns the final
// rejections, which the caller keeps and then publishes, and the ids of records
// that it dropped although a later epoch may take them: see Final. Call it
// about once a second.
func (p *Pool) Sweep(height uint64, now time.Time) (rejected []event.RecordRejected, unlisted []chain.Hash) {
	for _, e := range p.expire(height, now) {
		rejected = append(rejected, rejection(e, height, consortium.Expired, "not_after has passed"))
	}
	again, unlisted := p.judgeAgain(height)
	rejected = append(rejected, again...)
	for _, r := range rejected {
		p.refused.WithLabelValues(r.Reason).Inc()
	}
	p.refused.WithLabelValues(string(consortium.UnknownAuthor)).Add(float64(len(unlisted)))
	return rejected, unlisted
}

// Final reports whether the rule's refusal of a record that it took before
// holds on every later tip. The list of authors may name one again; a height
// or an epoch that has passed never comes back.
func Final(bad *consortium.RecordError) bool { return bad.Reason != consortium.UnknownAuthor }

func rejection(e *entry, height uint64, reason consortium.Reason, detail string) event.RecordRejected {
	return event.RecordRejected{ID: e.id, Reason: string(reason), Detail: detail, Height: height - 1, Author: hex.EncodeToString(e.author[:]), Final: true}
}

// expire removes what is too old, and returns what not_after ended.
func (p *Pool) expire(height uint64, now time.Time) (expired []*entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.records {
		switch {
		case e.notAfter != 0 && e.notAfter < height:
			p.remove(e)
			expired = append(expired, e)
		case !e.local && now.Sub(e.added) > gossipAge:
			p.remove(e)
			p.refused.WithLabelValues("aged").Inc()
		}
	}
	return expired
}

// judgeAgain judges every record when the epoch is another than last time.
func (p *Pool) judgeAgain(height uint64) (rejected []event.RecordRejected, unlisted []chain.Hash) {
	c := p.config()
	if c == nil {
		return nil, nil
	}
	p.mu.Lock()
	if c.Epoch == p.epoch {
		p.mu.Unlock()
		return nil, nil
	}
	all := make([]*entry, 0, len(p.records))
	for _, e := range p.records {
		all = append(all, e)
	}
	p.mu.Unlock()
	for _, e := range all {
		r, err := consortium.DecodeRecord(e.raw)
		if err == nil {
			err = p.rules.Committable(r, e.id)
		}
		var bad *consortium.RecordError
		switch {
		case err == nil:
			continue
		case !errors.As(err, &bad):
			p.log.Error("record not judged again", "id", e.id, "err", err)
			return rejected, unlisted // the next sweep starts anew
		case !Final(bad):
			unlisted = append(unlisted, e.id)
		case bad.Reason != consortium.Duplicate:
			rejected = append(rejected, rejection(e, height, bad.Reason, bad.Detail))
		}
		p.Remove(e.id)
	}
	p.mu.Lock()
	p.epoch = c.Epoch
	p.mu.Unlock()
	return rejected, unlisted
}
