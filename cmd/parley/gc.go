package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcHeadroom is what the heap may grow by between collections. What lives
	// is some 20 MiB, and by the runtime's own rule it would be marked again
	// after each 20 MiB of garbage: under load a tenth of all work.
	gcHeadroom = 64 << 20
	gcDefault  = 100 // percent, of the runtime; also once more lives than gcHeadroom
	gcMost     = 800
	gcLook     = time.Second
)

// gcPercent is the setting with which a heap of live bytes grows by gcHeadroom,
// or by its own size where that is more.
func gcPercent(live uint64) int {
	return int(min(max(100*gcHeadroom/max(live, 1), gcDefault), gcMost))
}

// tuneGC keeps the headroom until ctx ends. Who sets GOGC decides alone; a
// memory limit stands above both.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	go func() {
		t := time.NewTicker(gcLook)
		defer t.Stop()
		for set := gcDefault; ; {
			if p := gcPercent(liveHeap()); 8*max(p-set, set-p) > set {
				debug.SetGCPercent(p)
				set = p
			}
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}()
}

// liveHeap is what the last collection found alive; before the first it is 0.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return gcHeadroom // unknown to this runtime: its own rule
	}
	return s[0].Value.Uint64()
}
