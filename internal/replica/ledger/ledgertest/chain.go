// Package ledgertest owns a chain for tests: its keys, and blocks on demand
// that every node has to accept.
package ledgertest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Chain makes valid blocks. It is for one goroutine.
type Chain struct {
	tb      testing.TB
	genesis *consortium.Genesis
	hash    chain.Hash
	keys    map[uint64]ed25519.PrivateKey // by validator id, also those removed
	author  ed25519.PrivateKey
	nonce   uint64

	head   chain.Head
	time   uint64
	config *consortium.Config // in force for the next block
}

// Key is a key made from a name: the same in each run.
func Key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("parley test key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// New starts a chain with n validators, of which the first is the only admin.
// Each chain has another genesis.
func New(tb testing.TB, n int) *Chain {
	tb.Helper()
	c := &Chain{tb: tb, keys: map[uint64]ed25519.PrivateKey{}, author: Key("author")}
	validators := make([]consortium.Validator, n)
	for i := range validators {
		id := uint64(i + 1)
		c.keys[id] = Key(fmt.Sprint("validator ", id))
		validators[i] = consortium.Validator{ID: id, Key: consortium.PublicKeyOf(c.keys[id]), Name: fmt.Sprint("node", id)}
	}
	g, err := consortium.NewGenesis("", validators, []consortium.PublicKey{validators[0].Key}, consortium.DefaultParams(), time.Now().Add(-time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	c.genesis, c.hash, c.time, c.config = g, g.Hash(), g.Time, &g.Config
	c.head = chain.Head{Hash: c.hash}
	return c
}

// Genesis starts the chain.
func (c *Chain) Genesis() *consortium.Genesis { return c.genesis }

// Keys lists the keys of the validators in force, in the order of their ids.
func (c *Chain) Keys() []ed25519.PrivateKey {
	var keys []ed25519.PrivateKey
	for _, id := range c.config.Set().IDs() {
		keys = append(keys, c.keys[id])
	}
	return keys
}

// Head is the last block made by Next.
func (c *Chain) Head() chain.Head { return c.head }

// Config is in force for the next block.
func (c *Chain) Config() *consortium.Config { return c.config }

// Record is a new signed record, encoded.
func (c *Chain) Record(subject string, body []byte) []byte {
	return c.RecordBy(c.author, func(r *consortium.Record) { r.Subject, r.Body = subject, body })
}

// RecordBy is a new record signed by key, encoded; edit, which may be nil,
// changes it before.
func (c *Chain) RecordBy(key ed25519.PrivateKey, edit func(*consortium.Record)) []byte {
	c.nonce++
	r := &consortium.Record{Nonce: c.nonce, Subject: "thing", MediaType: "text/plain", Body: []byte("x")}
	if edit != nil {
		edit(r)
	}
	r.Sign(key, c.hash)
	return r.Encode()
}

// ConfigRecord is a config record for the next epoch, approved by the admin.
// New validators in it get their keys from AddValidator.
func (c *Chain) ConfigRecord(edit func(*consortium.Config)) []byte {
	next, err := consortium.DecodeConfig(c.config.Encode()) // a copy
	if err != nil {
		c.tb.Fatal(err)
	}
	next.Epoch++
	edit(next)
	change := &consortium.ConfigChange{Config: *next, Approvals: []consortium.Approval{consortium.Approve(c.keys[1], c.hash, next)}}
	return c.RecordBy(c.keys[1], func(r *consortium.Record) {
		r.Kind, r.Subject, r.MediaType, r.Body = consortium.KindConfig, consortium.SubjectConfig, consortium.MediaTypeConfig, change.Encode()
	})
}

// AddValidator is an edit for ConfigRecord.
func (c *Chain) AddValidator(cfg *consortium.Config) {
	id := cfg.NextID
	c.keys[id] = Key(fmt.Sprint("validator ", id))
	cfg.Validators = append(cfg.Validators, consortium.Validator{ID: id, Key: consortium.PublicKeyOf(c.keys[id]), Name: fmt.Sprint("node", id)})
	cfg.NextID++
}

// Next is the next block with these records, signed by all validators. A lone
// config record takes effect.
func (c *Chain) Next(records ...[]byte) *consortium.Block {
	b := c.Build(records...)
	c.head = chain.Head{Height: b.Header.Height, Hash: b.Header.Hash()}
	c.time = b.Header.Time
	if cfg := configIn(records); cfg != nil {
		c.config = cfg
	}
	return b
}

// Build is what Next would return; the chain does not move.
func (c *Chain) Build(records ...[]byte) *consortium.Block {
	set := c.config.Set()
	next := set
	if cfg := configIn(records); cfg != nil {
		next = cfg.Set()
	}
	body := consortium.Body(consortium.Pack(records))
	b := &consortium.Block{Body: body, Header: &consortium.Header{
		Genesis: c.hash, Height: c.head.Height + 1, Prev: c.head.Hash, Time: c.time + 1,
		Epoch: c.config.Epoch, Set: set.Hash(), NextSet: next.Hash(), Proposer: set.IDs()[0],
		Records: uint32(len(records)), Subtrees: uint16(len(body)), BodyBytes: uint32(body.Size()),
		Root: consortium.BlockRoot(body.SubtreeIDs()), Metadata: []byte{8, 0},
	}}
	c.Seal(b)
	return b
}

// Seal signs the header as it is now, by all validators in force.
func (c *Chain) Seal(b *consortium.Block) {
	h := b.Header
	b.Certificate = consortium.Certificate{}
	for _, id := range c.config.Set().IDs() {
		b.Certificate.Votes = append(b.Certificate.Votes, consortium.Vote{
			Validator: id, Sig: consortium.SignVote(c.keys[id], h.Genesis, h.Hash(), h.Height, 0),
		})
	}
}

// configIn is the config that these records put in force, or nil.
func configIn(records [][]byte) *consortium.Config {
	if len(records) != 1 {
		return nil
	}
	r, err := consortium.DecodeRecord(records[0])
	if err != nil || r.Kind != consortium.KindConfig {
		return nil
	}
	change, err := consortium.DecodeConfigChange(r.Body)
	if err != nil {
		return nil
	}
	return &change.Config
}
