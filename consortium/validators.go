package consortium

import (
	"encoding/binary"
	"slices"

	"github.com/parley-p2p/parley/chain"
)

// Validator is one member of the set that orders records.
type Validator struct {
	ID        uint64    `json:"id"` // from 1; never used again, not even for the same key
	Key       PublicKey `json:"key"`
	Name      string    `json:"name"`
	Addresses []string  `json:"addresses"` // multiaddrs as text, hints for the dialer; not parsed here
}

// ValidatorSet is the keys that sign a block. It does not change and is safe
// for concurrent use.
type ValidatorSet struct {
	ids  []uint64
	keys map[uint64]PublicKey
	of   map[PublicKey]uint64
	hash chain.Hash
}

// NewValidatorSet takes validators in any order, with distinct ids and keys.
func NewValidatorSet(validators []Validator) *ValidatorSet {
	s := &ValidatorSet{keys: make(map[uint64]PublicKey, len(validators)), of: make(map[PublicKey]uint64, len(validators))}
	for _, v := range validators {
		s.ids = append(s.ids, v.ID)
		s.keys[v.ID] = v.Key
		s.of[v.Key] = v.ID
	}
	slices.Sort(s.ids)
	s.hash = tagged(tagValidators, s.encode())
	return s
}

// encode gives what is hashed: ids and keys, by ascending ids.
func (s *ValidatorSet) encode() []byte {
	b := make([]byte, 0, 2+len(s.ids)*(8+len(PublicKey{})))
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.ids)))
	for _, id := range s.ids {
		key := s.keys[id]
		b = binary.BigEndian.AppendUint64(b, id)
		b = append(b, key[:]...)
	}
	return b
}

// Hash identifies the set by ids and keys; names and addresses do not enter.
func (s *ValidatorSet) Hash() chain.Hash { return s.hash }

// Len is N.
func (s *ValidatorSet) Len() int { return len(s.ids) }

// Faults is f = ⌊(N−1)/3⌋: so many traitors do no harm.
func (s *ValidatorSet) Faults() int { return (len(s.ids) - 1) / 3 }

// Quorum is ⌈(N+f+1)/2⌉: so many votes make a certificate.
func (s *ValidatorSet) Quorum() int { return (len(s.ids) + s.Faults() + 2) / 2 }

// Crashes is how many may be down while the others still order records.
func (s *ValidatorSet) Crashes() int { return len(s.ids) - s.Quorum() }

// Changes lists the ids that next has and s has not, and the other way round.
func (s *ValidatorSet) Changes(next *ValidatorSet) (added, removed []uint64) {
	missing := func(in, from *ValidatorSet) []uint64 {
		ids := []uint64{}
		for _, id := range from.ids {
			if _, ok := in.keys[id]; !ok {
				ids = append(ids, id)
			}
		}
		return ids
	}
	return missing(s, next), missing(next, s)
}

// IDs lists the ids, ascending, in a slice of the caller's own.
func (s *ValidatorSet) IDs() []uint64 { return slices.Clone(s.ids) }

// Key is the key of validator id.
func (s *ValidatorSet) Key(id uint64) (PublicKey, bool) {
	k, ok := s.keys[id]
	return k, ok
}

// ByKey is the id of the validator with key k.
func (s *ValidatorSet) ByKey(k PublicKey) (uint64, bool) {
	id, ok := s.of[k]
	return id, ok
}
