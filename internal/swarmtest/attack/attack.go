// Package attack owns the attack experiments of DEFENCE 14: what an attacker
// of a stated strength gets of a node, beside what it gets of others. They are
// tests with the build tag attack; `make attack NAME=E1` prints a table and
// writes it to docs/attack.
package attack

import "math"

// Wilson is the 95 % interval of a share of k in n. It is right for shares
// near 0 and 1 too, where the usual one is not.
func Wilson(k, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	const z = 1.959964
	p, m := float64(k)/float64(n), float64(n)
	mid := p + z*z/(2*m)
	half := z * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return max(0, (mid-half)/(1+z*z/m)), min(1, (mid+half)/(1+z*z/m))
}
