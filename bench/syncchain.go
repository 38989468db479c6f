package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

const syncVotes = 4 // validators of the chain that is synced

// chainMaker writes valid blocks into a ledger, as a set of validators would.
type chainMaker struct {
	genesis *consortium.Genesis
	keys    map[uint64]ed25519.PrivateKey
	author  ed25519.PrivateKey
	set     *consortium.ValidatorSet
	hash    chain.Hash
	nonce   uint64
}

func benchKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("parley bench " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newChainMaker() (*chainMaker, error) {
	m := &chainMaker{keys: map[uint64]ed25519.PrivateKey{}, author: benchKey("author")}
	var validators []consortium.Validator
	for id := uint64(1); id <= syncVotes; id++ {
		m.keys[id] = benchKey(fmt.Sprint("validator ", id))
		validators = append(validators, consortium.Validator{ID: id, Key: consortium.PublicKeyOf(m.keys[id]), Name: fmt.Sprint("node", id)})
	}
	var err error
	m.genesis, err = consortium.NewGenesis("", validators, []consortium.PublicKey{validators[0].Key}, consortium.DefaultParams(), time.Now().Add(-time.Hour))
	if err != nil {
		return nil, fmt.Errorf("make a chain to sync: %w", err)
	}
	m.set, m.hash = m.genesis.Config.Set(), m.genesis.Hash()
	return m, nil
}

// records are signed, with bodies of size bytes.
func (m *chainMaker) records(n, size int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		m.nonce++
		r := &consortium.Record{Nonce: m.nonce, Subject: fmt.Sprint("thing ", m.nonce%1000), MediaType: "application/json", Body: make([]byte, size)}
		copy(r.Body, fmt.Sprint(m.nonce))
		r.Sign(m.author, m.hash)
		list[i] = r.Encode()
	}
	return list
}

// block is the one that follows tip, signed by all validators.
func (m *chainMaker) block(tip ledger.Tip, records [][]byte) *consortium.Block {
	body := consortium.Body(consortium.Pack(records))
	h := &consortium.Header{
		Genesis: m.hash, Height: tip.Head.Height + 1, Prev: tip.Head.Hash, Time: m.genesis.Time + tip.Head.Height + 1,
		Set: m.set.Hash(), NextSet: m.set.Hash(), Proposer: 1,
		Records: uint32(len(records)), Subtrees: uint16(len(body)), BodyBytes: uint32(body.Size()),
		Root: consortium.BlockRoot(body.SubtreeIDs()), Metadata: []byte{8, 0},
	}
	b := &consortium.Block{Header: h, Body: body}
	for _, id := range m.set.IDs() {
		b.Certificate.Votes = append(b.Certificate.Votes, consortium.Vote{Validator: id, Sig: consortium.SignVote(m.keys[id], m.hash, h.Hash(), h.Height, 0)})
	}
	return b
}

// fill makes a ledger in dir that holds about total bytes of bodies, in blocks
// of at most blockRecords records and of the size that a chain allows.
func (m *chainMaker) fill(dir string, total int64, size int) (l *ledger.Ledger, bytes int64, records int, err error) {
	known := func(chain.Hash) bool { return true } // we signed them: not what is measured
	l, err = ledger.Open(ledger.Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Verified: known})
	if err != nil {
		return nil, 0, 0, err
	}
	if err = l.Init(m.genesis); err != nil {
		return l, 0, 0, err
	}
	params := m.genesis.Config.Params
	perBlock := min(int(params.BatchRecords), (int(params.MaxBlockBytes)-4096)/(size+200))
	for bytes < total {
		b := m.block(l.Tip(), m.records(perBlock, size))
		if err := l.Append(b, "own", ""); err != nil {
			return l, 0, 0, err
		}
		bytes += int64(b.Header.BodyBytes)
		records += perBlock
	}
	return l, bytes, records, nil
}
