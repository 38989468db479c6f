package parley

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/history"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// ErrBackupRuns means that the node writes a backup already.
var ErrBackupRuns = errors.New("a backup is being written already: wait until it is done")

// Backup writes a backup of this node to w while it goes on: the chain as it
// stands, and what the node keeps beside it. The keys come along only with
// withKeys; the log of votes never does. One runs at a time.
func (n *Node) Backup(ctx context.Context, w io.Writer, withKeys bool) (*Manifest, error) {
	if _, err := n.genesis(); err != nil {
		return nil, err
	}
	if !n.backing.TryLock() {
		return nil, ErrBackupRuns
	}
	defer n.backing.Unlock()
	b := backup{ledger: n.replica.Ledger(), disk: n.env.LedgerFS, cfg: n.cfg, version: n.Version().Version, withKeys: withKeys}
	return b.write(ctx, w)
}

// CreateBackup is Backup of a data directory on which no node runs; a node that
// does is an ErrLocked.
func CreateBackup(ctx context.Context, cfg config.Config, w io.Writer, withKeys bool) (m *Manifest, err error) {
	dir := filepath.Join(cfg.DataDir, "ledger")
	if err := hasLedger(cfg.DataDir); err != nil {
		return nil, err
	}
	l, err := ledger.Open(ledger.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, ledgerFault(err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if l.Genesis() == nil {
		return nil, ErrNoChain
	}
	b := backup{ledger: l, cfg: cfg, version: BuildVersion().Version, withKeys: withKeys}
	return b.write(ctx, w)
}

// backup is one on its way.
type backup struct {
	ledger   *ledger.Ledger
	disk     vfs.FS // nil = the disk
	cfg      config.Config
	version  string
	withKeys bool
}

const checkpointName = "backup-*.tmp"

func (b *backup) write(ctx context.Context, w io.Writer) (m *Manifest, err error) {
	if b.disk == nil {
		b.disk = vfs.Default
		sweepCheckpoints(b.cfg.DataDir) // of a backup that was killed
	}
	dir := filepath.Join(b.cfg.DataDir, fmt.Sprintf("backup-%d.tmp", time.Now().UnixNano()))
	defer func() { err = errors.Join(err, b.disk.RemoveAll(dir)) }()
	if err := b.ledger.Checkpoint(dir); err != nil {
		return nil, err
	}
	tip, err := tipOf(dir, b.disk)
	if err != nil {
		return nil, fmt.Errorf("the copy of the ledger does not open: %w", err)
	}
	m = &Manifest{
		Format: backupFormat, Schema: schema, Version: b.version, Network: b.cfg.Network, ChainID: tip.Genesis.ChainID,
		GenesisHash: tip.Genesis.Hash(), Height: tip.Head.Height, HeadHash: tip.Head.Hash, Created: inMS(time.Now()), WithKeys: b.withKeys,
	}
	past := strings.TrimSuffix(dir, ".tmp") + "-history.tmp" // swept as dir is
	defer os.Remove(past)                                    // not there where there is no history
	items, err := b.items(dir, b.copyHistory(ctx, past))
	if err != nil {
		return nil, err
	}
	return m, writeBackup(ctx, w, m, items)
}

// tipOf opens a store for a moment.
func tipOf(dir string, disk vfs.FS) (ledger.Tip, error) {
	l, err := ledger.Open(ledger.Options{Dir: dir, FS: disk, Log: slog.New(slog.DiscardHandler), ReadOnly: true})
	if err != nil {
		return ledger.Tip{}, err
	}
	return l.Tip(), l.Close()
}

// copyHistory copies the history, which is written to meanwhile, to a file. No
// backup fails for it: one that is broken is left out.
func (b *backup) copyHistory(ctx context.Context, to string) (path string) {
	from := filepath.Join(b.cfg.DataDir, historyName)
	if _, err := os.Stat(from); err != nil {
		return from // left out, as it is not there
	}
	if err := history.Copy(ctx, from, to); err != nil {
		_ = os.Remove(to)
	}
	return to
}

// items lists what goes into the backup, with a copy of the history. Small
// files are read now: they may change while the large ones are written.
func (b *backup) items(dir, past string) ([]backupItem, error) {
	var items []backupItem
	files := map[string]string{}
	names := slices.Clone(backupPlain)
	for _, name := range backupPlain {
		files[name] = filepath.Join(b.cfg.DataDir, name)
	}
	files[historyName] = past
	if b.withKeys {
		names = append(names, backupKeys...)
		files["node.key"], files["jwt.hex"] = b.cfg.Path(b.cfg.Node.KeyFile), b.cfg.Path(b.cfg.API.JWTSecretFile)
		files["swarm.key"] = b.cfg.Path(cmp.Or(b.cfg.P2P.SharedKeyFile, "swarm.key"))
	}
	for _, name := range names {
		content, err := os.ReadFile(files[name])
		if errors.Is(err, fs.ErrNotExist) && name != "node.key" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		items = append(items, backupItem{name, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
	}
	stored, err := b.disk.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list the copy of the ledger: %w", err)
	}
	slices.Sort(stored)
	for _, name := range stored {
		if name == "LOCK" {
			continue
		}
		path := b.disk.PathJoin(dir, name)
		items = append(items, backupItem{"ledger/" + name, func() (io.ReadCloser, error) { return b.disk.Open(path) }})
	}
	return items, nil
}

// sweepCheckpoints removes what a killed backup left.
func sweepCheckpoints(dataDir string) {
	old, err := fs.Glob(os.DirFS(dataDir), checkpointName)
	if err != nil {
		return // the pattern is good
	}
	for _, dir := range old {
		_ = os.RemoveAll(filepath.Join(dataDir, dir)) // what stays costs room, and is tried again
	}
}
