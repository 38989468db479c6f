package mempool

import "github.com/parley-p2p/parley/chain"

// idSet remembers the newest ids, up to its limit.
type idSet struct {
	limit int
	ids   map[chain.Hash]struct{}
	ring  []chain.Hash // grows to limit; then next is the oldest
	next  int
}

func newIDSet(limit int) idSet {
	return idSet{limit: limit, ids: map[chain.Hash]struct{}{}}
}

func (s *idSet) has(id chain.Hash) bool {
	_, ok := s.ids[id]
	return ok
}

func (s *idSet) add(id chain.Hash) {
	if s.has(id) {
		return
	}
	s.ids[id] = struct{}{}
	if len(s.ring) < s.limit {
		s.ring = append(s.ring, id)
		return
	}
	delete(s.ids, s.ring[s.next])
	s.ring[s.next] = id
	s.next = (s.next + 1) % s.limit
}
