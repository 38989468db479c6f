package parley

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

func item(path, content string) backupItem {
	return backupItem{path, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

func sampleBackup(tb testing.TB) []byte {
	tb.Helper()
	var b bytes.Buffer
	m := &Manifest{Format: backupFormat, Schema: schema, WithKeys: true}
	err := writeBackup(context.Background(), &b, m, []backupItem{item("meta.json", "{}"), item("node.key", "key"), item("ledger/000001.sst", strings.Repeat("table ", 5000)), item("ledger/OPTIONS-3", "")})
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// archive packs entries as they come, behind a manifest that lists files.
func archive(t *testing.T, edit func(*Manifest), entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	m := Manifest{Format: backupFormat, Schema: schema}
	for _, e := range entries {
		m.Files = append(m.Files, ManifestFile{Path: e.Name, Size: e.Size, SHA256: sha256.Sum256(make([]byte, e.Size)), Mode: fileMode})
	}
	if edit != nil {
		edit(&m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	entries = append([]*tar.Header{{Name: manifestName, Size: int64(len(text)), Typeflag: tar.TypeReg}}, entries...)
	for i, e := range entries {
		if err := w.WriteHeader(e); err != nil {
			t.Fatal(err)
		}
		content := make([]byte, e.Size)
		if i == 0 {
			content = text
		}
		if e.Typeflag == tar.TypeReg {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadBackupRefuses(t *testing.T) {
	reg := func(name string, size int64) *tar.Header {
		return &tar.Header{Name: name, Size: size, Typeflag: tar.TypeReg}
	}
	good := sampleBackup(t)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-20] ^= 1
	var bomb bytes.Buffer
	z, err := zstd.NewWriter(&bomb)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(z, io.LimitReader(zeros{}, 1<<30)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"nothing":         {nil, "no manifest"},
		"no zstd":         {[]byte("hello, this is no archive"), "it is no backup of a node: no manifest"},
		"zeros for ever":  {bomb.Bytes(), "no manifest"},
		"cut":             {good[:len(good)/2], "the backup is damaged"},
		"cut at its end":  {good[:len(good)-1], "the backup is damaged"},
		"a flipped bit":   {flipped, "the backup is damaged"},
		"tail":            {append(bytes.Clone(good), bomb.Bytes()...), "something follows the last file"},
		"format":          {archive(t, func(m *Manifest) { m.Format = "x" }, reg("meta.json", 2)), `format "x" is unknown`},
		"schema":          {archive(t, func(m *Manifest) { m.Schema = schema + 1 }, reg("meta.json", 2)), "upgrade parley"},
		"no files":        {archive(t, nil), "0 files"},
		"parent":          {archive(t, nil, reg("../x", 1)), `it holds "../x"`},
		"deep parent":     {archive(t, nil, reg("ledger/../../x", 1)), `it holds "ledger/../../x"`},
		"absolute":        {archive(t, nil, reg("/etc/passwd", 1)), `it holds "/etc/passwd"`},
		"votes":           {archive(t, nil, reg("wal/0000.wal", 1)), `it holds "wal/0000.wal"`},
		"a lock":          {archive(t, nil, reg("ledger/LOCK", 1)), `it holds "ledger/LOCK"`},
		"hidden":          {archive(t, nil, reg("ledger/.x", 1)), `it holds "ledger/.x"`},
		"keys unasked":    {archive(t, nil, reg("node.key", 1)), `it holds "node.key"`},
		"twice":           {archive(t, nil, reg("meta.json", 1), reg("meta.json", 1)), "stands twice"},
		"a link":          {archive(t, nil, &tar.Header{Name: "meta.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), `it has "meta.json" of 0 bytes`},
		"unlisted":        {archive(t, func(m *Manifest) { m.Files = m.Files[:1] }, reg("meta.json", 1), reg("reach.json", 1)), `it holds "reach.json"`},
		"missing":         {archive(t, func(m *Manifest) { m.Files = append(m.Files, ManifestFile{Path: "reach.json", Mode: fileMode}) }, reg("meta.json", 1)), "it ends before reach.json"},
		"another size":    {archive(t, func(m *Manifest) { m.Files[0].Size = 1 << 39 }, reg("meta.json", 1)), "lists meta.json of 549755813888"},
		"below zero":      {archive(t, func(m *Manifest) { m.Files[0].Size = -1 }, reg("meta.json", 1)), "has -1 bytes"},
		"sum over bounds": {archive(t, func(m *Manifest) { m.Files[0].Size, m.Files[1].Size = 1<<40, 1<<40 }, reg("meta.json", 1), reg("reach.json", 1)), "over the limit"},
		"mode":            {archive(t, func(m *Manifest) { m.Files[0].Mode = "4755" }, reg("meta.json", 1)), `mode "4755"`},
		"hash":            {archive(t, func(m *Manifest) { m.Files[0].SHA256[0]++ }, reg("meta.json", 1)), "its SHA-256 differs"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := VerifyBackup(t.Context(), bytes.NewReader(test.raw), nil)
			runtime.ReadMemStats(&after)
			var bad *BackupError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("took %d MiB of memory", n>>20)
			}
			dir := filepath.Join(t.TempDir(), "d")
			if _, err := RestoreBackup(t.Context(), bytes.NewReader(test.raw), RestoreOptions{DataDir: dir}); err == nil {
				t.Error("restored")
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a directory is left: %v", err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestRestoreLooksAtTheChain packs stores that are not what the manifest says.
func TestRestoreLooksAtTheChain(t *testing.T) {
	source := t.TempDir()
	c := ledgertest.New(t, 4)
	l := fill(t, source, c, 5)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.DataDir = source
	var good bytes.Buffer
	m, err := CreateBackup(t.Context(), cfg, &good, false)
	if err != nil {
		t.Fatal(err)
	}
	if m.Height != 5 || m.HeadHash != c.Head().Hash || m.GenesisHash != c.Genesis().Hash() {
		t.Errorf("manifest %+v", m)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if _, err := RestoreBackup(t.Context(), bytes.NewReader(good.Bytes()), RestoreOptions{DataDir: dir, Genesis: c.Genesis().Hash()}); err != nil {
		t.Fatal(err)
	}
	if height, err := CheckLedger(t.Context(), dir, func(_, _ uint64) {}); err != nil || height != 5 {
		t.Errorf("restored: height %d, %v", height, err)
	}
	if _, err := RestoreBackup(t.Context(), bytes.NewReader(good.Bytes()), RestoreOptions{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("into a full directory: %v", err)
	}
	if _, err := RestoreBackup(t.Context(), bytes.NewReader(good.Bytes()), RestoreOptions{DataDir: t.TempDir(), Genesis: chain.Hash{1}}); err == nil || !strings.Contains(err.Error(), "not of the one with genesis 01") {
		t.Errorf("of another chain: %v", err)
	}

	lie := repack(t, good.Bytes(), func(m *Manifest) { m.Height++ })
	if _, err := RestoreBackup(t.Context(), bytes.NewReader(lie), RestoreOptions{DataDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "the ledger ends at 5") {
		t.Errorf("another height: %v", err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := RestoreBackup(stopped, bytes.NewReader(good.Bytes()), RestoreOptions{DataDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestRestoreBrokenOff: no node starts on what a killed restore left, wherever
// it was, and the next restore takes it over; a node and foreign keys stay.
func TestRestoreBrokenOff(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	if err := fill(t, cfg.DataDir, ledgertest.New(t, 4), 5).Close(); err != nil {
		t.Fatal(err)
	}
	put := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(cfg.DataDir, "node.key"), "the key")
	put(filepath.Join(cfg.DataDir, "meta.json"), `{"schema":1,"network":"consortium"}`)
	var backup bytes.Buffer
	if _, err := CreateBackup(t.Context(), cfg, &backup, true); err != nil {
		t.Fatal(err)
	}
	restore := func(dir string) error {
		_, err := RestoreBackup(t.Context(), bytes.NewReader(backup.Bytes()), RestoreOptions{DataDir: dir})
		return err
	}
	for _, tt := range []struct {
		name  string
		back  []string // what is not in its place yet
		key   string   // in its place, where it is not the backup's
		start string   // error of a start
		again string   // error of another restore
	}{
		{"nothing moved", []string{"meta.json", "node.key", "ledger"}, "", "restore again", ""},
		{"first file moved", []string{"node.key", "ledger"}, "", "restore again", ""},
		{"all but the ledger", []string{"ledger"}, "", "restore again", ""},
		{"the ledger alone", []string{"meta.json", "node.key"}, "", "restore again", ""},
		{"all", nil, "", "", "it holds ledger"},
		{"another key", []string{"meta.json", "ledger"}, "another", "restore again", "node.key exists and is not the one of the backup"},
		{"a node that ran", []string{"node.key"}, "", "restore again", "it holds ledger"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "[data]*")
			if err := restore(dir); err != nil {
				t.Fatal(err)
			}
			half := filepath.Join(dir, "restore-1.tmp")
			if err := os.Mkdir(half, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range tt.back {
				if err := os.Rename(filepath.Join(dir, name), filepath.Join(half, name)); err != nil {
					t.Fatal(err)
				}
			}
			if tt.key != "" {
				put(filepath.Join(dir, "node.key"), tt.key)
			}
			before := ""
			if !slices.Contains(tt.back, "ledger") {
				before = listing(t, dir)
			}
			err := openDataDir(dir, "consortium")
			if start := (*StartError)(nil); tt.start == "" && err != nil || tt.start != "" && (!errors.As(err, &start) || !strings.Contains(err.Error(), tt.start)) {
				t.Errorf("a start: %v", err)
			}
			err = restore(dir)
			if tt.again == "" && err != nil || tt.again != "" && (err == nil || !strings.Contains(err.Error(), tt.again)) {
				t.Errorf("another restore: %v", err)
			}
			if tt.again != "" {
				if before != "" && listing(t, dir) != before {
					t.Errorf("changed: %s\nbefore: %s", listing(t, dir), before)
				}
				if err := openDataDir(dir, "consortium"); tt.start != "" && (err == nil || !strings.Contains(err.Error(), tt.start)) {
					t.Errorf("a start after it: %v", err)
				}
				if b, err := os.ReadFile(filepath.Join(dir, "node.key")); tt.key != "" && string(b) != tt.key {
					t.Errorf("the key is %q: %v", b, err)
				}
				return
			}
			if b, err := os.ReadFile(filepath.Join(dir, "node.key")); string(b) != "the key" {
				t.Errorf("key %q: %v", b, err)
			}
			if height, err := check(t, dir); height != 5 || err != nil {
				t.Errorf("height %d: %v", height, err)
			}
			if err := openDataDir(dir, "consortium"); err != nil {
				t.Error(err)
			}
			if left, err := fs.Glob(os.DirFS(dir), "*.tmp"); err != nil || len(left) > 0 {
				t.Errorf("left: %v %v", left, err)
			}
		})
	}
}

// TestRestoreKeyFile: the key goes where the configuration has it.
func TestRestoreKeyFile(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir, cfg.Node.KeyFile = t.TempDir(), filepath.Join(t.TempDir(), "elsewhere.key")
	if err := errors.Join(fill(t, cfg.DataDir, ledgertest.New(t, 4), 1).Close(), os.WriteFile(cfg.Node.KeyFile, []byte("the key"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if _, err := CreateBackup(t.Context(), cfg, &backup, true); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"", "own.key", filepath.Join(t.TempDir(), "new", "a.key"), cfg.Node.KeyFile} {
		o := RestoreOptions{DataDir: filepath.Join(t.TempDir(), "data"), KeyFile: file}
		if _, err := RestoreBackup(t.Context(), bytes.NewReader(backup.Bytes()), o); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(o.target("node.key")); string(b) != "the key" {
			t.Errorf("%q: key %q: %v", file, b, err)
		}
		if _, err := os.Stat(filepath.Join(o.DataDir, "node.key")); file != "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: there is a node.key: %v", file, err)
		}
	}
	if err := os.WriteFile(cfg.Node.KeyFile, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := RestoreOptions{DataDir: filepath.Join(t.TempDir(), "data"), KeyFile: cfg.Node.KeyFile}
	if _, err := RestoreBackup(t.Context(), bytes.NewReader(backup.Bytes()), o); err == nil || !strings.Contains(err.Error(), "is not the one of the backup") {
		t.Errorf("over another key: %v", err)
	}
	if _, err := os.Stat(o.DataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory stays: %v", err)
	}
}

// repack changes the manifest of a backup and nothing else.
func repack(t *testing.T, raw []byte, edit func(*Manifest)) []byte {
	t.Helper()
	var items []backupItem
	m, err := readBackup(t.Context(), bytes.NewReader(raw), nil, func(f ManifestFile, r io.Reader) error {
		b, err := io.ReadAll(r)
		items = append(items, item(f.Path, string(b)))
		return err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Files = nil
	edit(m)
	var out bytes.Buffer
	if err := writeBackup(t.Context(), &out, m, items); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzBackup reads anything; what is accepted has every file of its manifest.
func FuzzBackup(f *testing.F) {
	good := sampleBackup(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		read := map[string]int64{}
		m, err := readBackup(t.Context(), bytes.NewReader(b), nil, func(f ManifestFile, r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			read[f.Path] = n
			return err
		}, nil)
		if err != nil {
			return
		}
		for _, f := range m.Files {
			if n, ok := read[f.Path]; !ok || n != f.Size || filepath.IsAbs(f.Path) || strings.Contains(f.Path, "..") && !plainName(strings.TrimPrefix(f.Path, "ledger/")) {
				t.Errorf("%s: %d bytes of %d", f.Path, n, f.Size)
			}
		}
	})
}
