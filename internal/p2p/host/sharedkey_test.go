package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/pnet"
)

const (
	pskA = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	pskB = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
)

func sharedKeys(t testing.TB, text ...string) []SharedKey {
	t.Helper()
	keys, err := ParseSharedKeys([]byte(strings.Join(text, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestParseSharedKeys(t *testing.T) {
	usual := sharedKeyHeader + "\n" + sharedKeyBase + "\n" + pskA + "\n"
	for _, c := range []struct {
		text, err string
		n         int
	}{
		{text: usual, n: 1},
		{text: strings.TrimSpace(usual), n: 1},
		{text: strings.ReplaceAll(usual, "\n", "\r\n"), n: 1},
		{text: pskA, n: 1},
		{text: strings.ToUpper(pskA), n: 1},
		{text: "# the new one\n" + pskA + "\n\n# the old one\n" + strings.ReplaceAll(usual, pskA, pskB), n: 2},
		{text: "", err: "it holds no key"},
		{text: "# nothing", err: "it holds no key"},
		{text: sharedKeyHeader, err: "in the middle of a key"},
		{text: sharedKeyHeader + "\n" + sharedKeyBase, err: "in the middle of a key"},
		{text: sharedKeyHeader + "\n/base64/\n" + pskA, err: "line 2: want /base16/"},
		{text: sharedKeyBase + "\n" + pskA, err: "line 1: want 64 hex digits"},
		{text: pskA[1:], err: "line 1: want 64 hex digits, or"},
		{text: pskA[:63] + "g", err: "line 1: it holds other characters"},
		{text: strings.Repeat("0", 64), err: "all zeros"},
		{text: usual + pskA, err: "line 4: the key 38d9b31a is there twice"},
		{text: strings.Repeat("# x\n", 2000), err: "longer than 4096 bytes"},
	} {
		keys, err := ParseSharedKeys([]byte(c.text))
		if len(keys) != c.n || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %s, %v; want %d keys, %q", c.text, keys, err, c.n, c.err)
		}
		if err != nil && (strings.Contains(err.Error(), pskA[:16]) || strings.Contains(err.Error(), pskB[:16])) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	var five []string
	for i := range maxSharedKeys + 1 {
		five = append(five, fmt.Sprintf("%064x", i+1))
	}
	if keys := sharedKeys(t, five[:maxSharedKeys]...); len(keys) != maxSharedKeys {
		t.Errorf("%d keys", len(keys))
	}
	if _, err := ParseSharedKeys([]byte(strings.Join(five, "\n"))); err == nil || !strings.Contains(err.Error(), "5 keys: at most 4") {
		t.Errorf("five keys: %v", err)
	}
	if theirs, err := pnet.DecodeV1PSK(strings.NewReader(string(FormatSharedKeys(sharedKeys(t, pskA))))); err != nil || SharedKey(theirs) != sharedKeys(t, pskA)[0] {
		t.Errorf("libp2p reads our file as %x, %v", theirs, err)
	}
}

// Whatever prints a key shows its fingerprint.
func TestSharedKeyIsNotShown(t *testing.T) {
	k := sharedKeys(t, pskA)[0]
	if k.String() != "38d9b31a" {
		t.Errorf("fingerprint %s", k)
	}
	j, err := json.Marshal(map[string]any{"k": k})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %x %d %s %v", k, k, k, k, k, string(j), k.LogValue())
	if strings.Contains(all, "01234567") || strings.Contains(all, "35") || strings.Count(all, k.String()) != 7 {
		t.Error(all)
	}
}

func TestLoadSharedKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "swarm.key")
	if _, err := LoadSharedKeys(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(path, FormatSharedKeys(sharedKeys(t, pskA, pskB)), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := LoadSharedKeys(path); err != nil || !slices.Equal(keys, sharedKeys(t, pskA, pskB)) {
		t.Errorf("%s, %v", keys, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if keys, err := LoadSharedKeys(path); len(keys) != 2 || !errors.Is(err, ErrKeyMode) || !strings.Contains(err.Error(), "run chmod 600 "+path) {
		t.Errorf("with mode 0640: %s, %v", keys, err)
	}
	if err := os.WriteFile(path, []byte("/key/"), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := LoadSharedKeys(path); keys != nil || err == nil || !strings.Contains(err.Error(), path+": line 1") {
		t.Errorf("damaged: %s, %v", keys, err)
	}
}

func FuzzParseSharedKeys(f *testing.F) {
	f.Add([]byte(pskA))
	f.Add(FormatSharedKeys(sharedKeys(f, pskA, pskB)))
	f.Add([]byte("# old\r\n" + sharedKeyHeader + "\n\n" + sharedKeyBase))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := ParseSharedKeys(b)
		if err != nil {
			return
		}
		if len(keys) == 0 || len(keys) > maxSharedKeys {
			t.Fatalf("%d keys", len(keys))
		}
		again, err := ParseSharedKeys(FormatSharedKeys(keys))
		if err != nil || !slices.Equal(again, keys) {
			t.Fatalf("%s, %v: not the same again", again, err)
		}
	})
}
