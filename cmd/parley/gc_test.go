package main

import (
	"runtime"
	"testing"
)

func TestGCPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, gcMost}, {4 << 20, gcMost}, {16 << 20, 400}, {32 << 20, 200}, {64 << 20, 100}, {1 << 30, 100}, {1 << 62, 100},
	} {
		if got := gcPercent(c.live); got != c.want {
			t.Errorf("%d bytes alive: %d %%, want %d", c.live, got, c.want)
		}
	}
}

// The runtime has to know the metric, or the headroom is never given.
func TestLiveHeapIsKnown(t *testing.T) {
	held := make([]byte, 100<<20)
	for i := range held {
		held[i] = 1
	}
	runtime.GC()
	if live := liveHeap(); live < 100<<20 || live > 1<<30 {
		t.Errorf("%d bytes alive, want a little over %d", live, len(held))
	}
	runtime.KeepAlive(held)
}
