package consortium

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// ProofFormat stands in the field format of every proof file.
const ProofFormat = "parley-proof/1"

// MaxProof bounds a proof file: the trail grows by a few KiB with each epoch.
const MaxProof = 64 << 20 // bytes

// Proof shows to somebody without a node that a record stands in a chain: the
// genesis hash is all that has to be known. Its JSON is the proof file, in
// which the order of keys and white space are free.
type Proof struct {
	Format  string `json:"format"`
	Genesis Hex    `json:"genesis"` // the whole genesis: it names the first validators
	Inclusion
	Validators Hex         `json:"validators"` // the set that signed the header, as it is hashed
	Trail      []Inclusion `json:"trail"`      // one config record for each epoch up to the header's
}

// Inclusion shows that a record is in a block.
type Inclusion struct {
	Record      Hex  `json:"record"`
	Subtree     Path `json:"subtree"` // from the record to its subtree
	Block       Path `json:"block"`   // from the subtree to the block's root
	Header      Hex  `json:"header"`
	Certificate Hex  `json:"certificate"`
}

// Path leads from a leaf to the root of a tree of RFC 6962.
type Path struct {
	Index int          `json:"index"` // of the leaf, from 0
	Count int          `json:"count"` // leaves of the tree
	Path  []chain.Hash `json:"path"`  // siblings, the leaf's own first
}

// Hex is bytes whose text form is lower-case hex.
type Hex []byte

// MarshalText implements [encoding.TextMarshaler].
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(b []byte) error {
	if i := bytes.IndexFunc(b, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }); i >= 0 || len(b)%2 != 0 {
		return fmt.Errorf("%q is not lower-case hex", shorten(string(b)))
	}
	v, err := hex.AppendDecode(nil, b)
	*h = v
	return err
}

// Include shows that record number index of a subtree is in its block.
func Include(b *Block, subtree, index int) (Inclusion, error) {
	if subtree < 0 || subtree >= len(b.Body) || index < 0 || index >= len(b.Body[subtree].Records) {
		return Inclusion{}, fmt.Errorf("prove record %d of subtree %d: block %d has none there", index, subtree, b.Header.Height)
	}
	records, subtrees := b.Body[subtree].IDs(), b.Body.SubtreeIDs()
	return Inclusion{
		Record:  b.Body[subtree].Records[index],
		Subtree: pathTo(prefixNode, index, len(records), func(i int) chain.Hash { return leafHash(records[i]) }),
		Block:   pathTo(prefixBlock, subtree, len(subtrees), func(i int) chain.Hash { return subtrees[i] }),
		Header:  b.Header.Encode(), Certificate: b.Certificate.Encode(),
	}, nil
}

// NewProof puts a proof together. set signed the block; trail holds the config
// record of each epoch up to the block's, in order.
func NewProof(g *Genesis, in Inclusion, set *ValidatorSet, trail []Inclusion) *Proof {
	return &Proof{Format: ProofFormat, Genesis: g.Encode(), Inclusion: in, Validators: set.encode(), Trail: append([]Inclusion{}, trail...)}
}

// Encode gives the proof file on one line.
func (p *Proof) Encode() ([]byte, error) { return json.Marshal(p) }

// ParseProof reads a proof file. Unknown, double and missing fields are errors;
// whether the proof holds is for [VerifyProof] to say.
func ParseProof(b []byte) (*Proof, error) {
	if len(b) > MaxProof {
		return nil, fmt.Errorf("read proof: %d bytes are over the limit of %d", len(b), MaxProof)
	}
	p := &Proof{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("read proof: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read proof: more than one JSON value")
	}
	if p.Format != ProofFormat {
		return nil, fmt.Errorf("read proof: format %q is unknown: this build reads %s", shorten(p.Format), ProofFormat)
	}
	if p.Trail == nil || !p.complete() || slices.ContainsFunc(p.Trail, func(s Inclusion) bool { return !s.complete() }) {
		return nil, errors.New("read proof: a field is missing or null: write it again with parley tx prove")
	}
	// What was read gives the same text again, in whatever order: nothing
	// stood twice, nothing was left out.
	want, err := p.Encode()
	if err != nil {
		return nil, fmt.Errorf("read proof: %w", err)
	}
	var have bytes.Buffer
	if err := json.Compact(&have, b); err != nil || have.Len() != len(want) {
		return nil, fmt.Errorf("read proof: %d bytes of JSON where %d say it all: a field stands twice or is missing", have.Len(), len(want))
	}
	return p, nil
}

func (s *Inclusion) complete() bool {
	return s.Record != nil && s.Header != nil && s.Certificate != nil && s.Subtree.Path != nil && s.Block.Path != nil
}

// Proven is what a proof shows beyond doubt, for who trusts the genesis hash.
type Proven struct {
	Genesis *Genesis
	ID      chain.Hash // of the record
	Record  *Record
	Header  *Header
	Hash    chain.Hash  // of the header
	Config  *Config     // in force for the block
	Signers []Validator // who signed the block: at least the quorum of Config
	Subtree int         // of the block that holds the record, from 0
	Index   int         // of the record in the subtree, from 0

	count int // records of the subtree
}

// Time is the proposer's clock.
func (p *Proven) Time() time.Time { return time.UnixMilli(int64(p.Header.Time)).UTC() }

// Position is the record's index in the whole block. A proof tells it where
// the subtree is the first or the last one: of those between, the records
// before them are not counted by the header.
func (p *Proven) Position() (index int, ok bool) {
	switch p.Subtree {
	case 0:
		return p.Index, true
	case int(p.Header.Subtrees) - 1:
		return int(p.Header.Records) - p.count + p.Index, true
	}
	return 0, false
}

// VerifyProof returns what p shows on the chain with this genesis hash, or why
// it does not hold. It needs no node and no network.
func VerifyProof(p *Proof, genesis chain.Hash) (*Proven, error) {
	g, err := DecodeGenesis(p.Genesis)
	if err != nil {
		return nil, err
	}
	if have := g.Hash(); have != genesis {
		return nil, fmt.Errorf("the proof is of chain %s with genesis %s, not of the one with genesis %s", g.ChainID, have, genesis)
	}
	t := trustIn(g)
	if err := t.follow(p.Trail); err != nil {
		return nil, err
	}
	o, err := t.open(&p.Inclusion)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Validators, t.set.encode()) {
		return nil, fmt.Errorf("validators: the file lists others than those of epoch %d", t.config.Epoch)
	}
	proven := &Proven{
		Genesis: g, ID: RecordID(p.Record), Record: o.record, Header: o.header, Hash: o.header.Hash(), Config: t.config,
		Subtree: p.Block.Index, Index: p.Subtree.Index, count: p.Subtree.Count,
	}
	for _, v := range o.cert.Votes {
		i := slices.IndexFunc(t.config.Validators, func(w Validator) bool { return w.ID == v.Validator })
		proven.Signers = append(proven.Signers, t.config.Validators[i]) // the certificate was verified
	}
	return proven, nil
}

// VerifyHeader tells whether h and its certificate belong to the chain that g
// begins, and returns the config in force for that block. trail is that of a
// [Proof] of h.
func VerifyHeader(g *Genesis, trail []Inclusion, h *Header, cert Certificate) (*Config, error) {
	t := trustIn(g)
	if err := t.follow(trail); err != nil {
		return nil, err
	}
	return t.config, t.header(h, cert)
}

// trust walks from the genesis to a block over the configs alone: each set of
// validators vouches for the next one.
type trust struct {
	genesis      chain.Hash
	config       *Config
	set          *ValidatorSet
	height, time uint64 // of the last header
}

func trustIn(g *Genesis) *trust {
	return &trust{genesis: g.Hash(), config: &g.Config, set: g.Config.Set(), time: g.Time}
}

// header judges a header by the set that is trusted.
func (t *trust) header(h *Header, cert Certificate) error {
	switch {
	case h.Genesis != t.genesis:
		return fmt.Errorf("block %d is of the chain with genesis %s", h.Height, h.Genesis)
	case h.Epoch != t.config.Epoch:
		return fmt.Errorf("block %d is of epoch %d where the trail leads to %d", h.Height, h.Epoch, t.config.Epoch)
	case h.Height <= t.height || h.Time <= t.time:
		return fmt.Errorf("block %d is not after block %d, which the trail leads over", h.Height, t.height)
	}
	return cert.Verify(h, t.set)
}

// opened is an inclusion that holds.
type opened struct {
	header *Header
	cert   Certificate
	record *Record
}

func (t *trust) open(s *Inclusion) (opened, error) {
	h, err := DecodeHeader(s.Header)
	if err != nil {
		return opened{}, err
	}
	cert, err := DecodeCertificate(s.Certificate)
	if err != nil {
		return opened{}, err
	}
	if err := t.header(h, cert); err != nil {
		return opened{}, err
	}
	if err := s.check(h); err != nil { // before the record is read: a changed one is named as such, not by what its bytes now say
		return opened{}, fmt.Errorf("block %d: %w", h.Height, err)
	}
	r, err := DecodeRecord(s.Record)
	if err == nil {
		err = r.Verify(t.genesis)
	}
	if err != nil {
		return opened{}, fmt.Errorf("record: %w", err)
	}
	return opened{h, cert, r}, nil
}

// check follows both paths to the root in the header.
func (s *Inclusion) check(h *Header) error {
	if s.Subtree.Count > SubtreeRecords || s.Subtree.Count > int(h.Records) || s.Block.Count != int(h.Subtrees) {
		return fmt.Errorf("a subtree of %d records among %d subtrees, where the header has %d records in %d subtrees",
			s.Subtree.Count, s.Block.Count, h.Records, h.Subtrees)
	}
	root, err := s.Subtree.root(prefixNode, leafHash(RecordID(s.Record)))
	if err != nil {
		return fmt.Errorf("subtree: %w", err)
	}
	if root, err = s.Block.root(prefixBlock, subtreeID(s.Subtree.Count, root)); err != nil {
		return fmt.Errorf("block: %w", err)
	}
	if root != h.Root {
		return fmt.Errorf("the record is not in it: the paths lead to root %s, the header has %s", root.Short(), h.Root.Short())
	}
	return nil
}

// follow applies the config record of each epoch.
func (t *trust) follow(trail []Inclusion) error {
	for i := range trail {
		if err := t.step(&trail[i]); err != nil {
			return fmt.Errorf("trail, epoch %d: %w", t.config.Epoch+1, err)
		}
	}
	return nil
}

func (t *trust) step(s *Inclusion) error {
	o, err := t.open(s)
	if err != nil {
		return err
	}
	if o.record.Kind != KindConfig || o.header.Records != 1 {
		return fmt.Errorf("block %d brings no config", o.header.Height)
	}
	change, err := DecodeConfigChange(o.record.Body)
	if err == nil {
		err = CheckChange(t.config, change, t.genesis)
	}
	if err != nil {
		return fmt.Errorf("block %d: %w", o.header.Height, err)
	}
	next := change.Config.Set()
	if next.Hash() != o.header.NextSet {
		return fmt.Errorf("block %d: the next set is %s, the header says %s", o.header.Height, next.Hash().Short(), o.header.NextSet.Short())
	}
	t.config, t.set, t.height, t.time = &change.Config, next, o.header.Height, o.header.Time
	return nil
}
