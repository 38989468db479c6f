package consensus

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

const (
	feedSize  = 1500     // requests in the library's pool that we use, so that a submit never waits
	feedBytes = 32 << 20 // of them
	calmEvery = 500 * time.Millisecond
	// patienceLeast is how long a record may be left out of blocks, whatever
	// else waits; patienceMost is what a leader gains that is slow on purpose.
	patienceLeast = time.Second
	patienceMost  = time.Minute
)

// request is a record in the library's pool.
type request struct {
	raw      []byte // the mempool's
	notAfter uint64
	at       time.Time // when it was fed
	due      uint64    // see feedPace; 0 until the first look
}

// expired reports whether r can not be in a block above height.
func (r request) expired(height uint64) bool { return r.notAfter != 0 && r.notAfter <= height }

// feedPace tells a busy leader from one that ignores records. The library does
// not: it accuses the leader of each record that waits for 2.5 s, on every
// machine, behind any backlog, and in whatever order the leader got them. So
// its timers begin anew with a block, unless some record was left out for
// longer than all that waited when it came explains.
type feedPace struct {
	last    time.Time // when the timers began anew
	ordered uint64    // records in blocks
}

// calm takes note of a block, with backlog records still waiting, and reports
// whether the timers may begin anew. Before a record twice as many may be
// ordered as waited when it was looked at first, for the leader may have them
// in another order.
func (p *feedPace) calm(records, backlog int, fed map[chain.Hash]request, leads bool, now time.Time) bool {
	p.ordered += uint64(records)
	if now.Sub(p.last) < calmEvery {
		return false
	}
	if !leads { // a leader has nobody to accuse, and what it orders is as it should be
		for id, r := range fed {
			if r.due == 0 {
				r.due = p.ordered + 2*uint64(backlog)
				fed[id] = r
			}
			waits := now.Sub(r.at)
			if waits > patienceLeast && p.ordered > r.due || waits > patienceMost {
				return false
			}
		}
	}
	p.last = now
	return true
}

// feed keeps the library's pool filled out of the mempool.
func (s *session) feed(ctx context.Context) {
	retry := time.NewTicker(time.Second) // a stopped pool refuses without a later sign
	defer retry.Stop()
	for {
		s.feedOnce()
		select {
		case <-ctx.Done():
			return
		case <-s.pool.Wake():
		case <-s.room:
		case <-retry.C:
		}
	}
}

func (s *session) feedOnce() {
	for _, raw := range s.unfed() {
		rec, err := consortium.DecodeRecord(raw)
		if err != nil {
			continue
		}
		id, r := recordID(raw), request{raw: raw, notAfter: rec.NotAfter, at: time.Now()}
		if r.expired(s.ledger.Tip().Head.Height) || s.stale(rec, id) {
			continue // the mempool ends it
		}
		s.mu.Lock()
		s.fed[id] = r
		s.bytes += len(raw)
		s.mu.Unlock()
		s.gate.enter()
		s.named.Store(&named{raw, requestInfo(id)})
		err = s.bft.SubmitRequest(raw)
		s.gate.leave()
		switch {
		case r.expired(s.ledger.Tip().Head.Height), s.stale(rec, id): // meanwhile
			s.dropRequest(id)
		case s.ledger.Committed(id): // before or meanwhile: late gossip brings records again
			s.dropRequest(id)
			s.pool.Remove(id)
		case err != nil:
			s.log.Debug("record not fed", "id", id, "err", err)
			s.forget(id)
		}
	}
}

// stale reports whether a change of the configuration keeps a record out of
// every later block. The mempool finds that a second later, and the library only
// in what it has when the change comes.
func (s *session) stale(rec *consortium.Record, id chain.Hash) bool {
	tip := s.ledger.Tip()
	if rec.Kind != consortium.KindConfig && tip.Config.AuthorPolicy == consortium.Open {
		return false
	}
	var bad *consortium.RecordError
	return errors.As(s.ledger.Committable(rec, id, tip.Head.Height+1), &bad) && bad.Reason != consortium.Duplicate
}

// unfed are records of the mempool for which the library's pool has room.
func (s *session) unfed() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	room, roomBytes := feedSize-len(s.fed), feedBytes-s.bytes
	if room <= 0 || roomBytes <= 0 {
		return nil
	}
	return s.pool.Next(room, roomBytes, func(id chain.Hash) bool {
		_, fed := s.fed[id]
		return fed
	})
}

// ordered notes a block that this node stored while its view was running.
func (s *session) ordered(ids []chain.Hash, now time.Time) {
	backlog := s.pool.Len()
	s.mu.Lock()
	calm := s.pace.calm(len(ids), backlog, s.fed, s.leads(), now)
	s.mu.Unlock()
	s.unfeed(ids...)
	if calm && !s.complains() {
		s.bft.Pool.RestartTimers()
	}
}

// leads reports whether this validator leads the present view.
func (s *session) leads() bool {
	ids := s.Nodes()
	return ids[s.view.Load()%uint64(len(ids))] == s.id
}

// unfeed notes that records left the library's pool, which has room now.
func (s *session) unfeed(ids ...chain.Hash) {
	s.forget(ids...)
	select {
	case s.room <- struct{}{}:
	default:
	}
}

func (s *session) forget(ids ...chain.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.bytes -= len(s.fed[id].raw)
		delete(s.fed, id)
	}
}

// dropRequest takes a record out of the library's pool, for ever.
func (s *session) dropRequest(id chain.Hash) {
	_ = s.bft.Pool.RemoveRequest(requestInfo(id)) // an error says that it was not there
	s.unfeed(id)
}

// sweep drops what a sync brought in blocks: the library only forgets what it
// delivered itself, and would accuse the leader of ignoring the rest.
func (s *session) sweep() {
	s.mu.Lock()
	fed := make([]chain.Hash, 0, len(s.fed))
	for id := range s.fed {
		fed = append(fed, id)
	}
	s.mu.Unlock()
	for _, id := range fed {
		if s.ledger.Committed(id) {
			s.dropRequest(id)
			s.pool.Remove(id)
		}
	}
}

// judgeAgain drops what a change of the configuration ends. The library does
// that too, but not where the change makes it build itself anew.
func (s *session) judgeAgain() {
	s.mu.Lock()
	fed := maps.Clone(s.fed)
	s.mu.Unlock()
	for id, r := range fed {
		if rec, err := consortium.DecodeRecord(r.raw); err == nil && s.stale(rec, id) {
			s.dropRequest(id)
		}
	}
}

// expire drops what can no longer be in a block: the library knows no such end,
// and would accuse each leader in turn of ignoring it.
func (s *session) expire() {
	height := s.ledger.Tip().Head.Height
	var ended []chain.Hash
	s.mu.Lock()
	for id, r := range s.fed {
		if r.expired(height) {
			ended = append(ended, id)
		}
	}
	s.mu.Unlock()
	for _, id := range ended {
		s.dropRequest(id)
	}
}
