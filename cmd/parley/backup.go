package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
)

func backupCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "backup", Short: "Write, check and restore backups of a node",
		Example: "parley backup create --out parley.tar.zst\nparley backup verify parley.tar.zst\nparley backup restore parley.tar.zst --data-dir /var/lib/parley",
	}
	c.AddCommand(backupCreateCommand(g), backupVerifyCommand(g), backupRestoreCommand(g))
	return c
}

func backupCreateCommand(g *globals) *cobra.Command {
	var out string
	var keys bool
	c := &cobra.Command{
		Use: "create --out FILE", Short: "Write a backup of a running or a stopped node", Args: cobra.NoArgs,
		Long: "The file holds the whole chain and what the node keeps beside it, as one moment has it; never the log of a validator's votes.\n" +
			"Not in it is what is of this machine's standing in the network and not of the chain: bans (bans export and bans import carry them over, and a list in\n" +
			"PostgreSQL is backed up there), points, the address book, which fills again by itself, and what was put into the DHT by hand: put that again.\n" +
			"With --with-keys it holds the node's identity and the secret of its tokens as well: keep it like a key. It is not encrypted.",
		Example: "parley backup create --out parley.tar.zst\nparley backup create --out parley.tar.zst --with-keys \\\n--data-dir /var/lib/parley",
		RunE: func(c *cobra.Command, _ []string) error {
			if out == "" {
				return usage(c, errors.New("--out is missing: name the file to write"))
			}
			return g.createBackup(c.Context(), out, keys)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write; it must not exist")
	c.Flags().BoolVar(&keys, "with-keys", false, "with the identity key and the token secret")
	return c
}

// createBackup writes to a file beside out and renames it when all of it was
// read again, so that out is whole or not there.
func (g *globals) createBackup(ctx context.Context, out string, keys bool) (err error) {
	if _, err := os.Lstat(out); err == nil {
		return fmt.Errorf("%s exists already: choose another name, or remove it first [PLY-007]", out)
	}
	write, err := g.backupSource(keys)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	closed, taken := false, false
	defer func() {
		if !closed {
			err = errors.Join(err, f.Close())
		}
		if !taken {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	start := time.Now()
	pr, pw := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := write(ctx, pw)
		pw.CloseWithError(err)
		sent <- err
	}()
	bar := newBar(g)
	m, err := parley.VerifyBackup(ctx, io.TeeReader(pr, f), g.byteBar(bar, "read"))
	pr.CloseWithError(errors.New("the backup was not taken")) // whoever still writes may end
	bar.end()
	if sendErr := <-sent; sendErr != nil && err != nil { // the cause, not what it did
		err = sendErr
	}
	if err != nil {
		return backupFault(ctx, out, err)
	}
	info, err := f.Stat()
	closed = true
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return err
	}
	taken = true
	if err := syncDir(filepath.Dir(out)); err != nil {
		return err
	}
	return g.showManifest(m, "wrote", out, "size", size(info.Size()), "took", time.Since(start).Round(time.Millisecond).String())
}

// backupSource is the running node, or its data directory where none runs.
func (g *globals) backupSource(keys bool) (func(context.Context, io.Writer) error, error) {
	if g.node != "" && g.dataDir != "" && !isSocketOf(g.node, g.dataDir) {
		return nil, fail(exitUsage, "--node %s and --data-dir %s: which of them is backed up? Give one", g.node, g.dataDir)
	}
	if g.named() == "" {
		cfg, err := g.load()
		if err != nil {
			return nil, err
		}
		conn, err := net.Dial("unix", parley.SocketPath(cfg.DataDir)) //nolint:noctx // a local socket answers at once
		if err != nil {
			g.say("no node runs on %s: reading its data directory", cfg.DataDir)
			return func(ctx context.Context, w io.Writer) error {
				_, err := parley.CreateBackup(ctx, cfg.Config, w, keys)
				return err
			}, nil
		}
		_ = conn.Close()
	}
	cl, err := g.client()
	if err != nil {
		return nil, err
	}
	path := "backup"
	if keys {
		path = query(path, "with_keys", "true")
	}
	return func(ctx context.Context, w io.Writer) error {
		res, err := cl.request(ctx, http.MethodGet, path, "", nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(w, res.Body); err != nil {
			return fmt.Errorf("the node broke the backup off: %w: its log says why", err)
		}
		return nil
	}, nil
}

// isSocketOf reports whether a node's name is the socket of that directory.
func isSocketOf(node, dataDir string) bool {
	path, ok := strings.CutPrefix(node, "unix:")
	if !ok {
		return false
	}
	a, err := os.Stat(path)
	b, err2 := os.Stat(parley.SocketPath(dataDir))
	return err == nil && err2 == nil && os.SameFile(a, b)
}

func backupVerifyCommand(g *globals) *cobra.Command {
	var quick bool
	c := &cobra.Command{
		Use: "verify FILE", Short: "Check a backup and its whole chain; exit 4 on damage", Args: cobra.ExactArgs(1),
		Long:    "It unpacks the backup beside FILE for the time of the check, and verifies the chain in it like chain check. With --quick it compares the files with the manifest alone, and writes nothing.",
		Example: "parley backup verify parley.tar.zst",
		RunE: func(c *cobra.Command, args []string) error {
			return g.verifyBackup(c.Context(), args[0], quick)
		},
	}
	c.Flags().BoolVar(&quick, "quick", false, "only compare the files with the manifest")
	return c
}

func (g *globals) verifyBackup(ctx context.Context, file string, quick bool) (err error) {
	f, err := openBackup(file)
	if err != nil {
		return err
	}
	defer f.Close()
	start := time.Now()
	bar := newBar(g)
	defer bar.end()
	if quick {
		m, err := parley.VerifyBackup(ctx, f, g.byteBar(bar, "compared"))
		if err != nil {
			return backupFault(ctx, file, err)
		}
		bar.end()
		return g.showManifest(m, "backup", "good: every file is what was written", "took", time.Since(start).Round(time.Millisecond).String())
	}
	dir, done, err := verifyDir(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	m, err := parley.RestoreBackup(ctx, f, parley.RestoreOptions{
		DataDir: filepath.Join(dir, "data"), Bytes: g.byteBar(bar, "unpacked"),
		Blocks: func(done, total uint64) {
			bar.show(int64(done), int64(total), fmt.Sprintf("block %d of %d", done, total))
		},
	})
	if err != nil {
		return backupFault(ctx, file, err)
	}
	bar.end()
	return g.showManifest(m, "backup", "good: every file, and every block, certificate, record and index entry", "took", time.Since(start).Round(time.Millisecond).String())
}

// verifyDir makes a directory beside the backup, where there is room for it, or
// where temporary files go: backups lie on read-only disks too. It is locked
// until done, and what a killed verify left, which holds no lock, goes.
func verifyDir(beside string) (dir string, done func() error, err error) {
	for _, parent := range []string{beside, os.TempDir()} {
		sweepVerify(parent)
		if dir, err = os.MkdirTemp(parent, verifyName); err == nil {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	lock, _ := lockedDir(dir) // without one it could be swept by another verify, and say so
	return dir, func() error {
		err := os.RemoveAll(dir)
		if lock != nil {
			err = errors.Join(err, lock.Close())
		}
		return err
	}, nil
}

const verifyName = ".parley-verify-*.tmp"

func sweepVerify(parent string) {
	entries, _ := os.ReadDir(parent) // what can not be read is not swept
	for _, e := range entries {
		if old, _ := filepath.Match(verifyName, e.Name()); !old || !e.IsDir() {
			continue
		}
		path := filepath.Join(parent, e.Name())
		if lock, err := lockedDir(path); err == nil {
			_ = os.RemoveAll(path) // what stays costs room, and is tried again
			_ = lock.Close()
		}
	}
}

// lockedDir locks a directory until the file is closed, or its process ends.
func lockedDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func backupRestoreCommand(g *globals) *cobra.Command {
	var genesis string
	c := &cobra.Command{
		Use: "restore FILE --data-dir DIR", Short: "Unpack a backup into an empty data directory", Args: cobra.ExactArgs(1),
		Long: "Checks every file, and that the newest block belongs to the chain of its genesis. A node started on DIR goes on from there at once, and verifies the rest in the background.\n" +
			"A restored validator votes again after two blocks that are committed after its start: before, it could sign twice for one height.",
		Example: "parley backup restore parley.tar.zst --data-dir node4 --genesis 93ff…",
		RunE: func(c *cobra.Command, args []string) error {
			if g.dataDir == "" {
				return usage(c, errors.New("--data-dir is missing: name the empty directory to restore into"))
			}
			var pin chain.Hash
			if c.Flags().Changed("genesis") { // an unset variable is no wish to go without
				var err error
				if pin, err = parseGenesisHash(c, genesis); err != nil {
					return err
				}
				if pin.IsZero() {
					return usage(c, fmt.Errorf("--genesis %s: no chain has it: parley chain status on a node of the chain shows its own", genesis))
				}
			}
			return g.restoreBackup(c.Context(), args[0], pin)
		},
	}
	c.Flags().StringVar(&genesis, "genesis", "", "take only a backup of this chain: hash of its genesis")
	return c
}

func (g *globals) restoreBackup(ctx context.Context, file string, genesis chain.Hash) error {
	f, err := openBackup(file)
	if err != nil {
		return err
	}
	defer f.Close()
	cfg, err := g.load() // it may name other files for the keys
	if err != nil {
		return err
	}
	bar := newBar(g)
	m, err := parley.RestoreBackup(ctx, f, parley.RestoreOptions{DataDir: cfg.DataDir, KeyFile: cfg.Node.KeyFile, JWTFile: cfg.API.JWTSecretFile, PSKFile: cfg.P2P.SharedKeyFile,
		Genesis: genesis, Bytes: g.byteBar(bar, "unpacked")})
	bar.end()
	if err != nil {
		return backupFault(ctx, file, err)
	}
	if genesis.IsZero() {
		g.say("the chain was taken on trust: compare its genesis hash with that of your other nodes, or restore with --genesis")
	}
	if m.WithKeys {
		g.say("the backup brought the node's key: never run it on two machines; if it is a validator's, it votes again after two blocks that are committed after its start")
	} else {
		g.say("the backup holds no keys: the node makes an identity of its own at its start")
	}
	return g.showManifest(m, "restored", g.dataDir, "next", "parley run --data-dir "+g.dataDir)
}

func openBackup(file string) (*os.File, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail(exitNotFound, "no backup %s: name a file that parley backup create --out wrote [PLY-006]", file)
	}
	return f, err
}

// byteBar shows how many bytes were read.
func (g *globals) byteBar(b *bar, verb string) func(done, total int64) {
	return func(done, total int64) {
		b.show(done, total, fmt.Sprintf("%s %s of %s", verb, size(done), size(total)))
	}
}

// backupFault tells a bad backup from a disk or a node that failed.
func backupFault(ctx context.Context, file string, err error) error {
	var bad *parley.BackupError
	var other *parley.OtherChainError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, parley.ErrNoBackup):
		return &codeError{exitCheck, fmt.Errorf("%s is no backup: name a file that parley backup create --out wrote [PLY-104]", file)}
	case errors.As(err, &bad):
		return &codeError{exitCheck, fmt.Errorf("%s: %w: use an older backup, or sync from peers [PLY-104]", file, err)}
	case errors.As(err, &other):
		return &codeError{exitCheck, fmt.Errorf("%s: %w: compare the hash with that of your nodes: parley chain status [PLY-104]", file, err)}
	case errors.Is(err, parley.ErrLocked):
		return fail(exitUnreachable, "%w [PLY-104]", err)
	case errors.Is(err, fs.ErrNotExist):
		return &codeError{exitNotFound, err}
	}
	return err
}

func (g *globals) showManifest(m *parley.Manifest, pairs ...string) error {
	return g.showValue(m, func() *table {
		keys := "no"
		if m.WithKeys {
			keys = "yes: keep the file like a key"
		}
		t := facts(pairs[:2]...)
		t.add("chain", m.ChainID+", genesis "+m.GenesisHash.String())
		t.add("head", strconv.FormatUint(m.Height, 10)+"  "+m.HeadHash.String())
		t.add("holds", fmt.Sprintf("%s, %s", count(len(m.Files), "file"), size(m.Bytes())))
		t.add("keys", keys)
		t.add("written", when(m.Created)+" by parley "+m.Version)
		t.rows = append(t.rows, facts(pairs[2:]...).rows...)
		return t
	})
}

// syncDir puts a directory's entries on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
