package parley

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

const restoreName = "restore-*.tmp"

// VerifyBackup reads a backup to its end and compares every file with the
// manifest; it writes nothing. What is wrong with it is a *[BackupError].
func VerifyBackup(ctx context.Context, r io.Reader, progress func(done, total int64)) (*Manifest, error) {
	return readBackup(ctx, r, nil, nil, progress)
}

// RestoreOptions say where a backup goes.
type RestoreOptions struct {
	DataDir string                   // made when missing; MUST be empty
	Genesis chain.Hash               // refuse a backup of another chain; zero: take any
	Bytes   func(done, total int64)  // progress of unpacking; may be nil
	Blocks  func(done, total uint64) // with it the whole chain is verified before anything counts
}

// RestoreBackup unpacks a backup into an empty data directory. It checks every
// file, and that the tip belongs to the chain of its genesis by certificates.
// A node that starts on the directory goes on from that tip: it verifies the
// rest in the background, and as a validator it waits with its vote until two
// blocks are committed later than its start. After an error the directory is as
// it was.
func RestoreBackup(ctx context.Context, r io.Reader, o RestoreOptions) (m *Manifest, err error) {
	made, err := emptyDir(o.DataDir)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(o.DataDir, restoreName)
	if err != nil {
		return nil, fmt.Errorf("restore into %s: %w", o.DataDir, err)
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(tmp))
		if err != nil && made {
			_ = os.Remove(o.DataDir) // it is empty, or it stays
		}
	}()
	if err := os.Mkdir(filepath.Join(tmp, "ledger"), 0o700); err != nil {
		return nil, fmt.Errorf("restore into %s: %w", o.DataDir, err)
	}
	room := func(m *Manifest) error {
		if !o.Genesis.IsZero() && m.GenesisHash != o.Genesis {
			return badBackup("it is of chain %s with genesis %s, not of the one with genesis %s", m.ChainID, m.GenesisHash, o.Genesis)
		}
		return checkRoom(o.DataDir, m.Bytes())
	}
	put := func(f ManifestFile, r io.Reader) error {
		return unpack(filepath.Join(tmp, filepath.FromSlash(f.Path)), r)
	}
	if m, err = readBackup(ctx, r, room, put, o.Bytes); err != nil {
		return nil, err
	}
	if err := settleLedger(ctx, filepath.Join(tmp, "ledger"), m, o.Blocks); err != nil {
		return nil, err
	}
	return m, moveIn(tmp, o.DataDir, m)
}

// emptyDir makes a directory, or checks that it holds nothing.
func emptyDir(dir string) (made bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, fmt.Errorf("data directory: %w", err)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if killed, _ := filepath.Match(restoreName, e.Name()); killed { // a restore that was killed before it moved anything
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return false, fmt.Errorf("data directory: %w", err)
			}
		} else if e.Name() != "lost+found" {
			return false, &StartError{104, fmt.Errorf("data directory %s is not empty: it holds %s; a backup is restored into an empty directory: name another --data-dir, or move this one away", dir, e.Name())}
		}
	}
	return false, os.Chmod(dir, 0o700) //nolint:gosec // a directory needs the x
}

func checkRoom(dir string, need int64) error {
	u, err := vfs.Default.GetDiskUsage(dir)
	if err == nil && u.AvailBytes < uint64(need+restoreSpare) {
		return fmt.Errorf("the disk of %s has %d MiB free, the backup needs %d: make room", dir, u.AvailBytes>>20, (need+restoreSpare)>>20)
	}
	return nil // a disk that does not tell is tried
}

// unpack writes a new file, synced.
func unpack(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// settleLedger opens the unpacked store, looks whether it is the one that the
// manifest tells of, and marks it as restored.
func settleLedger(ctx context.Context, dir string, m *Manifest, blocks func(done, total uint64)) (err error) {
	l, err := ledger.Open(ledger.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return &BackupError{ledgerFault(err)}
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	tip := l.Tip()
	if tip.Genesis == nil || tip.Genesis.Hash() != m.GenesisHash || tip.Head != (chain.Head{Height: m.Height, Hash: m.HeadHash}) {
		return badBackup("the manifest tells of chain %s at height %d, the ledger ends at %d %s", m.GenesisHash, m.Height, tip.Head.Height, tip.Head.Hash)
	}
	if err := l.VerifyTip(); err != nil {
		return &BackupError{ledgerFault(err)}
	}
	if err := l.MarkRestored(); err != nil || blocks == nil {
		return err
	}
	if err := l.Check(ctx, blocks); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &BackupError{ledgerFault(err)}
	}
	return l.SetVerified()
}

// moveIn puts the unpacked files into their places; meta.json goes last, so
// that no half directory passes for a whole one.
func moveIn(tmp, dir string, m *Manifest) error {
	names := []string{"ledger"}
	last := ""
	for _, f := range m.Files {
		switch {
		case strings.Contains(f.Path, "/"):
		case f.Path == "meta.json":
			last = f.Path
		default:
			names = append(names, f.Path)
		}
	}
	if last != "" {
		names = append(names, last)
	}
	for i, name := range names {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			for _, there := range names[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, there)))
			}
			return fmt.Errorf("restore: %w", err)
		}
	}
	return errors.Join(syncDir(filepath.Join(dir, "ledger")), syncDir(dir))
}

// syncDir puts a directory's entries on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
