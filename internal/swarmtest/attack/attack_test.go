package attack

import (
	"math"
	"testing"
)

// Values of the formula worked out by hand, and the two ends.
func TestWilson(t *testing.T) {
	for _, c := range []struct {
		k, n      int
		low, high float64
	}{
		{0, 30, 0, .1135}, {30, 30, .8865, 1}, {15, 30, .3315, .6685}, {1, 100, .0018, .0545}, {0, 400, 0, .0095}, {0, 0, 0, 1},
	} {
		low, high := Wilson(c.k, c.n)
		if math.Abs(low-c.low) > 1e-4 || math.Abs(high-c.high) > 1e-4 {
			t.Errorf("%d of %d: %.4f–%.4f, want %.4f–%.4f", c.k, c.n, low, high, c.low, c.high)
		}
	}
}
