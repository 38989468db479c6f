//go:build race

package discovery

import "runtime"

// Timers of a bubble that fire on several processors at once corrupt the race
// detector's state (golang/go#78156).
func init() { runtime.GOMAXPROCS(1) }
