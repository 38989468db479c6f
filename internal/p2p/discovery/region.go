package discovery

import (
	"math"
	"math/big"
	"slices"
	"sync"

	kb "github.com/libp2p/go-libp2p-kbucket"
)

const (
	nearest       = 20 // K: peers that answer for a key
	sizeSamples   = 32
	minSamples    = 8    // below: the size is not known
	minNetwork    = 64.0 // below: too few peers for statistics
	regionTooNear = 7.0  // of x, which is 20 on average; 4e-5 of honest regions are below
	regionGroups  = 5    // address groups among the nearest, at least
)

// sizes estimates how many peers the network has, by how near the nearest ones
// of random keys are.
type sizes struct {
	mu      sync.Mutex // guards below
	samples []sample   // newest last, at most sizeSamples
}

type sample struct {
	size   float64
	groups int // among the nearest; -1 = they have no public addresses
}

func (s *sizes) add(v sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = append(s.samples, v)
	if n := len(s.samples); n > sizeSamples {
		s.samples = slices.Delete(s.samples, 0, n-sizeSamples)
	}
}

// estimate gives the median size and the median of groups; 0 = not known yet.
func (s *sizes) estimate() (size float64, groups int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) < minSamples {
		return 0, 0
	}
	var all []float64
	var g []int
	for _, v := range s.samples {
		all = append(all, v.size)
		g = append(g, v.groups)
	}
	slices.Sort(all)
	slices.Sort(g)
	return all[len(all)/2], g[len(g)/2]
}

// share is the part of the key space within a XOR distance.
func share(distance []byte) float64 {
	f, _ := new(big.Float).SetInt(new(big.Int).SetBytes(distance)).Float64()
	return f / math.Pow(2, float64(8*len(distance)))
}

// density is the size of a network whose k-th nearest peer is at distance.
func density(k int, distance []byte) float64 {
	part := share(distance)
	if part == 0 {
		return 0
	}
	return float64(k-1) / part
}

// region is what the nearest peers of a key look like.
type region struct {
	X      float64 // expected honest peers as near as the 20th; 20 on average
	Groups int     // among them, -1 = no public addresses
	Dense  bool    // x or groups are too few to be chance
}

// judge tells whether the nearest peers of a key are too near, or too much
// alike, to be honest.
func (s *sizes) judge(near []*candidate) region {
	size, usual := s.estimate()
	if size < minNetwork || len(near) < nearest {
		return region{}
	}
	r := region{X: share(near[nearest-1].far) * size, Groups: groupsOf(near[:nearest])}
	few := r.Groups >= 0 && r.Groups < regionGroups && usual >= regionGroups
	r.Dense = r.X < regionTooNear || few
	return r
}

// groupsOf counts address groups; -1 where less than half have one.
func groupsOf(list []*candidate) int {
	set := map[string]bool{}
	with := 0
	for _, c := range list {
		if c.group != "" {
			set[c.group] = true
			with++
		}
	}
	if 2*with < len(list) {
		return -1
	}
	return len(set)
}

// within is the XOR distance within which a network of that size has n peers.
func within(n int, size float64) []byte {
	part := min(float64(n)/size, 1)
	f := new(big.Float).SetMantExp(big.NewFloat(part), 256)
	i, _ := f.Int(nil)
	top := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	if i.Cmp(top) > 0 {
		i = top
	}
	return i.FillBytes(make([]byte, 32))
}

func distanceTo(target kb.ID, of string) []byte { return xor(kb.ConvertKey(of), target) }
