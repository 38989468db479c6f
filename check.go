package parley

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// ErrLocked means that a node runs on a data directory.
var ErrLocked = ledger.ErrLocked

// A DamageError says that stored bytes are not what was written.
type DamageError struct {
	Height uint64 // of the block at fault; 0 where the store itself does not open
	Err    error
}

func (e *DamageError) Error() string { return fmt.Sprintf("damaged at height %d: %v", e.Height, e.Err) }

// Unwrap gives what was found.
func (e *DamageError) Unwrap() error { return e.Err }

// CheckLedger verifies the chain in a data directory from its genesis on:
// hashes, certificates, roots, signatures, indexes. It changes nothing, and no
// node may run on the directory: that is an ErrLocked. It returns the height up
// to which all is good. What it finds is a *[DamageError]; a directory of
// somebody else is a *[StartError].
func CheckLedger(ctx context.Context, dataDir string, progress func(done, total uint64)) (height uint64, err error) {
	dir := filepath.Join(dataDir, "ledger")
	if err := hasLedger(dataDir); err != nil {
		return 0, err
	}
	l, err := ledger.Open(ledger.Options{Dir: dir, Log: slog.New(slog.DiscardHandler), ReadOnly: true})
	if err != nil {
		return 0, ledgerFault(err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	err = l.Check(ctx, func(done, total uint64) {
		height = done
		progress(done, total)
	})
	if err == nil {
		height = l.Tip().Head.Height
	}
	return height, ledgerFault(err)
}

// ledgerFault gives faults of a store the types of the face.
func ledgerFault(err error) error {
	if corrupt, ok := errors.AsType[*ledger.CorruptError](err); ok {
		return &DamageError{Height: corrupt.Height, Err: corrupt.Err}
	}
	return startFault(err)
}

// hasLedger tells who names another directory, or may not look into this one.
func hasLedger(dataDir string) error {
	switch _, err := os.Stat(filepath.Join(dataDir, "ledger")); {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the ledger in %s: %w: ask as the user that runs its node", dataDir, err)
	case err != nil:
		return fmt.Errorf("%s holds no ledger: name a data directory of parley (%w)", dataDir, err)
	}
	return nil
}
