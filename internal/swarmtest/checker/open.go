package checker

import (
	"log/slog"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// OpenChain opens the chain in the data directory of a node that does not run.
// disk is nil for the real one. The caller closes it, and MUST do so before
// the node starts again. Opening does to the store what a start of the node
// would do.
func OpenChain(dataDir string, disk vfs.FS) (*ledger.Ledger, error) {
	return ledger.Open(ledger.Options{Dir: filepath.Join(dataDir, "ledger"), FS: disk, Log: slog.New(slog.DiscardHandler)})
}
