//go:build race

package host

import "runtime"

// Timers of bubbles on several threads corrupt the race detector's state
// (golang/go#78156).
func init() { runtime.GOMAXPROCS(1) }
