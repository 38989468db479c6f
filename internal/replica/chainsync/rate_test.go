package chainsync

import (
	"math"
	"testing"
	"time"
)

// TestRate: the speed is that of the last seconds, whatever came before, and
// goes to zero when nothing comes.
func TestRate(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var r rate
	want := func(blocks float64) {
		t.Helper()
		if got := r.speed(now); math.Abs(got.blocks-blocks) > 0.11*blocks || math.Abs(got.bytes-1000*got.blocks) > 1e-6 {
			t.Errorf("%s: %+v, want %v blocks/s of 1000 bytes", now, got, blocks)
		}
	}
	run := func(perSecond int, d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(time.Second / time.Duration(perSecond)) {
			r.add(now, 1000)
		}
	}
	want(0)
	run(100, time.Second)
	want(100)
	run(100, 30*time.Second)
	want(100)
	run(5, 11*time.Second)
	want(5)
	now = now.Add(5 * time.Second)
	want(2.2) // half of the time that counts was idle
	now = now.Add(10 * time.Second)
	want(0)
	run(50, 3*time.Second) // it starts anew
	want(50)
}
