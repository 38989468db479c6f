package consortium

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/parley-p2p/parley/chain"
)

const (
	hashPrefix     = "sha256:"
	maxGenesisJSON = 1 << 20 // bytes; the binary form is at most 100 KiB
)

// Genesis is the start of a chain. Its hash is the chain's identity.
type Genesis struct {
	ChainID string // a name: [a-z0-9-]{3,48}
	Time    uint64 // ms since 1970
	Salt    [16]byte
	Config  Config // of epoch 0
}

// NewGenesis makes a chain of its own: the salt is random, and so is the chain
// id when chainID is "". Validators get the ids 1, 2 … in their order; one
// admin's approval is enough for a change.
func NewGenesis(chainID string, validators []Validator, admins []PublicKey, params Params, now time.Time) (*Genesis, error) {
	if chainID == "" {
		var b [4]byte
		rand.Read(b[:]) // never fails
		chainID = "c-" + hex.EncodeToString(b[:])
	}
	g := &Genesis{ChainID: chainID, Time: uint64(now.UnixMilli())}
	rand.Read(g.Salt[:])
	validators = slices.Clone(validators)
	for i := range validators {
		validators[i].ID = uint64(i) + 1
	}
	g.Config = Config{
		NextID: uint64(len(validators)) + 1, Validators: validators,
		Admins: slices.Clone(admins), Threshold: 1, Params: params,
	}
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("make genesis: %w", err)
	}
	return g, nil
}

// Check looks at all that a genesis must keep.
func (g *Genesis) Check() error {
	if n := len(g.ChainID); n < MinChainID || n > MaxChainID || strings.Trim(g.ChainID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("chain id %q: want %d to %d of a-z, 0-9 and -", shorten(g.ChainID), MinChainID, MaxChainID)
	}
	if g.Time > MaxNumber {
		return fmt.Errorf("time %d is over %d", g.Time, uint64(MaxNumber))
	}
	if g.Config.Epoch != 0 {
		return fmt.Errorf("config of epoch %d: want 0", g.Config.Epoch)
	}
	return g.Config.Check()
}

// DecodeGenesis reads a genesis that passes [Genesis.Check].
func DecodeGenesis(b []byte) (*Genesis, error) {
	c := cursor{b: b}
	c.version()
	g := &Genesis{ChainID: c.text(int(c.u8()), MaxChainID, "chain id"), Time: c.u64()}
	c.fill(g.Salt[:])
	g.Config = *decodeConfig(&c)
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("decode genesis: %w", err)
	}
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("decode genesis: %w", err)
	}
	return g, nil
}

// Encode gives the genesis' bytes.
func (g *Genesis) Encode() []byte {
	b := append([]byte{1}, byte(len(g.ChainID)))
	b = append(b, g.ChainID...)
	b = binary.BigEndian.AppendUint64(b, g.Time)
	b = append(b, g.Salt[:]...)
	return append(b, g.Config.Encode()...)
}

// Hash identifies the chain.
func (g *Genesis) Hash() chain.Hash { return tagged(tagGenesis, g.Encode()) }

// Net is the chain's part of protocol ids and topics: 8 hex digits.
func (g *Genesis) Net() string { return g.Hash().Short() }

// genesisJSON is the view that people read and edit.
type genesisJSON struct {
	Version int    `json:"version"`
	ChainID string `json:"chain_id"`
	Time    uint64 `json:"time"`
	Salt    string `json:"salt"`
	Config  Config `json:"config"`
	Hash    string `json:"hash,omitempty"`
}

// MarshalJSON gives the view of genesis.json, with the hash.
func (g *Genesis) MarshalJSON() ([]byte, error) {
	return json.Marshal(genesisJSON{
		Version: 1, ChainID: g.ChainID, Time: g.Time, Salt: hex.EncodeToString(g.Salt[:]),
		Config: g.Config, Hash: hashPrefix + g.Hash().String(),
	})
}

// UnmarshalJSON is [ParseGenesisJSON].
func (g *Genesis) UnmarshalJSON(b []byte) error {
	v, err := ParseGenesisJSON(b)
	if err != nil {
		return err
	}
	*g = *v
	return nil
}

// ParseGenesisJSON reads the view of genesis.json. Unknown fields are errors.
// A hash that does not fit the rest is an error that names both; a file
// without one is accepted.
func ParseGenesisJSON(b []byte) (*Genesis, error) {
	if len(b) > maxGenesisJSON {
		return nil, fmt.Errorf("read genesis: %d bytes are over the limit of %d", len(b), maxGenesisJSON)
	}
	var v genesisJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read genesis: more than one JSON value")
	}
	if v.Version != 1 {
		return nil, fmt.Errorf("read genesis: version %d is unknown: this build reads version 1", v.Version)
	}
	g := &Genesis{ChainID: v.ChainID, Time: v.Time, Config: v.Config}
	if len(v.Salt) != 2*len(g.Salt) {
		return nil, fmt.Errorf("read genesis: salt %q: want %d hex digits", shorten(v.Salt), 2*len(g.Salt))
	}
	if _, err := hex.Decode(g.Salt[:], []byte(v.Salt)); err != nil {
		return nil, fmt.Errorf("read genesis: salt %q: not hex", shorten(v.Salt))
	}
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	if v.Hash == "" {
		return g, nil
	}
	want, err := chain.ParseHash(strings.TrimPrefix(v.Hash, hashPrefix))
	if err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	if have := g.Hash(); have != want {
		return nil, fmt.Errorf("read genesis: the file says hash %s%s, its content has %s%s: someone changed one of them", hashPrefix, want, hashPrefix, have)
	}
	return g, nil
}
