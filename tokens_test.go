package parley

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/config"
)

func TestTokenSecrets(t *testing.T) {
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.API.Listen, c.Ops.Listen, c.P2P.Port, c.Profile = nil, "", 0, config.ProfileDevnet
	c.P2P.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	n, err := New(c, Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(c.DataDir, c.API.JWTSecretFile)
	if _, err := os.Stat(path); err == nil {
		t.Fatal("a secret was made that nobody asked for")
	}
	made, err := n.TokenSecrets()
	if err != nil || len(made) != 2 || len(made[0]) != 32 {
		t.Fatalf("made %d secrets: %v", len(made), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("secret file: %v %v", info.Mode(), err)
	}
	again, err := ReadTokenSecrets(c)
	if err != nil || !sameSecrets(again, made) {
		t.Fatalf("read again: other secrets, %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTokenSecrets(c); err == nil {
		t.Error("a secret that others may read was taken")
	}
	if kept, err := n.TokenSecrets(); err != nil || !sameSecrets(kept, made) {
		t.Errorf("between two reloads the secrets changed: %v", err)
	}
	old, second := strings.Repeat("o", 32), strings.Repeat("s", 40)
	if got := parseSecrets([]byte("short\n" + second + "\r\n\n" + old)); len(got) != 2 || string(got[0]) != second || string(got[1]) != old {
		t.Errorf("lines: %q", got)
	}
	c.API.JWTSecret = "too short"
	if got, err := ReadTokenSecrets(c); err != nil || len(got) != 0 {
		t.Errorf("short value: %d secrets, %v", len(got), err)
	}
}
