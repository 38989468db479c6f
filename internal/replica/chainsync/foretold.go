package chainsync

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// Bounds of what is told ahead of a block. A hint is 32 bytes a record, 8 KiB
// at most, and is told by validators alone, of which there are 31.
const (
	hintsOfOne = 128                   // of one validator: two seconds of it at its highest rate
	hintLife   = time.Minute           // a block that takes longer was given up
	hintAhead  = 8                     // blocks above the tip: further down we are syncing
	hintGrace  = 20 * time.Millisecond // the newest records are on their way by gossip still
	maxEarly   = 4                     // hints whose records are being asked for
	earlyAsks  = 4                     // peers asked for the records of one hint
)

// hint is a subtree of a block to come, by the word of the validator that
// proposes it. A view change may discard it.
type hint struct {
	wire.Subtree
	origin, from peer.ID // the validator, and who relayed it
	at           time.Time
}

// foretold is the subtrees of blocks to come. It is safe for concurrent use.
type foretold struct {
	mu       sync.Mutex
	subtrees map[chain.Hash]hint
	order    map[peer.ID][]chain.Hash // of one validator, oldest first
	fresh    []hint                   // whose records nobody looked for yet
	asked    map[chain.Hash]struct{}  // records that are being asked for
}

// add notes h, in place of the oldest of its validator where that has told too
// much. It reports whether h is new.
func (f *foretold) add(h hint, tip uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subtrees == nil {
		f.subtrees, f.order, f.asked = map[chain.Hash]hint{}, map[peer.ID][]chain.Hash{}, map[chain.Hash]struct{}{}
	}
	for origin, ids := range f.order {
		n := 0
		for n < len(ids) && (len(ids)-n >= hintsOfOne || f.subtrees[ids[n]].Height <= tip || h.at.Sub(f.subtrees[ids[n]].at) > hintLife) {
			delete(f.subtrees, ids[n])
			n++
		}
		if ids = ids[n:]; len(ids) == 0 {
			delete(f.order, origin)
		} else {
			f.order[origin] = ids
		}
	}
	if _, ok := f.subtrees[h.ID]; ok {
		return false
	}
	f.subtrees[h.ID] = h
	f.order[h.origin] = append(f.order[h.origin], h.ID)
	if f.fresh = append(f.fresh, h); len(f.fresh) > hintsOfOne {
		f.fresh = f.fresh[1:]
	}
	return true
}

// records lists the record ids of a subtree, if it was told of.
func (f *foretold) records(subtree chain.Hash) ([]chain.Hash, bool) {
	h, ok := f.subtree(subtree)
	return h.Records, ok
}

func (f *foretold) subtree(id chain.Hash) (wire.Subtree, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, ok := f.subtrees[id]
	return h.Subtree, ok
}

// next takes the oldest hint whose records nobody looked for.
func (f *foretold) next() (hint, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.fresh) == 0 {
		return hint{}, false
	}
	h := f.fresh[0]
	f.fresh = f.fresh[1:]
	return h, true
}

// claim keeps those of ids that nobody is asked for, and marks them as asked
// for until release.
func (f *foretold) claim(ids []chain.Hash) []chain.Hash {
	f.mu.Lock()
	defer f.mu.Unlock()
	var free []chain.Hash
	for _, id := range ids {
		if _, taken := f.asked[id]; !taken {
			f.asked[id] = struct{}{}
			free = append(free, id)
		}
	}
	return free
}

func (f *foretold) release(ids []chain.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.asked, id)
	}
}

// Foretold notes a subtree of a block to come, whose id fits its records:
// origin is the validator that proposes it, from who relayed its word. A
// follower asks for the records that it lacks at once.
func (y *Syncer) Foretold(from, origin peer.ID, s wire.Subtree) {
	tip := y.ledger.Tip().Head.Height
	if s.Height <= tip || s.Height > tip+hintAhead {
		return
	}
	if y.told.add(hint{Subtree: s, origin: origin, from: from, at: time.Now()}, tip) {
		y.nudge()
	}
}

// lacking lists those of ids that do not wait for a block here.
func (y *Syncer) lacking(ids []chain.Hash) []chain.Hash {
	var list []chain.Hash
	for _, id := range ids {
		if _, ok := y.cfg.Pending(id); !ok {
			list = append(list, id)
		}
	}
	return list
}

// askEarly asks for records ahead of their block. A validator, which only
// catches up here, gets them with the proposal itself.
func (s *session) askEarly(ctx context.Context) {
	if s.once || s.cfg.Pending == nil || s.cfg.Take == nil {
		return
	}
	for s.early < maxEarly {
		h, ok := s.told.next()
		if !ok {
			return
		}
		if h.Height <= s.ledger.Tip().Head.Height {
			continue
		}
		peers := s.whoHas(h)
		s.early++
		s.spawn(ctx, func() func() {
			done := s.fetchEarly(ctx, h, peers)
			return func() {
				s.early--
				for _, d := range done {
					s.judgeAsked(d)
				}
			}
		})
	}
}

// whoHas lists whom to ask for the records of a hint: the validator that put
// them together, who relayed it, and others.
func (s *session) whoHas(h hint) []*source {
	now := time.Now()
	var list []*source
	add := func(src *source) {
		if src != nil && len(list) < earlyAsks && src.load.ready(now) {
			list = append(list, src)
		}
	}
	add(s.sources[h.origin])
	if h.from != h.origin {
		add(s.sources[h.from])
	}
	for id, src := range s.sources {
		if id != h.origin && id != h.from {
			add(src)
		}
	}
	return list
}

// asked is how a request for parts of a block went.
type asked struct {
	src  *source
	took timing
	err  error
}

// judgeAsked charges or praises.
func (s *session) judgeAsked(a asked) {
	if a.err != nil {
		s.blame(a.src, &a.src.load, a.err)
		return
	}
	if a.took.bytes > 0 {
		a.src.load.good()
	}
	s.credit(a.src, a.took.bytes)
}

func (s *session) fetchEarly(ctx context.Context, h hint, peers []*source) (done []asked) {
	select {
	case <-time.After(hintGrace):
	case <-ctx.Done():
		return nil
	}
	ids := s.told.claim(s.lacking(h.Records))
	defer s.told.release(ids)
	for _, src := range peers {
		want := s.lacking(ids)
		if len(want) == 0 || h.Height <= s.ledger.Tip().Head.Height {
			break
		}
		records, took, err := s.fetchRecords(ctx, src.id, 0, want)
		for _, raw := range records {
			s.cfg.Take(raw, src.id)
			s.metrics.early.Inc()
		}
		done = append(done, asked{src, took, err})
	}
	return done
}
