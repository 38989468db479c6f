package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// ClockSkew is how far a proposer's clock may be before ours. Honest nodes may
// differ on it; it cannot poison, for the next leader writes its own time.
const ClockSkew = 10 * time.Second

// judge is the one rule for records. Proposer and verifier MUST use the same on
// the same tip: where they differ, each leader's proposal is refused for ever.
type judge func(r *consortium.Record, id chain.Hash, height uint64) error

// refused is a record that may not stand in the next block.
type refused struct {
	id  chain.Hash
	err error
}

// assemble builds the next block on tip out of requests, in their order, and
// says which of them can not be in it. Requests that only have no room are in
// neither. A config record stands alone.
func assemble(tip ledger.Tip, genesis chain.Hash, metadata []byte, requests [][]byte, now time.Time, ok judge) (*consortium.Header, consortium.Body, []refused, error) {
	height := tip.Head.Height + 1
	var bad []refused
	var records [][]byte
	var ids []chain.Hash // of records
	nextSet := tip.Set.Hash()
	seen := make(map[chain.Hash]bool, len(requests))
	for _, raw := range requests {
		id := consortium.RecordID(raw)
		r, err := consortium.DecodeRecord(raw)
		if err == nil {
			err = ok(r, id, height)
		}
		if err != nil {
			bad = append(bad, refused{id, err})
			continue
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		if r.Kind == consortium.KindConfig {
			change, err := consortium.DecodeConfigChange(r.Body)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("config record %s passed the rule and does not decode: %w", id, err)
			}
			records, ids, nextSet = [][]byte{raw}, []chain.Hash{id}, change.Config.Set().Hash()
			break
		}
		records, ids = append(records, raw), append(ids, id)
	}
	body := fit(records, int(tip.Config.Params.MaxBlockBytes)) // a run from the front
	leader, err := proposer(tip.Set, metadata)
	if err != nil {
		return nil, nil, nil, err
	}
	h := &consortium.Header{
		Genesis: genesis, Height: height, Prev: tip.Head.Hash, Time: max(uint64(now.UnixMilli()), timeOf(tip)+1),
		Epoch: tip.Config.Epoch, Set: tip.Set.Hash(), NextSet: nextSet, Proposer: leader,
		Records: uint32(body.Records()), Subtrees: uint16(len(body)), BodyBytes: uint32(body.Size()),
		Root: body.RootOf(ids[:body.Records()]), Metadata: metadata,
	}
	return h, body, bad, nil
}

// fit packs the longest run of records from the front whose body has at most
// limit bytes.
func fit(records [][]byte, limit int) consortium.Body {
	for {
		body := consortium.Body(consortium.Pack(records))
		over := body.Size() - limit
		if over <= 0 {
			return body
		}
		for over > 0 {
			last := len(records) - 1
			over -= 4 + len(records[last])
			records = records[:last]
		}
	}
}

func timeOf(tip ledger.Tip) uint64 {
	if tip.Header != nil {
		return tip.Header.Time
	}
	return tip.Genesis.Time
}

// proposer is the leader of the view that the engine's metadata names.
func proposer(set *consortium.ValidatorSet, metadata []byte) (uint64, error) {
	md, err := metadataOf(metadata)
	if err != nil {
		return 0, err
	}
	ids := set.IDs()
	return ids[md.ViewId%uint64(len(ids))], nil
}

// propose gives the block as the library carries it. The bytes depend on
// header and body alone: view changes compare them.
func propose(h *consortium.Header, body consortium.Body) types.Proposal {
	return types.Proposal{Header: h.Encode(), Payload: consortium.EncodeBody(body), Metadata: h.Metadata, VerificationSequence: int64(h.Epoch)}
}

// parseHeader checks that metadata and verification sequence fit the header.
func parseHeader(p types.Proposal) (*consortium.Header, error) {
	h, err := consortium.DecodeHeader(p.Header)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(h.Metadata, p.Metadata) {
		return nil, errors.New("the header has other view metadata than the proposal")
	}
	if p.VerificationSequence < 0 || uint64(p.VerificationSequence) != h.Epoch {
		return nil, fmt.Errorf("the header has epoch %d, the proposal %d", h.Epoch, p.VerificationSequence)
	}
	return h, nil
}

// piece is a proposal that is of one piece: header, body and the rest fit each
// other. Nothing of it was held against a tip.
type piece struct {
	header  *consortium.Header
	body    consortium.Body
	ids     []chain.Hash // of the records, in their order
	records []*consortium.Record
}

// parse is the inverse of propose. The records alias the payload.
func parse(p types.Proposal, maxBody int) (*piece, error) {
	h, err := parseHeader(p)
	if err != nil {
		return nil, err
	}
	body, err := consortium.DecodeBody(p.Payload, maxBody)
	if err != nil {
		return nil, err
	}
	ids, err := consortium.OpenBody(h, body)
	if err != nil {
		return nil, err
	}
	records := make([]*consortium.Record, 0, len(ids))
	for _, st := range body {
		for _, raw := range st.Records {
			r, err := consortium.DecodeRecord(raw)
			if err != nil {
				return nil, fmt.Errorf("record %s: %w", ids[len(records)], err)
			}
			records = append(records, r)
		}
	}
	return &piece{h, body, ids, records}, nil
}

// verify judges a proposal against tip.
func verify(tip ledger.Tip, genesis chain.Hash, p *piece, now time.Time, ok judge) error {
	h := p.header
	if err := verifyHeader(tip, genesis, h, now); err != nil {
		return err
	}
	seen := make(map[chain.Hash]bool, len(p.ids))
	nextSet := tip.Set.Hash()
	for i, r := range p.records {
		id := p.ids[i]
		if err := ok(r, id, h.Height); err != nil {
			return fmt.Errorf("record %s: %w", id, err)
		}
		if seen[id] {
			return fmt.Errorf("record %s stands twice", id)
		}
		seen[id] = true
		if r.Kind != consortium.KindConfig {
			continue
		}
		if h.Records != 1 {
			return fmt.Errorf("config record %s is not alone in its block", id)
		}
		change, err := consortium.DecodeConfigChange(r.Body)
		if err != nil {
			return err
		}
		nextSet = change.Config.Set().Hash()
	}
	if h.NextSet != nextSet {
		return fmt.Errorf("next validator set is %s, want %s", h.NextSet, nextSet)
	}
	return nil
}

// skewError says that the proposer's clock, or ours, is wrong.
type skewError struct {
	proposer uint64
	ahead    time.Duration // of our clock
}

func (e *skewError) Error() string {
	return fmt.Sprintf("the clock of validator %d is %v ahead of ours, at most %v are allowed", e.proposer, e.ahead.Round(time.Millisecond), ClockSkew)
}

func verifyHeader(tip ledger.Tip, genesis chain.Hash, h *consortium.Header, now time.Time) error {
	leader, err := proposer(tip.Set, h.Metadata)
	if err != nil {
		return err
	}
	md, err := metadataOf(h.Metadata)
	if err != nil {
		return err
	}
	set := tip.Set.Hash()
	switch {
	case h.Genesis != genesis:
		return fmt.Errorf("genesis is %s, want %s", h.Genesis, genesis)
	case h.Height != tip.Head.Height+1 || md.LatestSequence != h.Height:
		return fmt.Errorf("height is %d and sequence %d on tip %d", h.Height, md.LatestSequence, tip.Head.Height)
	case h.Prev != tip.Head.Hash:
		return fmt.Errorf("previous is %s, want %s", h.Prev, tip.Head.Hash)
	case h.Epoch != tip.Config.Epoch:
		return fmt.Errorf("epoch is %d, want %d", h.Epoch, tip.Config.Epoch)
	case h.Set != set:
		return fmt.Errorf("validator set is %s, want %s", h.Set, set)
	case h.Proposer != leader:
		return fmt.Errorf("proposer is %d, want %d", h.Proposer, leader)
	case h.Time <= timeOf(tip):
		return fmt.Errorf("time %d is not after %d", h.Time, timeOf(tip))
	case h.Time > uint64(now.Add(ClockSkew).UnixMilli()):
		return &skewError{proposer: h.Proposer, ahead: time.UnixMilli(int64(h.Time)).Sub(now)}
	}
	return nil
}

// block joins what was decided with the votes for it, all of one view.
func block(p *piece, votes []types.Signature) (*consortium.Block, error) {
	b := &consortium.Block{Header: p.header, Body: p.body}
	cert := &b.Certificate
	seen := map[uint64]bool{}
	for _, v := range votes {
		if seen[v.ID] {
			continue // the library verified the first one
		}
		seen[v.ID] = true
		if len(v.Value) != len(consortium.Signature{}) {
			return nil, fmt.Errorf("vote of validator %d has %d bytes", v.ID, len(v.Value))
		}
		_, _, view, ok := consortium.ParseVote(p.header.Genesis, v.Msg)
		if !ok {
			return nil, fmt.Errorf("vote of validator %d is malformed: %x", v.ID, v.Msg)
		}
		if len(cert.Votes) > 0 && view != cert.View {
			return nil, fmt.Errorf("vote of validator %d is of view %d, those before it of view %d", v.ID, view, cert.View)
		}
		cert.View = view
		cert.Votes = append(cert.Votes, consortium.Vote{Validator: v.ID, Sig: consortium.Signature(v.Value)})
	}
	slices.SortFunc(cert.Votes, func(x, y consortium.Vote) int {
		if x.Validator < y.Validator {
			return -1
		}
		return 1
	})
	return b, nil
}

// decision is the inverse of block.
func decision(b *consortium.Block) types.Decision {
	d := types.Decision{Proposal: propose(b.Header, b.Body)}
	msg := consortium.VoteMessage(b.Header.Genesis, b.Header.Hash(), b.Header.Height, b.Certificate.View)
	for _, v := range b.Certificate.Votes {
		d.Signatures = append(d.Signatures, types.Signature{ID: v.Validator, Value: bytes.Clone(v.Sig[:]), Msg: msg})
	}
	return d
}
