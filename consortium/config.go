package consortium

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Config is what all nodes of a chain agree on beside its records. It changes
// only by a config record.
type Config struct {
	Epoch        uint64       `json:"epoch"`   // config records applied so far
	NextID       uint64       `json:"next_id"` // above every validator id ever given
	Validators   []Validator  `json:"validators"`
	Admins       []PublicKey  `json:"admins"`
	Threshold    uint8        `json:"threshold"` // admins that must approve a change
	AuthorPolicy AuthorPolicy `json:"author_policy"`
	Authors      []PublicKey  `json:"authors"` // ascending; counts when the policy is Listed
	Params       Params       `json:"params"`
}

// AuthorPolicy says who may write records.
type AuthorPolicy uint8

// The author policies.
const (
	Open   AuthorPolicy = 0 // everybody
	Listed AuthorPolicy = 1 // Config.Authors
)

var policyNames = [...]string{Open: "open", Listed: "listed"}

// String gives the policy's name in JSON.
func (p AuthorPolicy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("AuthorPolicy(%d)", uint8(p))
}

// MarshalText implements [encoding.TextMarshaler].
func (p AuthorPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *AuthorPolicy) UnmarshalText(b []byte) error {
	i := slices.Index(policyNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("author_policy %q: want open or listed", shorten(string(b)))
	}
	*p = AuthorPolicy(i)
	return nil
}

// Params are the chain's own settings, equal on all nodes.
type Params struct {
	MaxBlockBytes uint32 `json:"max_block_bytes"` // of an encoded body
	BatchRecords  uint16 `json:"batch_records"`   // of one proposal
	IntervalMS    uint16 `json:"interval_ms"`     // longest wait for a batch to fill
	HeartbeatMS   uint32 `json:"heartbeat_ms"`    // a leader silent for so long is replaced
	AuthorPending uint32 `json:"author_pending"`  // records of one author in a mempool
}

// DefaultParams are those of a new chain.
func DefaultParams() Params {
	return Params{MaxBlockBytes: 1 << 20, BatchRecords: 500, IntervalMS: 20, HeartbeatMS: 2_000, AuthorPending: 2_000}
}

// Check tells the first param out of its bounds.
func (p Params) Check() error {
	for _, v := range []struct {
		name        string
		value, from uint32
		to          uint32
	}{
		{"max_block_bytes", p.MaxBlockBytes, MinBlockBytes, MaxBlockBytes},
		{"batch_records", uint32(p.BatchRecords), 1, 1_000}, // half of the engine's pool
		{"interval_ms", uint32(p.IntervalMS), 1, 1_000},     // below the engine's patience
		{"heartbeat_ms", p.HeartbeatMS, 500, 60_000},
		{"author_pending", p.AuthorPending, 1, 1_000_000},
	} {
		if v.value < v.from || v.value > v.to {
			return fmt.Errorf("%s is %d: want %d to %d", v.name, v.value, v.from, v.to)
		}
	}
	return nil
}

// DecodeConfig reads a config that passes [Config.Check].
func DecodeConfig(b []byte) (*Config, error) {
	c := cursor{b: b}
	cfg := decodeConfig(&c)
	if err := c.end(); err != nil {
		return nil, fmt.Errorf("decode config: %w", err)
	}
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("decode config: %w", err)
	}
	return cfg, nil
}

func decodeConfig(c *cursor) *Config {
	cfg := &Config{Epoch: c.u64(), NextID: c.u64()}
	cfg.Validators = make([]Validator, c.count(int(c.u16()), MaxValidators, 8+32+1+1, "validators"))
	for i := range cfg.Validators {
		v := &cfg.Validators[i]
		v.ID = c.u64()
		c.fill(v.Key[:])
		v.Name = c.text(int(c.u8()), MaxName, "name")
		v.Addresses = make([]string, c.count(int(c.u8()), MaxAddresses, 2, "addresses"))
		for j := range v.Addresses {
			v.Addresses[j] = c.text(int(c.u16()), MaxAddress, "address")
		}
	}
	cfg.Admins = decodeKeys(c, int(c.u8()), MaxAdmins, "admins")
	cfg.Threshold = c.u8()
	cfg.AuthorPolicy = AuthorPolicy(c.u8())
	authors := c.u32()
	cfg.Authors = decodeKeys(c, int(min(authors, MaxAuthors+1)), MaxAuthors, "authors")
	p := &cfg.Params
	p.MaxBlockBytes, p.BatchRecords, p.IntervalMS = c.u32(), c.u16(), c.u16()
	p.HeartbeatMS, p.AuthorPending = c.u32(), c.u32()
	return cfg
}

func decodeKeys(c *cursor, n, limit int, what string) []PublicKey {
	keys := make([]PublicKey, c.count(n, limit, len(PublicKey{}), what))
	for i := range keys {
		c.fill(keys[i][:])
	}
	return keys
}

// Encode gives the config's bytes. A config that fails [Config.Check] may not
// decode again.
func (c *Config) Encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, c.Epoch)
	b = binary.BigEndian.AppendUint64(b, c.NextID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Validators)))
	for _, v := range c.Validators {
		b = binary.BigEndian.AppendUint64(b, v.ID)
		b = append(b, v.Key[:]...)
		b = append(b, byte(len(v.Name)))
		b = append(b, v.Name...)
		b = append(b, byte(len(v.Addresses)))
		for _, a := range v.Addresses {
			b = binary.BigEndian.AppendUint16(b, uint16(len(a)))
			b = append(b, a...)
		}
	}
	b = append(b, byte(len(c.Admins)))
	for _, k := range c.Admins {
		b = append(b, k[:]...)
	}
	b = append(b, c.Threshold, byte(c.AuthorPolicy))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Authors)))
	for _, k := range c.Authors {
		b = append(b, k[:]...)
	}
	b = binary.BigEndian.AppendUint32(b, c.Params.MaxBlockBytes)
	b = binary.BigEndian.AppendUint16(b, c.Params.BatchRecords)
	b = binary.BigEndian.AppendUint16(b, c.Params.IntervalMS)
	b = binary.BigEndian.AppendUint32(b, c.Params.HeartbeatMS)
	return binary.BigEndian.AppendUint32(b, c.Params.AuthorPending)
}

// Next is a deep copy of c of the epoch after it: the start of a change.
func (c *Config) Next() *Config {
	next := *c
	next.Epoch++
	next.Validators = slices.Clone(c.Validators)
	for i := range next.Validators {
		next.Validators[i].Addresses = slices.Clone(next.Validators[i].Addresses)
	}
	next.Admins, next.Authors = slices.Clone(c.Admins), slices.Clone(c.Authors)
	return &next
}

// MarshalJSON writes empty lists as [], whether they were decoded or built.
func (c Config) MarshalJSON() ([]byte, error) {
	type view Config
	v := view(c)
	v.Validators = append([]Validator{}, c.Validators...)
	for i := range v.Validators {
		v.Validators[i].Addresses = append([]string{}, v.Validators[i].Addresses...)
	}
	v.Admins = append([]PublicKey{}, c.Admins...)
	v.Authors = append([]PublicKey{}, c.Authors...)
	return json.Marshal(v)
}

// Set is the set of validators.
func (c *Config) Set() *ValidatorSet { return NewValidatorSet(c.Validators) }

// MayWrite reports whether the author policy lets author write records of
// KindRecord; a config record needs approvals instead.
func (c *Config) MayWrite(author PublicKey) bool {
	if c.AuthorPolicy == Open {
		return true
	}
	_, ok := slices.BinarySearchFunc(c.Authors, author, compareKeys)
	return ok
}

// Check looks at all that a config must keep by itself; [CheckChange] at what
// it must keep of the one before.
func (c *Config) Check() error {
	if c.Epoch > MaxNumber || c.NextID > MaxNumber {
		return fmt.Errorf("epoch %d, next_id %d: want at most %d", c.Epoch, c.NextID, uint64(MaxNumber))
	}
	if err := c.checkValidators(); err != nil {
		return err
	}
	if n := len(c.Admins); n < 1 || n > MaxAdmins {
		return fmt.Errorf("%d admins: want 1 to %d", n, MaxAdmins)
	}
	for i, k := range c.Admins {
		if slices.Contains(c.Admins[:i], k) {
			return fmt.Errorf("admin %s stands twice", k)
		}
	}
	if c.Threshold < 1 || int(c.Threshold) > len(c.Admins) {
		return fmt.Errorf("threshold %d: want 1 to %d, the number of admins", c.Threshold, len(c.Admins))
	}
	if c.AuthorPolicy > Listed {
		return fmt.Errorf("author policy %d is unknown: want 0 (open) or 1 (listed)", uint8(c.AuthorPolicy))
	}
	if n := len(c.Authors); n > MaxAuthors {
		return fmt.Errorf("%d authors: want at most %d", n, MaxAuthors)
	}
	for i := 1; i < len(c.Authors); i++ {
		if compareKeys(c.Authors[i-1], c.Authors[i]) >= 0 {
			return fmt.Errorf("author %s stands after %s: want ascending keys", c.Authors[i], c.Authors[i-1])
		}
	}
	return c.Params.Check()
}

func (c *Config) checkValidators() error {
	if n := len(c.Validators); n < 1 || n > MaxValidators {
		return fmt.Errorf("%d validators: want 1 to %d", n, MaxValidators)
	}
	keys := make(map[PublicKey]uint64, len(c.Validators))
	last := uint64(0)
	for _, v := range c.Validators {
		if v.ID <= last {
			return fmt.Errorf("validator %d stands after %d: want ascending ids from 1", v.ID, last)
		}
		last = v.ID
		if other, ok := keys[v.Key]; ok {
			return fmt.Errorf("validators %d and %d have the same key %s", other, v.ID, v.Key)
		}
		keys[v.Key] = v.ID
		if err := v.check(); err != nil {
			return fmt.Errorf("validator %d: %w", v.ID, err)
		}
	}
	if c.NextID <= last {
		return fmt.Errorf("next_id %d: want more than %d, the highest validator id", c.NextID, last)
	}
	return nil
}

func (v *Validator) check() error {
	if len(v.Name) > MaxName || !utf8.ValidString(v.Name) || strings.IndexFunc(v.Name, unicode.IsControl) >= 0 {
		return fmt.Errorf("name %q: want at most %d bytes of UTF-8 without control characters", shorten(v.Name), MaxName)
	}
	if len(v.Addresses) > MaxAddresses {
		return fmt.Errorf("%d addresses: want at most %d", len(v.Addresses), MaxAddresses)
	}
	for _, a := range v.Addresses {
		// Not parsed: which protocols are known differs between releases, and
		// nodes that judge differently would stop the chain.
		if len(a) > MaxAddress || !strings.HasPrefix(a, "/") || strings.IndexFunc(a, notPrintable) >= 0 {
			return fmt.Errorf("address %q: want a multiaddr of at most %d bytes", shorten(a), MaxAddress)
		}
	}
	return nil
}

func notPrintable(r rune) bool { return r <= ' ' || r > '~' }
