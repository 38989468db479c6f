package consortium

import (
	"errors"
	"fmt"
)

// Sealed is a header with its certificate and the set that it names.
type Sealed struct {
	Header      *Header
	Certificate Certificate
	Set         *ValidatorSet
}

// ErrNoFraud means that two headers prove nothing against anybody.
var ErrNoFraud = errors.New("no fraud")

// Fraud returns the keys that signed two different blocks of one height, each
// with a valid certificate. With two certificates of one view each of these keys
// is guilty, for an honest validator gives one vote a view. With those of two views
// the validators are guilty together, and who signed both may have been deceived by
// the others. The error is that of a certificate that does not hold, or ErrNoFraud
// with the reason.
func Fraud(a, b Sealed) ([]PublicKey, error) {
	switch {
	case a.Header.Genesis != b.Header.Genesis:
		return nil, fmt.Errorf("%w: the blocks are of two chains, with genesis %s and %s", ErrNoFraud, a.Header.Genesis.Short(), b.Header.Genesis.Short())
	case a.Header.Height != b.Header.Height:
		return nil, fmt.Errorf("%w: the blocks have the heights %d and %d: name two blocks of one height", ErrNoFraud, a.Header.Height, b.Header.Height)
	case a.Header.Hash() == b.Header.Hash():
		return nil, fmt.Errorf("%w: both are the same block %s; its certificates may differ", ErrNoFraud, a.Header.Hash().Short())
	}
	for _, s := range []Sealed{a, b} {
		if err := s.Certificate.Verify(s.Header, s.Set); err != nil {
			return nil, err
		}
	}
	var both []PublicKey
	for _, v := range a.Certificate.Votes {
		key, _ := a.Set.Key(v.Validator)
		id, member := b.Set.ByKey(key)
		for _, w := range b.Certificate.Votes {
			if member && w.Validator == id {
				both = append(both, key)
			}
		}
	}
	return both, nil
}
