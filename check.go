package parley

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// CheckLedger verifies the chain in a data directory from its genesis on:
// hashes, certificates, roots, signatures, indexes. No node may run on it. It
// returns the height up to which all is good.
func CheckLedger(ctx context.Context, dataDir string, progress func(done, total uint64)) (height uint64, err error) {
	dir := filepath.Join(dataDir, "ledger")
	if _, err := os.Stat(dir); err != nil {
		return 0, fmt.Errorf("%s holds no ledger: name a data directory of parley (%w)", dataDir, err)
	}
	l, err := ledger.Open(ledger.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	err = l.Check(ctx, func(done, total uint64) {
		height = done
		progress(done, total)
	})
	if err == nil {
		height = l.Tip().Head.Height
	}
	return height, err
}
