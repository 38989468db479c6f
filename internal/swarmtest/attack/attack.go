// Package attack owns the attack experiments of DEFENCE 14: what an attacker
// of a stated strength gets of a node, beside what it gets of others. They are
// tests with the build tag attack; `make attack NAME=E1` prints a table and
// writes it to docs/attack. E6 and E7 run small without the tag.
package attack

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Wilson is the 95 % interval of a share of k in n. It is right for shares
// near 0 and 1 too, where the usual one is not.
func Wilson(k, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	return wilson(float64(k)/float64(n), float64(n))
}

func wilson(p, m float64) (low, high float64) {
	const z = 1.959964
	mid := p + z*z/(2*m)
	half := z * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return max(0, (mid-half)/(1+z*z/m)), min(1, (mid+half)/(1+z*z/m))
}

// Clustered is Wilson's interval where cases come in groups of each hits of
// each cases, such as lookups in one network: as the groups differ more than
// chance would have it, fewer cases are counted.
func Clustered(hits []int, each int) (low, high float64) {
	n := float64(len(hits) * each)
	if n == 0 {
		return 0, 1
	}
	var sum, squares float64
	for _, k := range hits {
		sum += float64(k)
	}
	p := sum / n
	for _, k := range hits {
		d := float64(k)/float64(each) - p
		squares += d * d
	}
	m, groups := n, float64(len(hits))
	if v := squares / (groups * max(1, groups-1)); v > 0 {
		m = max(1, min(m, p*(1-p)/v))
	}
	return wilson(p, m)
}

// Bootstrap is the 95 % interval of a figure of n runs: of it is asked for 1000
// draws of n runs each, with repetition, the same ones every time.
func Bootstrap(n int, of func(runs []int) float64) (low, high float64) {
	r := rand.New(rand.NewPCG(1, 9))
	values, runs := make([]float64, 1000), make([]int, n)
	for i := range values {
		for j := range runs {
			runs[j] = r.IntN(n)
		}
		values[i] = of(runs)
	}
	slices.Sort(values)
	return values[25], values[974]
}
