package parley

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/parley-p2p/parley/internal/replica/consensus"
)

// KeepPanics has the trace of a panic written to a file in the data directory
// as well, for the whole process: at the next start the engine counts its own
// panics, and an operator has the trace. Call it once, between New and Run, so
// that the directory is this process's.
func KeepPanics(dataDir string, log *slog.Logger) {
	dir := filepath.Join(dataDir, "wal")
	last, now := filepath.Join(dir, consensus.PanicFile), filepath.Join(dir, "panic.now")
	if info, err := os.Stat(now); err == nil && info.Size() > 0 {
		if err := os.Rename(now, last); err != nil {
			log.Warn("trace of the last panic not kept", "err", err)
		}
	}
	err := os.MkdirAll(dir, 0o700)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(now, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	}
	if err == nil {
		err = debug.SetCrashOutput(f, debug.CrashOptions{}) // it has its own descriptor from here on
		_ = f.Close()
	}
	if err != nil {
		log.Warn("the trace of a panic will be on stderr only", "err", err)
	}
}
