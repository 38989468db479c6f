package host

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

const (
	sharedKeyHeader = "/key/swarm/psk/1.0.0/"
	sharedKeyBase   = "/base16/"
	maxSharedKeys   = 4 // each of them is tried on each inbound connection
)

// SharedKey is a key of a private network. No printing shows more of it than
// its fingerprint.
type SharedKey [32]byte

// NewSharedKey makes one.
func NewSharedKey() (k SharedKey) {
	rand.Read(k[:]) // never fails
	return k
}

// String is the fingerprint: 8 hex digits by which people tell keys apart.
func (k SharedKey) String() string {
	sum := sha256.Sum256(append([]byte("parley-psk"), k[:]...))
	return hex.EncodeToString(sum[:4])
}

// Format makes every verb of fmt print what String gives.
func (k SharedKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue keeps the key out of logs.
func (k SharedKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps the key out of JSON, TOML and YAML.
func (k SharedKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LoadSharedKeys reads a file as [ParseSharedKeys] does. The error names file,
// fault and mend, and shows nothing of a key; it is fs.ErrNotExist when there
// is no file. With ErrKeyMode alone the keys are returned too, for mounted
// secrets, where it is worth a warning only.
func LoadSharedKeys(path string) ([]SharedKey, error) {
	b, mode, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("read shared key: %w", err)
	}
	keys, err := ParseSharedKeys(b)
	if err != nil {
		return nil, fmt.Errorf("read shared key %s: %w", path, err)
	}
	if mode != nil {
		return keys, fmt.Errorf("read shared key %s: %w", path, mode)
	}
	return keys, nil
}

// ParseSharedKeys reads one to four keys, the first of which dials. Each is in
// the form of swarm.key, which is three lines, or 64 hex digits on one line.
// Empty lines and those that begin with # are left out. Errors hold nothing of
// a key.
func ParseSharedKeys(b []byte) ([]SharedKey, error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("it is longer than %d bytes", maxKeyFile)
	}
	var keys []SharedKey
	want := "" // what the line must be, "" = the begin of a key
	line := 0
	for text := range strings.Lines(string(b)) {
		line++
		text = strings.TrimSpace(text)
		switch {
		case text == "" || text[0] == '#':
		case want == sharedKeyBase && text == sharedKeyBase:
			want = "hex"
		case want == sharedKeyBase:
			return nil, fmt.Errorf("line %d: want %s", line, sharedKeyBase)
		case want == "" && text == sharedKeyHeader:
			want = sharedKeyBase
		default:
			key, err := parseSharedKey(text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", line, err)
			}
			if slices.Contains(keys, key) {
				return nil, fmt.Errorf("line %d: the key %s is there twice: leave one out", line, key)
			}
			keys, want = append(keys, key), ""
		}
	}
	switch {
	case want != "":
		return nil, errors.New("it ends in the middle of a key: want " + strings.Join([]string{sharedKeyHeader, sharedKeyBase, "64 hex digits"}, ", ") + " on three lines")
	case len(keys) == 0:
		return nil, errors.New("it holds no key: make one with parley key psk new")
	case len(keys) > maxSharedKeys:
		return nil, fmt.Errorf("it holds %d keys: at most %d, leave out the oldest", len(keys), maxSharedKeys)
	}
	return keys, nil
}

func parseSharedKey(text string) (k SharedKey, err error) {
	if len(text) != hex.EncodedLen(len(k)) {
		return k, fmt.Errorf("want %d hex digits, or %s before %s and them, have %d bytes", hex.EncodedLen(len(k)), sharedKeyHeader, sharedKeyBase, len(text))
	}
	if _, err := hex.Decode(k[:], []byte(text)); err != nil {
		return SharedKey{}, errors.New("it holds other characters than hex digits")
	}
	if k == (SharedKey{}) {
		return k, errors.New("the key is all zeros, which anybody guesses: make one with parley key psk new")
	}
	return k, nil
}

// FormatSharedKeys writes keys as swarm.key has them, which other programs read
// where it is one. It is secret.
func FormatSharedKeys(keys []SharedKey) []byte {
	var b bytes.Buffer
	for _, k := range keys {
		fmt.Fprintf(&b, "%s\n%s\n%s\n", sharedKeyHeader, sharedKeyBase, hex.EncodeToString(k[:]))
	}
	return b.Bytes()
}
