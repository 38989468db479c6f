package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sizes of the store.
const (
	memTableSize = 16 << 20 // several common blocks; grows from 256 KiB as it fills
	cacheSize    = 96 << 20 // pebble takes the memtables out of it; the rest keeps filters and indexes
	minFree      = 64 << 20 // below it pebble may open, then retry its writes for ever and burn a core
	// storeFormat is pebble's own format of files. It is raised with a new
	// format version of ours, never by an update of the library.
	storeFormat = pebble.FormatTableFormatV6
)

// storeOptions are pebble's options. crash ends the process.
func storeOptions(fs vfs.FS, log *storeLogger) *pebble.Options {
	o := &pebble.Options{
		FS:                          fs,
		FormatMajorVersion:          storeFormat,
		CacheSize:                   cacheSize,
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: 4,
		Logger:                      log,
		EventListener: &pebble.EventListener{
			// A flush or compaction that cannot write is tried again for ever:
			// better to end, and be started again when there is room.
			BackgroundError: func(err error) {
				if errors.Is(err, pebble.ErrCancelledCompaction) {
					return
				}
				if pebble.IsCorruptionError(err) { // errors.Is does not see pebble's mark
					log.corrupt(err)
					return
				}
				log.Fatalf("background write: %v", err)
			},
			// Reported by the read that met it as well.
			DataCorruption: func(info pebble.DataCorruptionInfo) { log.Errorf("%v", info) },
		},
	}
	for i := range o.Levels {
		// Most look-ups of a record id are for one that is not there.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// storeLogger is pebble's logger. Its Fatalf writes one line and panics:
// pebble calls it in goroutines of its own where nothing can be saved, so the
// process ends and its supervisor starts it again from what is on disk.
type storeLogger struct {
	log    *slog.Logger
	end    func()        // may be nil
	broken chan error    // holds the first damage that a compaction met
	height atomic.Uint64 // of the tip
}

// corrupt notes that a table cannot be rewritten. Pebble tries it again and
// again, and nothing that we write mends it.
func (s *storeLogger) corrupt(err error) {
	select {
	case s.broken <- err:
		s.Errorf("background: %v", err)
	default:
	}
}

func (s *storeLogger) Infof(format string, args ...any) {}

func (s *storeLogger) Errorf(format string, args ...any) {
	s.log.Error("ledger store fault", "err", fmt.Sprintf(format, args...))
}

func (s *storeLogger) Fatalf(format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	s.log.Error("ledger stopped the process", "reason", reason, "height", s.height.Load())
	if s.end != nil {
		s.end()
	}
	panic("ledger: " + reason)
}
