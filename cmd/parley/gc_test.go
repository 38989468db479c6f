package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
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

// Of the memory of a container four fifths are for the heap; without a container
// there is no limit.
func TestMemoryLimit(t *testing.T) {
	for _, name := range []string{"GOMEMLIMIT", "AUTOMEMLIMIT"} {
		t.Setenv(name, "") // brings back what it was
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	if _, err := limitMemory(func() (uint64, error) { return 1000 << 20, nil }); err != nil || debug.SetMemoryLimit(-1) != 800<<20 {
		t.Errorf("of 1000 MiB %d bytes are used, want 800 MiB: %v", debug.SetMemoryLimit(-1), err)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if _, err := limitMemory(func() (uint64, error) { return 0, memlimit.ErrNoLimit }); err != nil || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		t.Errorf("without a container the limit is %d: %v", debug.SetMemoryLimit(-1), err)
	}
}
