package main

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/internal/pgtest"
)

// TestBundleHoldsNoSecret: a node that was given every kind of secret and says
// all that it can gives none of them away, in its bundle or in its log.
func TestBundleHoldsNoSecret(t *testing.T) {
	db := pgtest.New(t)
	dir := t.TempDir()
	secrets := map[string]string{
		"shared key": strings.Repeat("5e", 32), "private key": strings.Repeat("1d", 32), "secret of tokens": "tokens-are-signed-with-this-long-text",
		"password of the database": "hush-postgres", "password of the sink": "hush-sink", "token of the traces' receiver": "hush-traces",
	}
	creds := filepath.Join(dir, "creds")
	if err := os.WriteFile(creds, []byte("ann:"+secrets["password of the sink"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("p2p_shared_key", secrets["shared key"])
	t.Setenv("p2p_private_key", secrets["private key"])
	t.Setenv("JWT_SECRET", secrets["secret of tokens"])
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization="+secrets["token of the traces' receiver"])
	n := startFleetNode(t, "n",
		"bans.store="+strings.Replace(db.URL(), "parley@", "parley:"+secrets["password of the database"]+"@", 1),
		`sink=[{ kind = "nats", url = "nats://127.0.0.1:1", credentials_file = "`+creds+`" }]`, "log.level=debug", "telemetry.sample_ratio=1")
	submit(n, "hello")
	db.Stop("fast") // what does not work is told of most
	if out, err := parleyCommand(t.Context(), "bans", "add", "192.0.2.1", "--data-dir", n.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	db.Start()

	path := filepath.Join(dir, "b.zip")
	if out, err := parleyCommand(t.Context(), "debug", "bundle", "--data-dir", n.dir, "--out", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range [][2]string{
		{"api/v1/config.json", "parley:***@"}, {"api/v1/config.json", "credentials_file"}, {"api/v1/shared-keys.json", "dial"},
		{"log.jsonl", `"level":"DEBUG"`}, {"log.jsonl", "the ban list cannot be written"}, {"log.jsonl", "sink still fails"},
	} {
		if !bytes.Contains(files[c[0]], []byte(c[1])) {
			t.Errorf("%s has no %s: the test does not look where a secret would be", c[0], c[1])
		}
	}
	shown, err := parleyCommand(t.Context(), "config", "show", "--data-dir", n.dir, "--origin").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, shown)
	}
	files["config show"] = shown
	for name, b := range files {
		for what, secret := range secrets {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds the %s", name, what)
			}
		}
	}
}
