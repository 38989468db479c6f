package host

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// The key of seed 00 01 … 1f, made with openssl and by hand.
const (
	seedHex   = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	publicHex = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
	seedPEM   = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n"
)

func libp2pForm() string {
	raw, _ := hex.DecodeString("08011240" + seedHex + publicHex)
	return base64.StdEncoding.EncodeToString(raw)
}

func TestKeyFormats(t *testing.T) {
	forms := map[string]string{
		FormatPEM: seedPEM, FormatHex: seedHex + "\n", FormatTeranode: seedHex + publicHex + "\n", FormatLibp2p: libp2pForm() + "\n",
	}
	for format, text := range forms {
		for _, given := range []string{format, ""} {
			key, err := ImportKey([]byte("  "+text), given)
			if err != nil {
				t.Errorf("%s (given as %q): %v", format, given, err)
				continue
			}
			if raw := RawEd25519(key); hex.EncodeToString(raw) != seedHex+publicHex {
				t.Errorf("%s: key %x", format, raw)
			}
			for other, want := range forms {
				if got, err := ExportKey(key, other); err != nil || string(got) != want {
					t.Errorf("%s as %s: %q, %v; want %q", format, other, got, err, want)
				}
			}
		}
	}
	ec, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ExportKey(ec, FormatPEM); err == nil || RawEd25519(ec) != nil || RawEd25519(nil) != nil {
		t.Error("a key of another type is exported")
	}
	if _, err := ExportKey(newKey(t), "der"); err == nil {
		t.Error("format der is known")
	}
}

func TestImportKeyRefuses(t *testing.T) {
	ecPEM := "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n"
	ec, _, err := crypto.GenerateECDSAKeyPair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecRaw, err := crypto.MarshalPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	wrongHalf, _ := hex.DecodeString("08011240" + seedHex + seedHex)
	for name, c := range map[string]struct{ format, text, want string }{
		"empty":               {"", " \n", "empty"},
		"long":                {"", strings.Repeat("a", maxKeyFile+1), "longer"},
		"short hex":           {FormatHex, seedHex[1:], "64 hex digits"},
		"no hex":              {FormatHex, strings.Repeat("x", 64), "hex digits"},
		"wrong public half":   {FormatTeranode, seedHex + seedHex, "second half"},
		"no PEM":              {FormatPEM, "hello", "no PEM block"},
		"cut PEM":             {FormatPEM, seedPEM[:60], "no PEM block"},
		"two PEM blocks":      {FormatPEM, seedPEM + seedPEM, "nothing else"},
		"public key":          {FormatPEM, strings.ReplaceAll(seedPEM, "PRIVATE", "PUBLIC"), "PRIVATE KEY"},
		"other PEM":           {FormatPEM, ecPEM, "PKCS#8"},
		"no base64":           {FormatLibp2p, "***", "base64"},
		"no protobuf":         {FormatLibp2p, "aGVsbG8=", "libp2p key"},
		"other type":          {FormatLibp2p, base64.StdEncoding.EncodeToString(ecRaw), "not Ed25519"},
		"libp2p, wrong half":  {FormatLibp2p, base64.StdEncoding.EncodeToString(wrongHalf), "public key"},
		"format is not known": {"der", seedHex, "pem, hex, libp2p or teranode"},
	} {
		key, err := ImportKey([]byte(c.text), c.format)
		if err == nil || key != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		} else if strings.Contains(err.Error(), seedHex) {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	if _, err := LoadKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	key, created, err := LoadOrCreateKey(path)
	if err != nil || !created {
		t.Fatalf("first run: created %v, %v", created, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	again, created, err := LoadOrCreateKey(path)
	if err != nil || created || !again.Equals(key) {
		t.Errorf("second run: created %v, same %v, %v", created, again.Equals(key), err)
	}
	if _, err := CreateKey(path); !errors.Is(err, ErrKeyExists) {
		t.Errorf("create over a key: %v", err)
	}
	other := newKey(t)
	if err := SaveKey(path, other, false); !errors.Is(err, ErrKeyExists) {
		t.Errorf("save over a key: %v", err)
	}
	if err := SaveKey(path, other, true); err != nil {
		t.Error(err)
	}
	if got, err := LoadKey(path); err != nil || !got.Equals(other) {
		t.Errorf("after replacing: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("files are left over: %v", left)
	}
	if err := SaveKey(filepath.Join(path, "x"), other, false); err == nil {
		t.Error("saved below a file")
	}
}

func TestKeyFileModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	key, err := CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o777: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		got, err := LoadKey(path)
		if got == nil || !got.Equals(key) {
			t.Errorf("%o: no key", mode)
		}
		if ok != (err == nil) || !ok && (!errors.Is(err, ErrKeyMode) || !strings.Contains(err.Error(), "chmod 600 "+path)) {
			t.Errorf("%o: %v", mode, err)
		}
	}
}

func TestDamagedKeyFileIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	for _, damaged := range []string{"", "rubbish", seedPEM[:70], strings.Repeat("x", 10_000), "\x00\x00"} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		key, created, err := LoadOrCreateKey(path)
		if err == nil || created || key != nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.20q: created %v, %v", damaged, created, err)
		}
		if b, _ := os.ReadFile(path); string(b) != damaged {
			t.Errorf("%.20q was overwritten", damaged)
		}
	}
	if _, err := LoadKey(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a directory: %v", err)
	}
}

// Several processes that start at once agree on one key.
func TestKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	keys := make([]crypto.PrivKey, 8)
	made := make([]bool, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], made[i], err = LoadOrCreateKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for i := range keys {
		if made[i] {
			n++
		}
		if keys[i] == nil || !keys[i].Equals(keys[0]) {
			t.Error("keys differ")
		}
	}
	if n != 1 {
		t.Errorf("%d keys were made", n)
	}
}

func FuzzImportKey(f *testing.F) {
	for _, s := range []string{seedPEM, seedHex, seedHex + publicHex, libp2pForm(), "", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"} {
		for _, format := range []string{"", FormatPEM, FormatHex, FormatTeranode, FormatLibp2p} {
			f.Add([]byte(s), format)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, format string) {
		key, err := ImportKey(b, format)
		if err != nil {
			return
		}
		raw := RawEd25519(key)
		if !bytes.Equal(raw, ed25519.NewKeyFromSeed(raw.Seed())) {
			t.Fatalf("%q gave a key whose halves differ", b)
		}
		for _, format := range []string{FormatPEM, FormatHex, FormatTeranode, FormatLibp2p} {
			out, err := ExportKey(key, format)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ImportKey(out, ""); err != nil || !again.Equals(key) {
				t.Fatalf("%s %q: %v", format, out, err)
			}
		}
	})
}
