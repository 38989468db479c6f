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
		"no zstd":         {[]byte("hello, this is no archive"), "no manifest"},
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
