package host

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// Formats of a key outside of the key file.
const (
	FormatPEM      = "pem"      // PKCS#8, as in the key file
	FormatHex      = "hex"      // seed, 64 hex digits
	FormatLibp2p   = "libp2p"   // protobuf in base64
	FormatTeranode = "teranode" // seed and public key, 128 hex digits
)

const (
	pemType    = "PRIVATE KEY"
	maxKeyFile = 4096 // bytes; ours has 119
)

var (
	// ErrKeyExists means that the path holds a file, which is never replaced
	// by the way.
	ErrKeyExists = errors.New("a file exists already")
	// ErrKeyMode means that others may read the key file.
	ErrKeyMode = errors.New("others may read it")
)

// LoadKey reads the key file at path. The error names file, fault and mend;
// it is fs.ErrNotExist when there is none. With ErrKeyMode alone the key is
// returned too, for mounted secrets, where it is worth a warning only.
func LoadKey(path string) (crypto.PrivKey, error) {
	b, mode, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := ImportKey(b, FormatPEM)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w: restore it from a backup, or move it away to be given a new identity", path, err)
	}
	if mode != nil {
		return key, fmt.Errorf("read key %s: %w", path, mode)
	}
	return key, nil
}

// readSecret reads a small file that only its owner may read; where others may,
// mode says so, with ErrKeyMode. err names the file.
func readSecret(path string) (b []byte, mode, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no regular file", path)
	}
	if b, err = io.ReadAll(io.LimitReader(f, maxKeyFile+1)); err != nil {
		return nil, nil, err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		mode = fmt.Errorf("its mode is %04o: %w: run chmod 600 %s", perm, ErrKeyMode, path)
	}
	return b, mode, nil
}

// CreateKey makes a key and writes it to path, which MUST NOT exist: else the
// error is ErrKeyExists. The directory must.
func CreateKey(path string) (crypto.PrivKey, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	return key, SaveKey(path, key, false)
}

// LoadOrCreateKey reads the key at path, or makes one where there is no file.
func LoadOrCreateKey(path string) (key crypto.PrivKey, created bool, err error) {
	key, err = LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	key, err = CreateKey(path)
	if errors.Is(err, ErrKeyExists) { // another process was faster
		key, err = LoadKey(path)
		return key, false, err
	}
	return key, err == nil, err
}

// SaveKey writes key to path as PEM, mode 0600: all of it or nothing. It
// replaces another file only if told to; else the error is ErrKeyExists.
func SaveKey(path string, key crypto.PrivKey, replace bool) error {
	b, err := ExportKey(key, FormatPEM)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	// A fresh name, made with O_EXCL and mode 0600.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write key %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone already after a rename
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write key %s: %w", path, err)
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = renameNew(f.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write key %s: %w", path, ErrKeyExists)
	}
	if err != nil {
		return fmt.Errorf("write key %s: %w", path, err)
	}
	return syncDir(dir)
}

// renameNew is a rename that refuses to replace.
func renameNew(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// A file system without links.
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fs.ErrExist)
	}
	return os.Rename(from, to)
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// ImportKey reads a key in one of the formats; "" means that the form of b
// tells which. Blanks around it are ignored. Errors hold nothing of b.
func ImportKey(b []byte, format string) (crypto.PrivKey, error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("the key is longer than %d bytes", maxKeyFile)
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil, errors.New("the key is empty")
	}
	if format == "" {
		format = guessFormat(b)
	}
	switch format {
	case FormatPEM:
		return parsePEM(b)
	case FormatHex:
		raw, err := parseHex(b, ed25519.SeedSize)
		if err != nil {
			return nil, err
		}
		return wrap(ed25519.NewKeyFromSeed(raw))
	case FormatTeranode:
		raw, err := parseHex(b, ed25519.PrivateKeySize)
		if err != nil {
			return nil, err
		}
		key := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
		if !bytes.Equal(key, raw) {
			return nil, errors.New("the second half of the key is not the public key of the first")
		}
		return wrap(key)
	case FormatLibp2p:
		return parseLibp2p(b)
	}
	return nil, fmt.Errorf("key format %q: want pem, hex, libp2p or teranode", format)
}

func guessFormat(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte("-----BEGIN")):
		return FormatPEM
	case len(b) == 2*ed25519.SeedSize:
		return FormatHex
	case len(b) == 2*ed25519.PrivateKeySize:
		return FormatTeranode
	}
	return FormatLibp2p
}

func parsePEM(b []byte) (crypto.PrivKey, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it holds no PEM block")
	}
	if block.Type != pemType || len(block.Headers) != 0 || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("want one PEM block %q and nothing else", pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its PEM block is no PKCS#8 private key")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T key, not Ed25519", parsed)
	}
	return wrap(key)
}

func parseHex(b []byte, size int) ([]byte, error) {
	if len(b) != 2*size {
		return nil, fmt.Errorf("want %d hex digits, have %d bytes", 2*size, len(b))
	}
	raw := make([]byte, size)
	if _, err := hex.Decode(raw, b); err != nil {
		return nil, errors.New("it holds other characters than hex digits")
	}
	return raw, nil
}

func parseLibp2p(b []byte) (crypto.PrivKey, error) {
	raw, err := base64.StdEncoding.DecodeString(string(b))
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	key, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil {
		return nil, errors.New("its base64 holds no libp2p key")
	}
	if key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("it is a %s key, not Ed25519", key.Type())
	}
	stored := RawEd25519(key)
	whole := ed25519.NewKeyFromSeed(stored.Seed())
	if !bytes.Equal(whole, stored) {
		return nil, errors.New("its public key is not that of its private key")
	}
	return wrap(whole)
}

func wrap(key ed25519.PrivateKey) (crypto.PrivKey, error) {
	return crypto.UnmarshalEd25519PrivateKey(key)
}

// ExportKey writes key in one of the formats, with a line end. It is secret.
func ExportKey(key crypto.PrivKey, format string) ([]byte, error) {
	raw := RawEd25519(key)
	if raw == nil {
		return nil, errors.New("export key: it is not Ed25519")
	}
	switch format {
	case FormatPEM:
		der, err := x509.MarshalPKCS8PrivateKey(raw)
		if err != nil {
			return nil, fmt.Errorf("export key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
	case FormatHex:
		return fmt.Appendf(nil, "%x\n", raw.Seed()), nil
	case FormatTeranode:
		return fmt.Appendf(nil, "%x\n", []byte(raw)), nil
	case FormatLibp2p:
		b, err := crypto.MarshalPrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("export key: %w", err)
		}
		return append(base64.StdEncoding.AppendEncode(nil, b), '\n'), nil
	}
	return nil, fmt.Errorf("key format %q: want pem, hex, libp2p or teranode", format)
}

// RawEd25519 is key as the standard library has it, or nil when it is of
// another type.
func RawEd25519(key crypto.PrivKey) ed25519.PrivateKey {
	if key == nil || key.Type() != crypto.Ed25519 {
		return nil
	}
	raw, err := key.Raw()
	if err != nil || len(raw) != ed25519.PrivateKeySize {
		return nil
	}
	return raw
}
