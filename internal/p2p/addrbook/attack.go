//go:build attack

package addrbook

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// What follows is for the attack lab, which is built with the tag attack. It
// leaves out signatures and the rate of a source, nothing else: identities are
// free, and 20,000 of them in 100 runs would cost hours of nothing but Ed25519.

// Tell is Add with the signature taken for good. record stands for the
// envelope.
func (b *Book) Tell(src Source, id peer.ID, seq uint64, record []byte, addrs ...ma.Multiaddr) error {
	k := known{id: id, addrs: parseAll(addrs, id), record: slices.Clip(record), seq: seq}
	return b.refuse(b.insert(src, k, time.Now()))
}

// Seed makes an empty book foreseeable.
func (b *Book) Seed(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.salt = binary.BigEndian.AppendUint64(make([]byte, saltSize-8), n)
	b.key = newKeyed(b.salt)
	b.rand = rand.New(rand.NewPCG(n, n))
}

// Reseed makes the draws of a book that was loaded foreseeable.
func (b *Book) Reseed(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rand = rand.New(rand.NewPCG(n, n))
}

// Save writes the book, which Run does every five minutes.
func (b *Book) Save() error { return b.save() }

// SaveAnchors writes the anchors, which Run does within a second of a change.
func (b *Book) SaveAnchors() error { return b.saveAnchors() }
