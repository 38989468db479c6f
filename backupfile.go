package parley

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
)

// A backup is a tar file, compressed by zstd: manifest.json, then the files
// that it lists, in its order.
const (
	backupFormat   = "parley-backup/1"
	manifestName   = "manifest.json"
	maxManifest    = 64 << 20       // bytes
	maxBackupFiles = 200_000        // of a store; each has some MiB
	maxBackupFile  = 1 << 40        // bytes
	maxWindow      = 8 << 20        // of the decoder, which is memory
	maxTrailer     = 1 << 20        // zeros behind the last file
	progressEach   = 1 << 20        // bytes
	restoreSpare   = int64(1) << 28 // bytes of disk beside what is unpacked
)

const historyName = "history.db"

// Files of a data directory that a backup may hold beside ledger/.
var (
	backupPlain = []string{"meta.json", "static-peers.json", config.SettingsName, "ddns.json", "reach.json", historyName}
	backupKeys  = []string{"node.key", "jwt.hex", "swarm.key"}
)

// Manifest says what is in a backup.
type Manifest struct {
	Format      string         `json:"format"`
	Schema      int            `json:"schema"`
	Version     string         `json:"version"` // of the program that wrote it
	Network     string         `json:"network"`
	ChainID     string         `json:"chain_id"`
	GenesisHash chain.Hash     `json:"genesis_hash"`
	Height      uint64         `json:"height"`
	HeadHash    chain.Hash     `json:"head_hash"`
	Created     time.Time      `json:"created"`
	WithKeys    bool           `json:"with_keys"`
	Files       []ManifestFile `json:"files"`
}

// ManifestFile is one file of a backup.
type ManifestFile struct {
	Path   string     `json:"path"` // in the data directory, with slashes
	Size   int64      `json:"size"`
	SHA256 chain.Hash `json:"sha256"`
	Mode   string     `json:"mode"` // octal; always 0600
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// A BackupError says that a file is no backup, or not the one that was written.
type BackupError struct{ Err error }

func (e *BackupError) Error() string {
	if errors.Is(e.Err, ErrNoBackup) {
		return e.Err.Error()
	}
	return "the backup is damaged: " + e.Err.Error()
}

// ErrNoBackup is of a file that was never a backup.
var ErrNoBackup = errors.New("it is no backup of a node")

// Unwrap gives what was found.
func (e *BackupError) Unwrap() error { return e.Err }

// An OtherChainError says that a backup is whole as far as it was read, and of
// another chain than the one that was asked for.
type OtherChainError struct {
	ChainID    string
	Have, Want chain.Hash // of the genesis
}

func (e *OtherChainError) Error() string {
	return fmt.Sprintf("the backup is of chain %s with genesis %s, not of the one with genesis %s", e.ChainID, e.Have, e.Want)
}

func badBackup(format string, args ...any) error { return &BackupError{fmt.Errorf(format, args...)} }

const fileMode = "0600"

// check refuses a manifest that could lead out of a data directory, or fill
// memory or disk by its numbers.
func (m *Manifest) check() error {
	if m.Format != backupFormat {
		return badBackup("format %q is unknown: this build reads %s", short80(m.Format), backupFormat)
	}
	if m.Schema > schema {
		return badBackup("it has schema %d, written by parley %s; this binary knows %d: upgrade parley", m.Schema, short80(m.Version), schema)
	}
	if n := len(m.Files); n == 0 || n > maxBackupFiles {
		return badBackup("%d files: want 1 to %d", n, maxBackupFiles)
	}
	seen := map[string]bool{}
	var total int64
	for _, f := range m.Files {
		switch {
		case !m.allows(f.Path):
			return badBackup("it holds %q, which no data directory has in a backup", short80(f.Path))
		case seen[f.Path]:
			return badBackup("%s stands twice", f.Path)
		case f.Size < 0 || f.Size > maxBackupFile || total+f.Size > maxBackupFile:
			return badBackup("%s has %d bytes: over the limit of %d for all files", f.Path, f.Size, int64(maxBackupFile))
		case f.Mode != fileMode:
			return badBackup("%s has mode %q: want %s", f.Path, short80(f.Mode), fileMode)
		}
		seen[f.Path] = true
		total += f.Size
	}
	return nil
}

// allows names what may stand in a backup: never a write-ahead log of votes.
func (m *Manifest) allows(path string) bool {
	if name, ok := strings.CutPrefix(path, "ledger/"); ok {
		return plainName(name) && name != "LOCK"
	}
	return slices.Contains(backupPlain, path) || m.WithKeys && slices.Contains(backupKeys, path)
}

// plainName is a file name of a pebble store, and never a path.
func plainName(name string) bool {
	return name != "" && len(name) < 256 && name[0] != '.' && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

func short80(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// backupItem is a file on its way into a backup.
type backupItem struct {
	path string
	open func() (io.ReadCloser, error)
}

// writeBackup reads each file twice: its hash stands in the manifest, which
// comes first so that a reader knows what to expect.
func writeBackup(ctx context.Context, w io.Writer, m *Manifest, items []backupItem) error {
	for _, it := range items {
		f := ManifestFile{Path: it.path, Mode: fileMode}
		err := it.read(ctx, func(r io.Reader) (err error) {
			h := sha256.New()
			f.Size, err = io.Copy(h, r)
			f.SHA256 = chain.Hash(h.Sum(nil))
			return err
		})
		if err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	if err := m.check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow/2))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	put := func(name string, size int64, r io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg, ModTime: m.Created, Format: tar.FormatPAX}); err != nil {
			return err
		}
		n, err := io.Copy(t, r)
		if err == nil && n != size {
			err = errors.New("it changed meanwhile")
		}
		return err
	}
	if err := put(manifestName, int64(len(text)), strings.NewReader(string(text))); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	for i, it := range items {
		if err := it.read(ctx, func(r io.Reader) error { return put(it.path, m.Files[i].Size, r) }); err != nil {
			return fmt.Errorf("write backup: %w", err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

func (it backupItem) read(ctx context.Context, f func(io.Reader) error) error {
	r, err := it.open()
	if err != nil {
		return err
	}
	err = f(ctxReader{ctx, r})
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("%s: %w", it.path, err)
	}
	return nil
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // of one read of one file
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// readBackup reads a backup from its first byte to its last, and compares each
// file with the manifest. begin, which may be nil, is told of the manifest, and
// put of each file; a file counts only when readBackup returns nil. What is
// wrong with the backup itself is a *BackupError.
func readBackup(ctx context.Context, r io.Reader, begin func(*Manifest) error, put func(ManifestFile, io.Reader) error, progress func(done, total int64)) (*Manifest, error) {
	z, err := zstd.NewReader(ctxReader{ctx, r}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, badBackup("it is no zstd stream: %w", err)
	}
	defer z.Close()
	t := tar.NewReader(z)
	m, err := readManifest(t)
	if err != nil {
		return nil, ctxFirst(ctx, err)
	}
	if begin != nil {
		if err := begin(m); err != nil {
			return nil, err
		}
	}
	count := &counter{total: m.Bytes(), tell: progress}
	for _, f := range m.Files {
		if err := readFile(t, f, put, count); err != nil {
			return nil, ctxFirst(ctx, err)
		}
	}
	if h, err := t.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("it holds %q, which the manifest does not list", short80(h.Name))
		}
		return nil, ctxFirst(ctx, &BackupError{err})
	}
	n, err := io.Copy(io.Discard, io.LimitReader(z, maxTrailer+1)) // to the end, where the checksum is
	if err == nil && n > maxTrailer {
		err = errors.New("something follows the last file")
	}
	if err != nil {
		return nil, ctxFirst(ctx, &BackupError{err})
	}
	return m, nil
}

// ctxFirst keeps an interrupted read from looking like damage.
func ctxFirst(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func readManifest(t *tar.Reader) (*Manifest, error) {
	h, err := t.Next()
	if errors.Is(err, zstd.ErrMagicMismatch) {
		return nil, badBackup("%w: no manifest: %w", ErrNoBackup, err)
	}
	if err != nil {
		return nil, badBackup("no manifest: %w", err)
	}
	if h.Name != manifestName || h.Typeflag != tar.TypeReg || h.Size > maxManifest {
		return nil, badBackup("it begins with %q of %d bytes, not with %s", short80(h.Name), h.Size, manifestName)
	}
	text, err := io.ReadAll(io.LimitReader(t, maxManifest))
	if err != nil {
		return nil, badBackup("manifest: %w", err)
	}
	m := &Manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, badBackup("manifest: %w", err)
	}
	return m, m.check()
}

func readFile(t *tar.Reader, f ManifestFile, put func(ManifestFile, io.Reader) error, count *counter) error {
	h, err := t.Next()
	if err != nil {
		return badBackup("it ends before %s: %w", f.Path, err)
	}
	if h.Name != f.Path || h.Typeflag != tar.TypeReg || h.Size != f.Size {
		return badBackup("it has %q of %d bytes where the manifest lists %s of %d", short80(h.Name), h.Size, f.Path, f.Size)
	}
	sum := &summed{r: t, h: sha256.New(), count: count}
	if put == nil {
		_, err = io.Copy(io.Discard, sum)
	} else {
		err = put(f, sum)
	}
	switch {
	case sum.err != nil:
		return badBackup("%s: %w", f.Path, sum.err)
	case err != nil:
		return fmt.Errorf("unpack %s: %w", f.Path, err)
	case sum.n != f.Size || chain.Hash(sum.h.Sum(nil)) != f.SHA256:
		return badBackup("%s is not what was written: its SHA-256 differs", f.Path)
	}
	return nil
}

// summed hashes what is read, and keeps a fault of the source apart from those
// of whoever reads.
type summed struct {
	r     io.Reader
	h     hash.Hash
	count *counter
	n     int64
	err   error
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.h.Write(p[:n])
	s.n += int64(n)
	s.count.add(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// counter tells how far a read has come.
type counter struct {
	done, told, total int64
	tell              func(done, total int64)
}

func (c *counter) add(n int) {
	c.done += int64(n)
	if c.tell != nil && c.done-c.told >= progressEach {
		c.told = c.done
		c.tell(c.done, c.total)
	}
}
