package api

import (
	"bytes"
	"testing"

	"github.com/parley-p2p/parley"
)

// TestBackup takes a backup as each kind of caller.
func TestBackup(t *testing.T) {
	h := start(t, nil)
	if got := h.do("GET", "/api/v1/backup", "", ""); got.status != 401 {
		t.Errorf("without a token: %d", got.status)
	}
	if got := h.do("GET", "/api/v1/backup", h.token("read"), ""); got.status != 403 {
		t.Errorf("scope read: %d", got.status)
	}
	if got := h.do("GET", "/api/v1/backup?with_keys=true", h.token("admin"), ""); got.status != 403 {
		t.Errorf("keys over TCP: %d", got.status)
	}
	if got := h.do("GET", "/api/v1/backup?with_keys=1", "unix", ""); got.status != 400 {
		t.Errorf("with_keys=1: %d", got.status)
	}
	for _, c := range []struct {
		path, token string
		keys        bool
	}{
		{"/api/v1/backup", h.token("admin"), false}, {"/api/v1/backup", "unix", false}, {"/api/v1/backup?with_keys=true", "unix", true},
	} {
		got := h.do("GET", c.path, c.token, "")
		if got.status != 200 || got.header.Get("Content-Type") != backupType {
			t.Fatalf("%s: %d %s", c.path, got.status, got.body)
		}
		m, err := parley.VerifyBackup(t.Context(), bytes.NewReader(got.body), nil)
		if err != nil {
			t.Fatal(err)
		}
		key := false
		for _, f := range m.Files {
			key = key || f.Path == "node.key"
		}
		if key != c.keys || m.WithKeys != c.keys {
			t.Errorf("%s: key in the backup: %v", c.path, key)
		}
	}
}
