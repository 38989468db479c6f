package parley

import (
	"crypto/ed25519"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/parley-p2p/parley/internal/p2p/host"
)

// Faults of a key file.
var (
	ErrKeyExists = host.ErrKeyExists // a key is there, and is not replaced
	ErrKeyMode   = host.ErrKeyMode   // others may read it; LoadKey returns the key beside it
)

// Formats of a key outside its file: PEM PKCS#8, the seed in 64 hex digits,
// libp2p's protobuf in base64, and seed and public key in 128 hex digits.
const (
	FormatPEM      = host.FormatPEM
	FormatHex      = host.FormatHex
	FormatLibp2p   = host.FormatLibp2p
	FormatTeranode = host.FormatTeranode
)

// LoadKey reads a node's identity. A damaged file is an error and stays as it is.
func LoadKey(path string) (crypto.PrivKey, error) { return host.LoadKey(path) }

// CreateKey makes an Ed25519 identity in a new file of mode 0600, or answers
// ErrKeyExists.
func CreateKey(path string) (crypto.PrivKey, error) { return host.CreateKey(path) }

// SaveKey writes key to a file of mode 0600; a key that is there is an
// ErrKeyExists unless replace is set.
func SaveKey(path string, key crypto.PrivKey, replace bool) error {
	return host.SaveKey(path, key, replace)
}

// ImportKey reads a key in one of the formats; "" finds out which.
func ImportKey(b []byte, format string) (crypto.PrivKey, error) { return host.ImportKey(b, format) }

// ExportKey gives a key in one of the formats: the secret itself.
func ExportKey(key crypto.PrivKey, format string) ([]byte, error) { return host.ExportKey(key, format) }

// SharedKey is a key of a private network; printing shows its fingerprint.
type SharedKey = host.SharedKey

// NewSharedKey makes one.
func NewSharedKey() SharedKey { return host.NewSharedKey() }

// LoadSharedKeys reads the keys in a file, the first of which dials. Errors show
// nothing of a key; with ErrKeyMode alone the keys are returned, too.
func LoadSharedKeys(path string) ([]SharedKey, error) { return host.LoadSharedKeys(path) }

// FormatSharedKeys writes keys as swarm.key has them: the secret itself.
func FormatSharedKeys(keys []SharedKey) []byte { return host.FormatSharedKeys(keys) }

// Ed25519Key is the key as the chain's records and votes use it.
func Ed25519Key(key crypto.PrivKey) ed25519.PrivateKey { return host.RawEd25519(key) }
