package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"

	"github.com/parley-p2p/parley/internal/wire"
)

const (
	valueNamespace = "parley"
	valueLife      = 48 * time.Hour   // after issue
	valueAhead     = 10 * time.Minute // clocks differ
)

var (
	errOldValue = errors.New("issued more than 48 h ago")
	kindName    = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
)

// Value is a signed record in the DHT.
type Value struct {
	Key    string // /parley/<kind>/<author>
	Kind   string
	Author peer.ID
	Seq    uint64
	Issued time.Time
	Data   []byte
}

// Key is where the values of an author stand, by kind: 1 to 32 of a-z, 0-9, _
// and -.
func Key(kind string, author peer.ID) string {
	return "/" + valueNamespace + "/" + kind + "/" + author.String()
}

// ParseKey reads a key in the one form that [Key] writes.
func ParseKey(key string) (kind string, author peer.ID, err error) {
	parts := strings.Split(key, "/")
	if len(key) > 256 || len(parts) != 4 || parts[0] != "" || parts[1] != valueNamespace || !kindName.MatchString(parts[2]) {
		return "", "", fmt.Errorf("key %.80q: want /%s/KIND/PEER-ID, KIND being 1 to 32 of a-z, 0-9, _ and -", key, valueNamespace)
	}
	if author, err = peer.Decode(parts[3]); err != nil {
		return "", "", fmt.Errorf("key %.80q: its last part %.80q is no peer id: want base58 such as 12D3KooW…, as parley peers list -o wide shows", key, parts[3])
	}
	if Key(parts[2], author) != key {
		return "", "", fmt.Errorf("key %.80q: write the peer id as %s", key, author)
	}
	return parts[2], author, nil
}

// sealed is a DHTValue inside its envelope. The domain carries the network's
// name: a value of one network is none of another.
type sealed struct {
	net   string
	value wire.DHTValue
}

// Domain implements [record.Record], as do those below.
func (s *sealed) Domain() string                 { return "parley-dht-value/" + s.net }
func (s *sealed) Codec() []byte                  { return []byte("/parley/dht-value/1") }
func (s *sealed) MarshalRecord() ([]byte, error) { return s.value.Encode(), nil }

func (s *sealed) UnmarshalRecord(b []byte) (err error) {
	s.value, err = wire.DecodeDHTValue(b)
	return err
}

// seal signs a value.
func (k *kad) seal(key crypto.PrivKey, v wire.DHTValue) ([]byte, error) {
	e, err := record.Seal(&sealed{net: k.net, value: v}, key)
	if err != nil {
		return nil, fmt.Errorf("sign value: %w", err)
	}
	return e.Marshal()
}

// open checks all of a value that can be checked: size, signature, that the
// author is the key's, and its age.
func (k *kad) open(key string, data []byte) (Value, error) {
	v, err := k.unseal(key, data)
	switch {
	case err != nil:
		return Value{}, err
	case time.Until(v.Issued) > valueAhead:
		return Value{}, fmt.Errorf("issued at %s, which is to come", v.Issued.UTC().Format(time.RFC3339))
	case time.Since(v.Issued) > valueLife:
		return Value{}, errOldValue
	}
	return v, nil
}

// unseal is open for a value of any age.
func (k *kad) unseal(key string, data []byte) (Value, error) {
	kind, author, err := ParseKey(key)
	if err != nil {
		return Value{}, err
	}
	if len(data) > wire.MaxDHTValue {
		return Value{}, fmt.Errorf("%w: %d bytes, limit %d", wire.ErrTooLarge, len(data), wire.MaxDHTValue)
	}
	s := &sealed{net: k.net}
	e, err := record.ConsumeTypedEnvelope(data, s)
	if err != nil {
		return Value{}, fmt.Errorf("envelope: %w", err)
	}
	v := Value{Key: key, Kind: s.value.Kind, Author: author, Seq: s.value.Seq, Issued: time.UnixMilli(int64(s.value.TimeMS)), Data: s.value.Data}
	switch id, err := peer.IDFromPublicKey(e.PublicKey); {
	case err != nil:
		return Value{}, fmt.Errorf("envelope: %w", err)
	case id != author:
		return Value{}, fmt.Errorf("signed by %s, the key is of %s", id, author)
	case v.Kind != kind:
		return Value{}, fmt.Errorf("it is of kind %q, the key of %q", v.Kind, kind)
	case !bytes.Equal(e.PayloadType, s.Codec()):
		return Value{}, errors.New("envelope: another payload type")
	}
	return v, nil
}

// validator lets the library judge values.
type validator struct{ k *kad }

// Validate implements [record.Validator] of go-libp2p-record.
func (v validator) Validate(key string, data []byte) error {
	_, err := v.k.open(key, data)
	return err
}

// Select prefers the highest sequence; of two with the same one, the bytes
// that sort last, so that all nodes agree.
func (v validator) Select(key string, values [][]byte) (int, error) {
	best := -1
	var top Value
	for i, data := range values {
		w, err := v.k.open(key, data)
		if err != nil {
			continue
		}
		if best < 0 || w.Seq > top.Seq || w.Seq == top.Seq && bytes.Compare(data, values[best]) > 0 {
			best, top = i, w
		}
	}
	if best < 0 {
		return 0, errors.New("no valid value")
	}
	return best, nil
}
