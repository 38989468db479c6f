package consortium

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

const keyPrefix = "ed25519:"

// PublicKey is an Ed25519 key: of an author, an admin or a validator, which is
// also the libp2p identity of its node.
type PublicKey [ed25519.PublicKeySize]byte

// PublicKeyOf returns the public half of key.
func PublicKeyOf(key ed25519.PrivateKey) PublicKey {
	return PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

// ParsePublicKey reads "ed25519:" and 64 hex digits, or the digits alone.
func ParsePublicKey(s string) (PublicKey, error) {
	var k PublicKey
	digits := strings.TrimPrefix(s, keyPrefix)
	if len(digits) != 2*len(k) {
		return k, fmt.Errorf("key %q: want %s and %d hex digits, have %d", shorten(s), keyPrefix, 2*len(k), len(digits))
	}
	if _, err := hex.Decode(k[:], []byte(digits)); err != nil {
		return PublicKey{}, fmt.Errorf("key %q: not hex", shorten(s))
	}
	return k, nil
}

// String gives "ed25519:" and 64 lower-case hex digits.
func (k PublicKey) String() string { return keyPrefix + hex.EncodeToString(k[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *PublicKey) UnmarshalText(b []byte) error {
	v, err := ParsePublicKey(string(b))
	if err != nil {
		return err
	}
	*k = v
	return nil
}

// PeerID is the libp2p identity of the node that holds the key.
func (k PublicKey) PeerID() (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", fmt.Errorf("peer id of %s: %w", k, err)
	}
	return peer.IDFromPublicKey(pub)
}

// Signature is a pure Ed25519 signature.
type Signature [ed25519.SignatureSize]byte

// Tags keep hashes and signatures of one use from serving in another.
const (
	tagGenesis    = "parley/genesis/1"
	tagHeader     = "parley/header/1"
	tagRecord     = "parley/record/1"
	tagValidators = "parley/validators/1"

	tagSignRecord = "parley/sign-record/1"
	tagVote       = "parley/vote/1"
	tagView       = "parley/view/1"
	tagApprove    = "parley/approve/1"
)

// tagged is SHA-256(u8 len(tag) ‖ tag ‖ x).
func tagged(tag string, x []byte) chain.Hash {
	var buf [1024]byte // holds headers, sets and most records: no allocation
	if 1+len(tag)+len(x) <= len(buf) {
		b := append(buf[:0], byte(len(tag)))
		b = append(b, tag...)
		return sha256.Sum256(append(b, x...))
	}
	h := sha256.New()
	h.Write(append(append(buf[:0], byte(len(tag))), tag...))
	h.Write(x)
	return chain.Hash(h.Sum(buf[:0]))
}

// signedBytes is what a signature of this package is over. The genesis hash
// stops replay between chains, the tag between uses.
func signedBytes(tag string, genesis, digest chain.Hash) []byte {
	b := make([]byte, 0, 1+len(tag)+2*len(genesis)+16) // 16: height and view of a vote
	b = append(b, byte(len(tag)))
	b = append(b, tag...)
	b = append(b, genesis[:]...)
	return append(b, digest[:]...)
}

func sign(key ed25519.PrivateKey, msg []byte) Signature {
	return Signature(ed25519.Sign(key, msg))
}

// SignView signs raw data of a view change.
func SignView(key ed25519.PrivateKey, genesis chain.Hash, data []byte) Signature {
	return sign(key, signedBytes(tagView, genesis, sha256.Sum256(data)))
}

// VerifyView reports whether key signed data by [SignView].
func VerifyView(key PublicKey, genesis chain.Hash, data []byte, sig Signature) bool {
	return key.verify(signedBytes(tagView, genesis, sha256.Sum256(data)), sig)
}

// shorten keeps foreign text in an error short.
func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
