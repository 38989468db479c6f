package parley

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

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
	DataDir string                   // made when missing; MUST be empty, or hold a restore that was broken off
	KeyFile string                   // node.key_file, api.jwt_secret_file and p2p.shared_key_file of who will run
	JWTFile string                   // there: where the keys go, as seen from DataDir; "" is the default. They never
	PSKFile string                   // replace another key
	Genesis chain.Hash               // refuse a backup of another chain; zero: take any
	Bytes   func(done, total int64)  // progress of unpacking; may be nil
	Blocks  func(done, total uint64) // with it the whole chain is verified before anything counts
}

// target is where a file of a backup goes.
func (o *RestoreOptions) target(name string) string {
	if to := map[string]string{"node.key": o.KeyFile, "jwt.hex": o.JWTFile, "swarm.key": o.PSKFile}[name]; to != "" {
		name = to
	}
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(o.DataDir, name)
}

// RestoreBackup unpacks a backup into an empty data directory. It checks every
// file, and that the tip belongs to the chain of its genesis by certificates.
// A node that starts on the directory goes on from that tip: it verifies the
// rest in the background, and as a validator it waits with its vote until two
// blocks are committed later than its start. After an error the directory is as
// it was. One that a killed restore left is refused by [New] and taken over by
// the next restore, of which only the mark remains after an error.
func RestoreBackup(ctx context.Context, r io.Reader, o RestoreOptions) (m *Manifest, err error) {
	tmp, was, err := o.open()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && was == dirHalf {
			err = errors.Join(err, empty(tmp))
			return
		}
		err = errors.Join(err, os.RemoveAll(tmp))
		if err != nil && was == dirMissing {
			_ = os.Remove(o.DataDir) // it is empty, or it stays
		}
	}()
	fits := func(m *Manifest) error {
		if !o.Genesis.IsZero() && m.GenesisHash != o.Genesis {
			return &OtherChainError{m.ChainID, m.GenesisHash, o.Genesis}
		}
		if err := o.checkKeys(m); err != nil {
			return err
		}
		return checkRoom(o.DataDir, m.Bytes())
	}
	put := func(f ManifestFile, r io.Reader) error {
		return unpack(filepath.Join(tmp, filepath.FromSlash(f.Path)), r)
	}
	if m, err = readBackup(ctx, r, fits, put, o.Bytes); err != nil {
		return nil, err
	}
	if err := settleLedger(ctx, filepath.Join(tmp, "ledger"), m, o.Blocks); err != nil {
		return nil, err
	}
	return m, o.moveIn(tmp, m)
}

// What a restore found in place of the data directory.
const (
	dirEmpty = iota
	dirMissing
	dirHalf // left by a killed restore
)

// open makes the data directory, or looks whether it holds nothing but what a
// killed restore left, and makes the one to unpack into. The old half goes when
// the new one is there, so that at each moment the directory shows what it is.
// Keys stay: see checkKeys.
func (o *RestoreOptions) open() (tmp string, was int, err error) {
	dir := o.DataDir
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		was, err = dirMissing, os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", was, fmt.Errorf("data directory: %w", err)
	}
	halves := brokenOff(dir)
	if len(halves) > 0 {
		was = dirHalf
	}
	var names, old []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	settled := slices.Contains(names, "meta.json") && slices.Contains(names, "ledger") // a node runs on it, or ran
	for _, name := range names {
		plain := name == "ledger" || slices.Contains(backupPlain, name)
		switch {
		case name == "lost+found" || slices.Contains(halves, name):
		case was != dirHalf || settled || !plain && !o.isKey(name):
			return "", was, notEmpty(dir, name)
		case plain:
			old = append(old, name)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs the x
		return "", was, fmt.Errorf("data directory: %w", err)
	}
	if tmp, err = os.MkdirTemp(dir, restoreName); err == nil {
		err = os.Mkdir(filepath.Join(tmp, "ledger"), 0o700)
	}
	if err != nil {
		return "", was, fmt.Errorf("restore into %s: %w", dir, err)
	}
	for _, name := range append(old, halves...) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return "", was, fmt.Errorf("clear what a restore left: %w", err)
		}
	}
	return tmp, was, nil
}

// empty makes room but leaves an empty ledger, by which the directory still
// shows that a restore was broken off.
func empty(tmp string) error {
	ledger := filepath.Join(tmp, "ledger")
	if err := os.Mkdir(ledger, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, dir := range []string{tmp, ledger} {
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); path != ledger {
				err = errors.Join(err, os.RemoveAll(path))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *RestoreOptions) isKey(name string) bool {
	return slices.ContainsFunc(backupKeys, func(key string) bool { return o.target(key) == filepath.Join(o.DataDir, name) })
}

func notEmpty(dir, name string) error {
	return &StartError{104, fmt.Errorf("data directory %s is not empty: it holds %s; a backup is restored into an empty directory: name another --data-dir, or move this one away", dir, name)}
}

// brokenOff names what restores left in a data directory that were killed
// before all was in its place. One that was killed right after that left an
// empty directory, which goes.
func brokenOff(dir string) (names []string) {
	left, _ := fs.Glob(os.DirFS(dir), restoreName) // the pattern is good
	for _, name := range left {
		if os.Remove(filepath.Join(dir, name)) != nil {
			names = append(names, name)
		}
	}
	return names
}

// checkKeys looks at the keys that are where the backup's would go, of a killed
// restore or of somebody else: a key is never replaced, but by itself.
func (o *RestoreOptions) checkKeys(m *Manifest) error {
	for _, name := range backupKeys {
		path := o.target(name)
		have, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		i := slices.IndexFunc(m.Files, func(f ManifestFile) bool { return f.Path == name })
		switch inside := filepath.Dir(path) == filepath.Clean(o.DataDir); {
		case i < 0 && inside:
			return notEmpty(o.DataDir, filepath.Base(path))
		case i >= 0 && m.Files[i].SHA256 != sha256.Sum256(have):
			return &StartError{104, fmt.Errorf("%s exists and is not the one of the backup: move it away, or restore with another configuration", path)}
		}
	}
	return nil
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

// moveIn puts the unpacked files into their places, on the disk. The ledger
// goes last, and then the directory that it came from: while that one holds
// anything, no node starts.
func (o *RestoreOptions) moveIn(tmp string, m *Manifest) (err error) {
	var there []string
	defer func() {
		if err != nil {
			for _, path := range there {
				err = errors.Join(err, os.RemoveAll(path))
			}
			err = fmt.Errorf("restore: %w", err)
		}
	}()
	for _, f := range m.Files {
		if strings.Contains(f.Path, "/") {
			continue
		}
		to := o.target(f.Path)
		from := filepath.Join(tmp, f.Path)
		if _, err := os.Lstat(to); err == nil { // checkKeys found the same
			if err := os.Remove(from); err != nil {
				return err
			}
			continue
		}
		if err := place(from, to); err != nil {
			return err
		}
		there = append(there, to)
	}
	if err := errors.Join(syncDir(filepath.Join(tmp, "ledger")), syncDir(o.DataDir)); err != nil {
		return err
	}
	ledger := o.target("ledger")
	if err := os.Rename(filepath.Join(tmp, "ledger"), ledger); err != nil {
		return err
	}
	there = append(there, ledger)
	return errors.Join(syncDir(tmp), syncDir(o.DataDir))
}

// place moves a file, to another disk if need be.
func place(from, to string) error {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(from, to); !errors.Is(err, syscall.EXDEV) {
		return errors.Join(err, syncDir(dir))
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	half := to + ".tmp"
	_ = os.Remove(half) // of a restore that was killed
	if err := unpack(half, f); err != nil {
		return errors.Join(err, os.Remove(half))
	}
	return errors.Join(os.Rename(half, to), syncDir(dir), os.Remove(from))
}

// syncDir puts a directory's entries on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
