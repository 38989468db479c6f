package parley

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/parley-p2p/parley/config"
)

const minSecret = 32 // bytes

// TokenSecrets are the secrets of API tokens, of which the first signs and all
// verify; none: tokens are off. The first call makes a secret where there is no
// file; later ones return what a reload took over.
func (n *Node) TokenSecrets() ([][]byte, error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if n.secretsRead {
		return n.secrets, nil
	}
	path := n.live.Path(n.live.API.JWTSecretFile)
	if n.live.API.JWTSecret == "" && path != "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := makeSecret(path); err != nil {
				return nil, err
			}
			n.room("api").Info("token secret made", "file", path)
		}
	}
	secrets, err := ReadTokenSecrets(n.live)
	if err != nil {
		return nil, err
	}
	n.secrets, n.secretsRead = secrets, true
	n.warnNoSecret()
	return n.secrets, nil
}

func (n *Node) warnNoSecret() {
	if len(n.secrets) == 0 {
		n.room("api").Warn("tokens are off: no secret has 32 bytes or more", "code", "PLY-111")
	}
}

func makeSecret(path string) error {
	var secret [minSecret]byte
	_, _ = rand.Read(secret[:]) // never fails, by its documentation
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("token secret: %w", err)
	}
	_, err = fmt.Fprintln(f, hex.EncodeToString(secret[:]))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write token secret %s: %w", path, err)
	}
	return nil
}

// ReadTokenSecrets reads the secrets that a configuration names. None is no
// error, a file that is missing or that others may read is one.
func ReadTokenSecrets(cfg config.Config) ([][]byte, error) {
	if cfg.API.JWTSecret != "" {
		return parseSecrets([]byte(cfg.API.JWTSecret)), nil
	}
	path := cfg.Path(cfg.API.JWTSecretFile)
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("api.jwt_secret_file: %w", err)
	}
	inDataDir := !filepath.IsAbs(cfg.API.JWTSecretFile) // elsewhere, as a mounted secret, its mode is the mounter's
	if mode := info.Mode().Perm(); inDataDir && mode&0o077 != 0 {
		return nil, fmt.Errorf("api.jwt_secret_file %s has mode %#o and may be read by others: chmod 600 %s", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("api.jwt_secret_file: %w", err)
	}
	return parseSecrets(b), nil
}

// parseSecrets reads one secret a line. Hex digits count as the bytes that they
// name, which sign; as text they verify too, since other tools sign with that.
func parseSecrets(b []byte) [][]byte {
	var secrets [][]byte
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		raw := make([]byte, hex.DecodedLen(len(line)))
		if n, err := hex.Decode(raw, line); err == nil && n >= minSecret {
			secrets = append(secrets, raw)
		}
		if len(line) >= minSecret {
			secrets = append(secrets, line)
		}
	}
	return secrets
}

func sameSecrets(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }
