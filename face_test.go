package parley_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// labConfig is a lone node on free ports of the loopback.
func labConfig(t *testing.T) config.Config {
	t.Helper()
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Profile = config.ProfileDevnet
	c.Node.Name = "n1"
	c.API.Listen = []string{"127.0.0.1:0"}
	c.P2P.Port, c.P2P.Listen = 0, []string{"/ip4/127.0.0.1/tcp/0"}
	return c
}

func open(t *testing.T, c config.Config) (*parley.Node, error) {
	t.Helper()
	n, err := parley.New(c, parley.Env{})
	if err == nil {
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return n, err
}

// Each bad start is one sentence that names the thing and the mend, and leaves
// what it found as it was.
func TestBadStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name  string
		edit  func(t *testing.T, c *config.Config)
		start bool // want a *StartError
		want  []string
	}{
		{"a taken port", func(_ *testing.T, c *config.Config) { c.API.Listen = []string{taken.Addr().String()} }, false,
			[]string{"api.listen", taken.Addr().String(), "choose another"}},
		{"a file in place of a socket", func(t *testing.T, c *config.Config) {
			c.API.Listen = []string{"127.0.0.1:0", "unix:" + write(t, filepath.Join(t.TempDir(), "precious.txt"), 0o644)}
		}, true, []string{"precious.txt", "not a socket"}},
		{"a foreign data directory", func(t *testing.T, c *config.Config) {
			c.DataDir = t.TempDir()
			write(t, filepath.Join(c.DataDir, "thesis.doc"), 0o644)
			if err := os.Chmod(c.DataDir, 0o755); err != nil {
				t.Fatal(err)
			}
		}, true, []string{"thesis.doc", "--data-dir"}},
		{"a damaged key", func(t *testing.T, c *config.Config) {
			mkdir(t, c.DataDir)
			write(t, filepath.Join(c.DataDir, "node.key"), 0o600)
		}, true, []string{"node.key"}},
		{"a key that others may read", func(t *testing.T, c *config.Config) {
			mkdir(t, c.DataDir)
			write(t, filepath.Join(c.DataDir, "node.key"), 0o644)
		}, true, []string{"node.key"}},
		{"a pinned chain and nobody to ask", func(_ *testing.T, c *config.Config) { c.Consortium.ChainID = "ours" }, true,
			[]string{"ours", "PEERS"}},
		{"a genesis file that is not there", func(_ *testing.T, c *config.Config) { c.Consortium.GenesisFile = "/nowhere/genesis.json" }, true,
			[]string{"/nowhere/genesis.json"}},
		{"no bootstrap", func(_ *testing.T, c *config.Config) { c.Consortium.Bootstrap = config.BootstrapNever }, true,
			[]string{"consortium.bootstrap", "PEERS"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := labConfig(t)
			tt.edit(t, &c)
			before := tree(t, c.DataDir)
			_, err := open(t, c)
			if err == nil {
				t.Fatal("it started")
			}
			var start *parley.StartError
			if errors.As(err, &start) != tt.start {
				t.Errorf("%T: a restart helps? %v", err, err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not name %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			for path, was := range before {
				if now := tree(t, c.DataDir)[path]; now != was {
					t.Errorf("%s was %s and is %q", path, was, now)
				}
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, mode fs.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("mine"), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// tree lists the files of a directory with mode and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(b)
		}
		files[path] = info.Mode().String() + " " + text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A second node on one data directory is refused, and the first goes on.
func TestDataDirectoryInUse(t *testing.T) {
	c := labConfig(t)
	n, err := open(t, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if _, err := open(t, c); err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a second node: %v", err)
	}
	if _, err := n.Submit(t.Context(), parley.Draft{Subject: "x", Body: []byte(`{}`)}, parley.Committed); err != nil {
		t.Error(err)
	}
}

// A local socket need not be the first listener to share a port with peers.
func TestSocketBeforePort(t *testing.T) {
	c := labConfig(t)
	c.API.Listen = []string{"unix:" + filepath.Join(t.TempDir(), "x.sock"), "127.0.0.1:0"}
	n, err := open(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Listeners(); len(got) != 3 || !got[0].Admin || got[1].Admin || !got[2].Admin {
		t.Errorf("%+v", got)
	}
	c = labConfig(t)
	c.API.Listen = nil
	if _, err := open(t, c); err != nil {
		t.Errorf("without a port for the API: %v", err)
	}
}
