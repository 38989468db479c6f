package parley

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica"
)

// What the face answers where there is nothing to show.
var (
	ErrNotFound  = errors.New("not found")
	ErrNoChain   = replica.ErrNoChain
	ErrNotDevnet = errors.New("this works on a devnet only: profile = \"devnet\"")
	ErrBadRange  = errors.New("bad cursor")
	ErrBadRef    = errors.New("bad block reference")
)

const (
	pageBytes    = 4 << 20 // of records, after which a page ends
	defaultPage  = 100
	maxPage      = 1000
	jsonMedia    = "application/json"
	maxJSONNonce = 1 << 53 // exclusive; safe in JSON numbers
)

// Chain sums up the chain, or answers ErrNoChain while joining.
func (n *Node) Chain() (Chain, error) {
	if n.sidecar != nil {
		return n.sidecarChain()
	}
	g, err := n.genesis()
	if err != nil {
		return Chain{}, err
	}
	tip := n.replica.Ledger().Tip()
	return Chain{
		ChainID: g.ChainID, GenesisHash: g.Hash(), Height: tip.Head.Height, BlockCount: tip.Head.Height + 1, RecordCount: tip.Records,
		Head: *n.head(), Role: n.replica.Role(), Sync: n.syncState(),
		Validators: n.validatorsN(), Epoch: tip.Config.Epoch, Admins: tip.Config.Admins, Threshold: int(tip.Config.Threshold),
	}, nil
}

// head is nil until the chain is known.
func (n *Node) head() *StatusHead {
	if n.sidecar != nil {
		return n.sidecarHead()
	}
	g := n.replica.Genesis()
	if g == nil {
		return nil
	}
	tip := n.replica.Ledger().Tip()
	at := g.Time
	if tip.Header != nil {
		at = tip.Header.Time
	}
	t := fromMS(at)
	return &StatusHead{Height: tip.Head.Height, Hash: tip.Head.Hash, Time: t, AgeS: time.Since(t).Seconds()}
}

func fromMS(ms uint64) time.Time { return time.UnixMilli(int64(ms)).UTC() }

// StoredHead is the newest block of the embedded chain on this node's disk, the
// zero Head where there is none.
func (n *Node) StoredHead() chain.Head {
	if n.replica == nil {
		return chain.Head{}
	}
	return n.replica.Ledger().Tip().Head
}

// StoredEvents are those that told of a stored block and of its records, first
// block.stored, now of the source ledger, then record.committed in their order.
func (n *Node) StoredEvents(height uint64) ([]event.Event, error) {
	r, err := n.embedded()
	if err != nil {
		return nil, err
	}
	return r.Ledger().Events(height)
}

// Heads lists each ready peer's head beside ours.
func (n *Node) Heads() []PeerHead {
	own := int64(n.network.Status().Head.Height)
	heads := []PeerHead{}
	for _, p := range n.shake.Peers() {
		if !p.Ready {
			continue
		}
		h := PeerHead{Peer: p.ID, Name: p.Name, Claimed: headOf(p.Claimed), Validated: headOf(p.Validated)}
		h.TrailsBy = own - int64(max(p.Claimed.Height, p.Validated.Height))
		heads = append(heads, h)
	}
	return heads
}

func headOf(h chain.Head) *chain.Head {
	if h.Hash.IsZero() {
		return nil
	}
	return &h
}

// Blocks lists a page of blocks, genesis included, and the cursor of the next
// page, "" at the end.
func (n *Node) Blocks(r Range) ([]Block, string, error) {
	if _, err := n.genesis(); err != nil {
		return nil, "", err
	}
	tip := n.replica.Ledger().Tip().Head.Height
	at := uint64(0)
	if r.Desc {
		at = tip
	}
	if r.After != "" {
		h, err := strconv.ParseUint(r.After, 10, 53)
		if err != nil || h > tip {
			return nil, "", fmt.Errorf("%w %q: want the next_cursor of a page of blocks", ErrBadRange, r.After)
		}
		at = h
	}
	blocks := []Block{}
	for range r.size() {
		b, err := n.blockAt(at)
		if err != nil {
			return nil, "", err
		}
		blocks = append(blocks, b)
		if r.Desc && at == 0 || !r.Desc && at == tip {
			return blocks, "", nil
		}
		if r.Desc {
			at--
		} else {
			at++
		}
	}
	return blocks, strconv.FormatUint(at, 10), nil
}

func (r Range) size() int {
	if r.Limit <= 0 {
		return defaultPage
	}
	return min(r.Limit, maxPage)
}

// Block finds a block by its height or its hash.
func (n *Node) Block(ref string) (Block, error) {
	h, err := n.heightOf(ref)
	if err != nil {
		return Block{}, err
	}
	return n.blockAt(h)
}

func (n *Node) heightOf(ref string) (uint64, error) {
	g, err := n.genesis()
	if err != nil {
		return 0, err
	}
	if hash, err := chain.ParseHash(ref); err == nil {
		if hash == g.Hash() {
			return 0, nil
		}
		h, ok := n.replica.Ledger().HeightOf(hash)
		if !ok {
			return 0, fmt.Errorf("block %s: %w", ref, ErrNotFound)
		}
		return h, nil
	}
	h, err := strconv.ParseUint(ref, 10, 53)
	if err != nil {
		return 0, fmt.Errorf("block %q: %w: want a height, or a hash of 64 hex digits", ref, ErrBadRef)
	}
	if h > n.replica.Ledger().Tip().Head.Height {
		return 0, fmt.Errorf("block %d: %w: the head is at %d", h, ErrNotFound, n.replica.Ledger().Tip().Head.Height)
	}
	return h, nil
}

func (n *Node) blockAt(height uint64) (Block, error) {
	if height == 0 {
		g := n.replica.Genesis()
		return Block{Hash: g.Hash(), Time: fromMS(g.Time), Subtrees: []BlockSubtree{}, Raw: BlockRaw{Header: hex.EncodeToString(g.Encode())}}, nil
	}
	b, err := n.replica.Ledger().Block(height)
	if err != nil {
		return Block{}, fmt.Errorf("block %d: %w", height, err)
	}
	h := b.Header
	v := Block{
		Height: h.Height, Hash: h.Hash(), PrevHash: h.Prev, Time: fromMS(h.Time), Epoch: h.Epoch, RecordCount: int(h.Records),
		SizeBytes: int(h.BodyBytes), Root: h.Root, Subtrees: []BlockSubtree{}, Proposer: n.proposer(h), Certificate: &BlockCertificate{View: b.Certificate.View},
		Raw: BlockRaw{Header: hex.EncodeToString(h.Encode()), Certificate: hex.EncodeToString(b.Certificate.Encode())},
	}
	for _, st := range b.Body {
		v.Subtrees = append(v.Subtrees, BlockSubtree{ID: st.ID(), Records: len(st.Records)})
	}
	for _, vote := range b.Certificate.Votes {
		v.Certificate.Signers = append(v.Certificate.Signers, vote.Validator)
	}
	if c, _, err := n.replica.Ledger().ConfigAt(h.Epoch); err == nil {
		v.Certificate.Quorum = c.Set().Quorum()
	}
	return v, nil
}

func (n *Node) proposer(h *consortium.Header) *BlockProposer {
	p := &BlockProposer{Validator: h.Proposer}
	c, _, err := n.replica.Ledger().ConfigAt(h.Epoch)
	if err != nil {
		return p
	}
	for _, v := range c.Validators {
		if v.ID == h.Proposer {
			p.Name = v.Name
			p.Peer, _ = v.Key.PeerID() // "" for a key that no peer can have
		}
	}
	return p
}
