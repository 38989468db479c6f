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

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// BlockRecords lists the records of a block in their order, which is at most
// max_block_bytes of them.
func (n *Node) BlockRecords(ref string) ([]Record, error) {
	var all []Record
	for r := (Range{Limit: maxPage}); ; {
		page, next, err := n.BlockRecordsPage(ref, r)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); next == "" {
			return all, nil
		}
		r.After = next
	}
}

// BlockRecordsPage lists a page of a block's records, and the cursor of the
// next page. A page ends at 4 MiB of records, too.
func (n *Node) BlockRecordsPage(ref string, r Range) ([]Record, string, error) {
	records := []Record{}
	height, err := n.heightOf(ref)
	if err != nil || height == 0 {
		return records, "", err
	}
	b, err := n.replica.Ledger().Block(height)
	if err != nil {
		return nil, "", fmt.Errorf("block %d: %w", height, err)
	}
	from := 0
	if r.After != "" {
		if from, err = strconv.Atoi(r.After); err != nil || from < 0 {
			return nil, "", fmt.Errorf("%w %q: want the next_cursor of a page of a block's records", ErrBadRange, r.After)
		}
	}
	hash := b.Header.Hash()
	index, bytes := 0, 0
	for _, st := range b.Body {
		for _, raw := range st.Records {
			index++
			if index <= from {
				continue
			}
			if bytes += len(raw); len(records) == r.size() || len(records) > 0 && bytes > pageBytes {
				return records, strconv.Itoa(index - 1), nil
			}
			v, err := viewRecord(raw)
			if err != nil {
				return nil, "", err
			}
			v.commit(height, uint32(index-1), hash)
			records = append(records, v)
		}
	}
	return records, "", nil
}

// BlockRecordIDs lists the ids of a block's records in their order.
func (n *Node) BlockRecordIDs(ref string) ([]chain.Hash, error) {
	height, err := n.heightOf(ref)
	if err != nil || height == 0 {
		return nil, err
	}
	b, err := n.replica.Ledger().Block(height)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	return b.Body.RecordIDs(), nil
}

// Submit signs the draft where it is not signed, and hands it to the chain.
// With Committed it waits for the block; when ctx ends or the node stops first,
// the record is answered as pending. A pending record is in this node's journal
// on disk: it will be committed, or get one final rejection. A refusal is a
// *consortium.RecordError.
func (n *Node) Submit(ctx context.Context, d Draft, ack Ack) (Record, error) {
	g, err := n.genesis()
	if err != nil {
		return Record{}, err
	}
	raw, err := n.encodeDraft(d, g)
	if err != nil {
		return Record{}, err
	}
	placed, err := n.replica.Submit(ctx, raw, ack != Accepted)
	if err != nil {
		return Record{}, err
	}
	r, err := viewOf(placed.ID, raw) // what was handed in is what is there
	if err != nil || !placed.Committed() {
		r.Status = "pending"
		return r, err
	}
	hash, err := n.replica.Ledger().BlockHash(placed.Height)
	if err != nil {
		return Record{}, fmt.Errorf("record %s: %w", placed.ID, err)
	}
	r.commit(placed.Height, placed.Index, hash)
	return r, nil
}

// encodeDraft gives the record's bytes.
func (n *Node) encodeDraft(d Draft, genesis *consortium.Genesis) ([]byte, error) {
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
	if d.Body == nil && d.BodyBase64 == nil {
		return nil, consortium.Refuse(consortium.Malformed, "no body: give body (JSON) or body_base64")
	}
	if r.MediaType == jsonMedia && !json.Valid(r.Body) {
		return nil, consortium.Refuse(consortium.Malformed, "the body is no JSON, and media_type says %s", jsonMedia)
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
	r.Sign(host.RawEd25519(n.host.Key()), genesis.Hash())
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

// Record finds a record in the chain, in the pool, in the journal, or among
// those rejected lately.
func (n *Node) Record(id chain.Hash) (Record, error) {
	if _, err := n.embedded(); err != nil {
		return Record{}, err
	}
	r, err := n.committed(id)
	if !errors.Is(err, ErrNotFound) {
		return r, err
	}
	pending, err := n.pending(id)
	if err == nil {
		v, err := viewRecord(pending)
		v.Status = "pending"
		if why, held := n.replica.Held(id); held {
			reason := string(why.Reason)
			v.Reason = &reason
		}
		return v, err
	}
	if !errors.Is(err, ledger.ErrNotFound) {
		return Record{}, err
	}
	end, err := n.replica.Ledger().Rejection(id)
	if err == nil {
		return Record{ID: id, Status: "rejected", Reason: &end.Reason}, nil
	}
	if !errors.Is(err, ledger.ErrNotFound) {
		return Record{}, err
	}
	return n.committed(id) // it may have left the pool for a block meanwhile
}

// pending is a record that waits for its block.
func (n *Node) pending(id chain.Hash) ([]byte, error) {
	if pool := n.replica.Pool(); pool != nil {
		if raw, ok := pool.Get(id); ok {
			return raw, nil
		}
	}
	return n.replica.Ledger().Journaled(id)
}

// committed is a record of the chain.
func (n *Node) committed(id chain.Hash) (Record, error) {
	raw, height, index, err := n.replica.Ledger().RecordAt(id)
	if errors.Is(err, ledger.ErrNotFound) {
		return Record{}, fmt.Errorf("record %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Record{}, fmt.Errorf("record %s: %w", id, err)
	}
	return n.inBlock(raw, height, index)
}

func (n *Node) inBlock(raw []byte, height uint64, index uint32) (Record, error) {
	v, err := viewRecord(raw)
	if err != nil {
		return Record{}, err
	}
	hash, err := n.replica.Ledger().BlockHash(height)
	if err != nil {
		return Record{}, fmt.Errorf("record %s: %w", v.ID, err)
	}
	v.commit(height, index, hash)
	return v, nil
}

func (v *Record) commit(height uint64, index uint32, block chain.Hash) {
	v.Status, v.Height, v.Index, v.BlockHash = "committed", &height, &index, &block
}

func viewRecord(raw []byte) (Record, error) { return viewOf(consortium.RecordID(raw), raw) }

func viewOf(id chain.Hash, raw []byte) (Record, error) {
	r, err := consortium.DecodeRecord(raw)
	if err != nil {
		return Record{}, err
	}
	v := Record{
		ID: id, Kind: "record", Subject: r.Subject, MediaType: r.MediaType, Author: hex.EncodeToString(r.Author[:]),
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

// History lists the records of a subject, and the cursor of the next page. A
// page ends at 4 MiB of records, too.
func (n *Node) History(subject string, r Range) ([]Record, string, error) {
	return n.records(r, func(l *ledger.Ledger, q ledger.Query) ([]ledger.Place, error) { return l.History(subject, q) })
}

// ByAuthor lists the records that a key signed, and the cursor of the next page.
func (n *Node) ByAuthor(author consortium.PublicKey, r Range) ([]Record, string, error) {
	return n.records(r, func(l *ledger.Ledger, q ledger.Query) ([]ledger.Place, error) { return l.ByAuthor(author, q) })
}

func (n *Node) records(r Range, find func(*ledger.Ledger, ledger.Query) ([]ledger.Place, error)) ([]Record, string, error) {
	embedded, err := n.embedded()
	if err != nil {
		return nil, "", err
	}
	q := ledger.Query{Desc: r.Desc, Limit: r.size() + 1} // one more tells whether a page follows
	if r.After != "" {
		at, err := parsePosition(r.After)
		if err != nil {
			return nil, "", err
		}
		q.After = at
	}
	places, err := find(embedded.Ledger(), q)
	if err != nil {
		return nil, "", err
	}
	records := []Record{}
	bytes := 0
	for i, p := range places {
		raw, height, index, err := n.replica.Ledger().RecordAt(p.ID)
		if err != nil {
			return nil, "", fmt.Errorf("record %s: %w", p.ID, err)
		}
		if bytes += len(raw); i == r.size() || i > 0 && bytes > pageBytes {
			last := places[i-1]
			return records, fmt.Sprintf("%d.%d", last.Height, last.Index), nil
		}
		v, err := n.inBlock(raw, height, index)
		if err != nil {
			return nil, "", err
		}
		records = append(records, v)
	}
	return records, "", nil
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
