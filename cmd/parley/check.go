package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
)

func checkCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "check [DIR]", Short: "Verify the chain in a data directory, whose node is stopped", Args: cobra.MaximumNArgs(1),
		Long: "Reads every block from the genesis on: hashes, certificates, roots, signatures, rules, and each entry of each index. It changes nothing.\n" +
			"Exit codes: 0 all is good; 4 damage, with the height; 3 a node holds the lock; 5 no chain there; 78 not a ledger of this version.",
		Example: "parley chain check /var/lib/parley",
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := g.dirOf(args)
			if err != nil {
				return err
			}
			return g.checkChain(c.Context(), dir)
		},
	}
}

// verifyCommand is chain verify: a proof file, or a data directory.
func verifyCommand(g *globals) *cobra.Command {
	var genesis string
	c := &cobra.Command{
		Use: "verify [FILE|DIR]", Short: "Check a proof file (tx verify), or a data directory (chain check)", Args: cobra.MaximumNArgs(1),
		Example: "parley chain verify proof.json --genesis 93ff…\nparley chain verify /var/lib/parley",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				if info, err := os.Stat(args[0]); args[0] == "-" || err == nil && !info.IsDir() {
					return g.verifyProof(c, args[0], genesis)
				}
			}
			dir, err := g.dirOf(args)
			if err != nil {
				return err
			}
			return g.checkChain(c.Context(), dir)
		},
	}
	c.Flags().StringVar(&genesis, "genesis", "", "of a proof: hash of the chain's genesis, 64 hex digits")
	return c
}

// dirOf is the data directory that is named, or the configured one.
func (g *globals) dirOf(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	cfg, err := g.load()
	if err != nil {
		return "", err
	}
	return cfg.DataDir, nil
}

func (g *globals) checkChain(ctx context.Context, dir string) error {
	start := time.Now()
	bar := newBar(g)
	height, err := parley.CheckLedger(ctx, dir, func(done, total uint64) {
		bar.show(int64(done), int64(total), fmt.Sprintf("block %d of %d", done, total))
	})
	bar.end()
	if err != nil {
		return g.checkFault(ctx, dir, err)
	}
	took := time.Since(start)
	v := map[string]any{"dir": dir, "height": height, "ok": true, "seconds": took.Seconds()}
	return g.showValue(v, func() *table {
		return facts("chain", "good: every block, certificate, record and index entry", "height", strconv.FormatUint(height, 10),
			"took", took.Round(time.Millisecond).String())
	})
}

// checkFault tells damage from a chain of which nothing is known.
func (g *globals) checkFault(ctx context.Context, dir string, err error) error {
	var damage *parley.DamageError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return &codeError{exitNotFound, err}
	case errors.Is(err, parley.ErrLocked):
		return fail(exitUnreachable, "a node runs on %s and holds its lock, so the chain was not checked: stop the node first; or check a copy of it while it runs: parley backup create --data-dir %s --out check.tar.zst && parley backup verify check.tar.zst [PLY-104]", dir, dir)
	case errors.As(err, &damage):
		return fail(exitCheck, "the chain in %s is damaged at height %d: %w: restore a backup into a new directory (parley backup restore FILE --data-dir NEW), or move %s/ledger away and start the node with its PEERS to sync again [PLY-104]",
			dir, damage.Height, damage.Err, dir)
	}
	return err // a foreign directory is a *parley.StartError: 78
}
