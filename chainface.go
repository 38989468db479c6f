package parley

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/replica"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// What the face answers where there is nothing to show.
var (
	ErrNotFound  = errors.New("not found")
	ErrNoChain   = replica.ErrNoChain
	ErrNotDevnet = errors.New("this works on a devnet only: profile = \"devnet\"")
	ErrBadRange  = errors.New("bad cursor")
)

const (
	defaultPage  = 100
	maxPage      = 1000
	jsonMedia    = "application/json"
	maxJSONNonce = 1 << 53 // exclusive; safe in JSON numbers
)

// Chain sums up the chain, or answers ErrNoChain while joining.
func (n *Node) Chain() (Chain, error) {
	g := n.replica.Genesis()
	if g == nil {
		return Chain{}, ErrNoChain
	}
	tip := n.replica.Ledger().Tip()
	return Chain{
		ChainID: g.ChainID, GenesisHash: g.Hash(), Height: tip.Head.Height, BlockCount: tip.Head.Height + 1, RecordCount: tip.Records,
		Head: *n.head(), Role: n.replica.Role(), Sync: n.syncState(),
		Validators: ValidatorsN{N: tip.Set.Len(), Connected: n.connectedValidators(), Quorum: tip.Set.Quorum()},
	}, nil
}

// head is nil until the chain is known.
func (n *Node) head() *StatusHead {
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

// Validators lists the set that signs the next block.
func (n *Node) Validators() []Validator {
	if n.replica.Genesis() == nil {
		return nil
	}
	leader := n.replica.Leader()
	var vs []Validator
	for _, v := range n.replica.Ledger().Tip().Config.Validators {
		id, err := v.Key.PeerID()
		if err != nil {
			continue // a key that no peer can have
		}
		e := Validator{ID: v.ID, Key: v.Key, Peer: id, Name: v.Name, Leader: v.ID == leader}
		if id == n.host.ID() {
			e.Connected, e.Height = true, n.replica.Status().Head.Height
		} else if p, ok := n.shake.Peer(id); ok && p.Ready {
			e.Connected, e.Height = true, p.Claimed.Height
		}
		vs = append(vs, e)
	}
	return vs
}

func (n *Node) connectedValidators() int {
	c := 0
	for _, v := range n.Validators() {
		if v.Connected {
			c++
		}
	}
	return c
}

// Heads lists each ready peer's head beside ours.
func (n *Node) Heads() []PeerHead {
	own := int64(n.replica.Status().Head.Height)
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
	g := n.replica.Genesis()
	if g == nil {
		return nil, "", ErrNoChain
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
	g := n.replica.Genesis()
	if g == nil {
		return 0, ErrNoChain
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
		return 0, fmt.Errorf("block %q: %w: want a height, or a hash of 64 hex digits", ref, ErrBadRange)
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
		SizeBytes: int(h.BodyBytes), Root: h.Root, Subtrees: []BlockSubtree{}, Proposer: n.proposer(h), Certificate: &BlockCertificate{},
		Raw: BlockRaw{Header: hex.EncodeToString(h.Encode()), Certificate: hex.EncodeToString(b.Certificate.Encode())},
	}
	for _, st := range b.Body {
		v.Subtrees = append(v.Subtrees, BlockSubtree{ID: st.ID(), Records: len(st.Records)})
	}
	for _, vote := range b.Certificate {
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

// BlockRecords lists the records of a block in their order.
func (n *Node) BlockRecords(ref string) ([]Record, error) {
	height, err := n.heightOf(ref)
	if err != nil || height == 0 {
		return []Record{}, err
	}
	b, err := n.replica.Ledger().Block(height)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	records := []Record{}
	hash := b.Header.Hash()
	for _, st := range b.Body {
		for _, raw := range st.Records {
			v, err := viewRecord(raw)
			if err != nil {
				return nil, err
			}
			v.commit(height, uint32(len(records)), hash)
			records = append(records, v)
		}
	}
	return records, nil
}

// Submit signs the draft where it is not signed, and hands it to the chain.
// With Committed it waits for the block; when ctx ends first, the record is
// answered as pending and goes on. A refusal is a *consortium.RecordError.
func (n *Node) Submit(ctx context.Context, d Draft, ack Ack) (Record, error) {
	g := n.replica.Genesis()
	if g == nil {
		return Record{}, ErrNoChain
	}
	raw, err := n.encodeDraft(d, g.Hash())
	if err != nil {
		return Record{}, err
	}
	id, err := n.replica.Submit(ctx, raw, ack != Accepted)
	if err != nil && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
		return Record{}, err
	}
	r, err := n.Record(id)
	if errors.Is(err, ErrNotFound) { // it left the pool this moment: what we know is what was handed in
		r, err = viewRecord(raw)
		r.Status = "pending"
	}
	return r, err
}

// encodeDraft gives the record's bytes.
func (n *Node) encodeDraft(d Draft, genesis chain.Hash) ([]byte, error) {
	if d.Raw != "" {
		raw, err := hex.DecodeString(d.Raw)
		if err != nil {
			return nil, consortium.Refuse(consortium.Malformed, "raw: %v", err)
		}
		return raw, nil
	}
	r := &consortium.Record{NotAfter: d.NotAfter, Subject: d.Subject, MediaType: d.MediaType, Body: d.BodyBase64}
	if d.Body != nil {
		if d.BodyBase64 != nil {
			return nil, consortium.Refuse(consortium.Malformed, "body and body_base64 are both set: give one")
		}
		r.Body = d.Body
	}
	if r.MediaType == "" {
		r.MediaType = jsonMedia
		if d.BodyBase64 != nil {
			r.MediaType = "application/octet-stream"
		}
	}
	if d.Author != "" || d.Sig != "" {
		return signedDraft(r, d)
	}
	if d.Nonce != nil {
		r.Nonce = *d.Nonce
	} else {
		r.Nonce = randomNonce()
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	r.Sign(host.RawEd25519(n.host.Key()), genesis)
	return r.Encode(), nil
}

// signedDraft takes the author's signature as it stands; the pool verifies it.
func signedDraft(r *consortium.Record, d Draft) ([]byte, error) {
	if d.Nonce == nil {
		return nil, consortium.Refuse(consortium.Malformed, "a signed record needs its nonce")
	}
	key, err := consortium.ParsePublicKey(d.Author)
	if err != nil {
		return nil, consortium.Refuse(consortium.Malformed, "author: %v", err)
	}
	sig, err := hex.DecodeString(d.Sig)
	if err != nil || len(sig) != len(r.Sig) {
		return nil, consortium.Refuse(consortium.Malformed, "sig: want %d hex digits", 2*len(r.Sig))
	}
	r.Author, r.Nonce = key, *d.Nonce
	copy(r.Sig[:], sig)
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r.Encode(), nil
}

func randomNonce() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return binary.BigEndian.Uint64(b[:]) % maxJSONNonce
}

// Record finds a record in the chain, in the pool, or among those rejected
// lately.
func (n *Node) Record(id chain.Hash) (Record, error) {
	l := n.replica.Ledger()
	raw, height, index, err := l.RecordAt(id)
	if err == nil {
		return n.committed(raw, height, index)
	}
	if !errors.Is(err, ledger.ErrNotFound) {
		return Record{}, fmt.Errorf("record %s: %w", id, err)
	}
	if pool := n.replica.Pool(); pool != nil {
		if raw, ok := pool.Get(id); ok {
			v, err := viewRecord(raw)
			v.Status = "pending"
			return v, err
		}
	}
	end, err := l.Rejection(id)
	if err == nil {
		return Record{ID: id, Status: "rejected", Reason: &end.Reason}, nil
	}
	if !errors.Is(err, ledger.ErrNotFound) {
		return Record{}, fmt.Errorf("record %s: %w", id, err)
	}
	return Record{}, fmt.Errorf("record %s: %w", id, ErrNotFound)
}

func (n *Node) committed(raw []byte, height uint64, index uint32) (Record, error) {
	v, err := viewRecord(raw)
	if err != nil {
		return Record{}, err
	}
	h, _, err := n.replica.Ledger().Header(height)
	if err != nil {
		return Record{}, fmt.Errorf("record %s: block %d: %w", v.ID, height, err)
	}
	v.commit(height, index, h.Hash())
	return v, nil
}

func (v *Record) commit(height uint64, index uint32, block chain.Hash) {
	v.Status, v.Height, v.Index, v.BlockHash = "committed", &height, &index, &block
}

func viewRecord(raw []byte) (Record, error) {
	r, err := consortium.DecodeRecord(raw)
	if err != nil {
		return Record{}, err
	}
	v := Record{
		ID: consortium.RecordID(raw), Kind: "record", Subject: r.Subject, MediaType: r.MediaType, Author: hex.EncodeToString(r.Author[:]),
		Nonce: r.Nonce, NotAfter: r.NotAfter, Sig: hex.EncodeToString(r.Sig[:]), Raw: hex.EncodeToString(raw),
	}
	if r.Kind == consortium.KindConfig {
		v.Kind = "config"
	}
	if r.MediaType == jsonMedia && json.Valid(r.Body) {
		v.Body = r.Body
	} else {
		v.BodyBase64 = r.Body
	}
	return v, nil
}

// History lists the records of a subject, and the cursor of the next page.
func (n *Node) History(subject string, r Range) ([]Record, string, error) {
	return n.records(r, func(q ledger.Query) ([]ledger.Place, error) { return n.replica.Ledger().History(subject, q) })
}

// ByAuthor lists the records that a key signed, and the cursor of the next page.
func (n *Node) ByAuthor(author consortium.PublicKey, r Range) ([]Record, string, error) {
	return n.records(r, func(q ledger.Query) ([]ledger.Place, error) { return n.replica.Ledger().ByAuthor(author, q) })
}

func (n *Node) records(r Range, find func(ledger.Query) ([]ledger.Place, error)) ([]Record, string, error) {
	q := ledger.Query{Desc: r.Desc, Limit: r.size() + 1} // one more tells whether a page follows
	if r.After != "" {
		at, err := parsePosition(r.After)
		if err != nil {
			return nil, "", err
		}
		q.After = at
	}
	places, err := find(q)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(places) > r.size() {
		places = places[:r.size()]
		last := places[len(places)-1]
		next = fmt.Sprintf("%d.%d", last.Height, last.Index)
	}
	records := make([]Record, 0, len(places))
	for _, p := range places {
		raw, height, index, err := n.replica.Ledger().RecordAt(p.ID)
		if err != nil {
			return nil, "", fmt.Errorf("record %s: %w", p.ID, err)
		}
		v, err := n.committed(raw, height, index)
		if err != nil {
			return nil, "", err
		}
		records = append(records, v)
	}
	return records, next, nil
}

func parsePosition(s string) (ledger.Position, error) {
	bad := fmt.Errorf("%w %q: want the next_cursor of a page of records", ErrBadRange, s)
	height, index, ok := strings.Cut(s, ".")
	if !ok {
		return ledger.Position{}, bad
	}
	h, err := strconv.ParseUint(height, 10, 53)
	if err != nil {
		return ledger.Position{}, bad
	}
	i, err := strconv.ParseUint(index, 10, 32)
	if err != nil {
		return ledger.Position{}, bad
	}
	return ledger.Position{Height: h, Index: uint32(i)}, nil
}
