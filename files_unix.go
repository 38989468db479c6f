//go:build unix

package parley

import "syscall"

// fileLimit is how many files this process may have open at once, 0 = unknown.
// The runtime has raised it to the hard limit.
func fileLimit() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return uint64(l.Cur) //nolint:unconvert // int64 on some systems
}
