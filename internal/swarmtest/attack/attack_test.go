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

// Groups that are alike leave Wilson's interval; groups of all or none count as
// one case each.
func TestClustered(t *testing.T) {
	for _, c := range []struct {
		hits []int
		p, m float64 // whose interval it is
	}{
		{[]int{4, 4, 4}, 1, 12}, {[]int{2, 2, 2}, .5, 12}, {[]int{4, 0, 4, 0, 4, 0, 4, 0}, .5, 7},
	} {
		low, high := Clustered(c.hits, 4)
		if l, h := wilson(c.p, c.m); math.Abs(low-l) > 1e-9 || math.Abs(high-h) > 1e-9 {
			t.Errorf("%v: %.4f–%.4f, want %.4f–%.4f", c.hits, low, high, l, h)
		}
	}
	if low, high := Clustered(nil, 4); low != 0 || high != 1 {
		t.Errorf("no case: %.2f–%.2f", low, high)
	}
}

// The interval of a mean is that of the normal law where runs are many.
func TestBootstrap(t *testing.T) {
	mean := func(runs []int) float64 {
		sum := 0.
		for _, i := range runs {
			sum += float64(i % 2)
		}
		return sum / float64(len(runs))
	}
	low, high := Bootstrap(400, mean)
	if math.Abs(low-.451) > .01 || math.Abs(high-.549) > .01 {
		t.Errorf("%.3f–%.3f, want about .451–.549", low, high)
	}
}
