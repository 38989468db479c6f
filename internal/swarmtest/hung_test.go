package swarmtest

import (
	"strings"
	"testing"
)

// Only what waits in the library is forgiven: neither what it called of ours,
// nor what called it by a stack that is not blocked there.
func TestOnlyTheLibraryIsForgiven(t *testing.T) {
	stack := func(head string, frames ...string) string {
		s := "goroutine 7 [" + head + "]:\n"
		for _, f := range frames {
			s += f + "\n\t/src/file.go:1 +0x1\n"
		}
		return strings.TrimSuffix(s, "\n")
	}
	const (
		lock    = "sync.(*Mutex).Lock(...)"
		library = "github.com/hyperledger-labs/SmartBFT/internal/bft.(*Controller).Stop(0x1)"
		ours    = "github.com/parley-p2p/parley/internal/replica/consensus.(*session).stop.func1()"
		sync    = "github.com/parley-p2p/parley/internal/replica/chainsync.(*Sync).Run(0x1)"
	)
	forgiven, left := sortHung(strings.Join([]string{
		stack("running", "runtime.Stack(...)"),
		stack("select (durable), synctest bubble 3", sync, "created by x in goroutine 1"), // of a bubble before
		stack("sync.Mutex.Lock, synctest bubble 12", "internal/sync.runtime_SemacquireMutex(0x1)", lock, library, ours),
		stack("chan receive (durable), 2 minutes, synctest bubble 12", library),
		stack("chan receive (durable), synctest bubble 12", ours, library), // the library waits for us
		stack("select (durable), synctest bubble 12", sync),
		stack("sync.WaitGroup.Wait (durable), synctest bubble 12", "sync.(*WaitGroup).Wait(0x1)", "main.f()"),
	}, "\n\n"))
	if forgiven != 2 || len(left) != 3 {
		t.Errorf("%d forgiven, %d left:\n%s", forgiven, len(left), strings.Join(left, "\n\n"))
	}
}
