package consensus

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

func testLedger(t testing.TB, c *ledgertest.Chain) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(ledger.Options{Dir: "l", FS: vfs.NewMem(), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	return l
}

func metadata(t testing.TB, view, seq uint64) []byte {
	t.Helper()
	b, err := proto.Marshal(&smartbftprotos.ViewMetadata{ViewId: view, LatestSequence: seq, DecisionsInView: seq})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The poison rule: whatever an honest leader puts together out of any pool,
// every honest node with its tip takes. Else each leader in turn is refused.
func TestProposerAndVerifierAgree(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	c := ledgertest.New(t, 4)
	l := testLedger(t, c)
	genesis := c.Genesis().Hash()
	var old [][]byte
	total, left, empty := 0, 0, 0
	for range 150 {
		tip := l.Tip()
		height := tip.Head.Height + 1
		requests := randomPool(rnd, c, old, height)
		md := metadata(t, rnd.Uint64N(9), height)
		now := time.UnixMilli(int64(timeOf(tip))).Add(time.Duration(rnd.IntN(4000)-2000) * time.Millisecond)
		h, body, bad, err := assemble(tip, genesis, md, requests, now, l.Committable)
		if err != nil {
			t.Fatal(err)
		}
		p := propose(h, body)
		ids, err := verified(tip, genesis, p, now, l.Committable)
		if err != nil {
			t.Fatalf("height %d: %d requests, %d in the block: an honest proposal is refused: %v", height, len(requests), body.Records(), err)
		}
		if len(ids) != body.Records() || len(p.Payload) > int(tip.Config.Params.MaxBlockBytes) {
			t.Fatalf("%d ids of %d records, %d bytes", len(ids), body.Records(), len(p.Payload))
		}
		total, left = total+len(ids), left+len(bad)
		if len(ids) == 0 {
			empty++
		}
		b := c.Next(slices.Concat(recordsOf(body)...)...)
		if err := l.Append(b, "sync", ""); err != nil {
			t.Fatalf("the ledger refuses the block: %v", err)
		}
		old = append(old, slices.Concat(recordsOf(body)...)...)
	}
	t.Logf("%d records in, %d refused, %d blocks empty", total, left, empty)
	if total < 300 || left < 100 || empty == 0 {
		t.Error("the pools were too tame")
	}
}

func recordsOf(body consortium.Body) (out [][][]byte) {
	for _, st := range body {
		out = append(out, st.Records)
	}
	return out
}

// randomPool mixes good records with every kind of bad ones.
func randomPool(rnd *rand.Rand, c *ledgertest.Chain, old [][]byte, height uint64) (pool [][]byte) {
	for range rnd.IntN(12) {
		switch rnd.IntN(9) {
		case 0:
			if len(old) > 0 {
				pool = append(pool, old[rnd.IntN(len(old))])
			}
		case 1:
			pool = append(pool, c.RecordBy(ledgertest.Key("b"), func(r *consortium.Record) { r.NotAfter = max(1, height-1+rnd.Uint64N(3)) }))
		case 2:
			raw := c.Record("forged", []byte("x"))
			raw[len(raw)-1-rnd.IntN(len(raw))] ^= 1 << rnd.IntN(8)
			pool = append(pool, raw)
		case 3:
			raw := c.Record("twice", nil)
			pool = append(pool, raw, raw)
		case 4:
			pool = append(pool, []byte("no record"))
		case 5:
			for range 20 {
				pool = append(pool, c.Record("large", bytes.Repeat([]byte{1}, consortium.MaxBody)))
			}
		case 6:
			if rnd.IntN(3) == 0 {
				pool = append(pool, c.ConfigRecord(func(cfg *consortium.Config) {
					cfg.Params.BatchRecords++
					if rnd.IntN(2) == 0 {
						cfg.Epoch += 5 // stale or early
					}
				}))
			}
		default:
			pool = append(pool, c.Record("good", []byte("body")))
		}
	}
	return pool
}

func TestVerifyRefuses(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := testLedger(t, c)
	genesis := c.Genesis().Hash()
	if err := l.Append(c.Next(c.Record("first", nil)), "sync", ""); err != nil {
		t.Fatal(err)
	}
	tip, now := l.Tip(), time.Now()
	raw := c.Record("second", nil)
	tests := map[string]func(h *consortium.Header, body *consortium.Body){
		"genesis":     func(h *consortium.Header, _ *consortium.Body) { h.Genesis[0]++ },
		"height":      func(h *consortium.Header, _ *consortium.Body) { h.Height++ },
		"previous":    func(h *consortium.Header, _ *consortium.Body) { h.Prev[0]++ },
		"epoch":       func(h *consortium.Header, _ *consortium.Body) { h.Epoch++ },
		"set":         func(h *consortium.Header, _ *consortium.Body) { h.Set[0]++ },
		"next set":    func(h *consortium.Header, _ *consortium.Body) { h.NextSet[0]++ },
		"proposer":    func(h *consortium.Header, _ *consortium.Body) { h.Proposer = 2 },
		"old time":    func(h *consortium.Header, _ *consortium.Body) { h.Time = tip.Header.Time },
		"future time": func(h *consortium.Header, _ *consortium.Body) { h.Time = uint64(now.UnixMilli()) + 10_001 },
		"metadata":    func(h *consortium.Header, _ *consortium.Body) { h.Metadata = metadata(t, 0, 7) },
		"garbage":     func(h *consortium.Header, _ *consortium.Body) { h.Metadata = []byte{0xff} },
		"root":        func(h *consortium.Header, _ *consortium.Body) { h.Root[0]++ },
		"count":       func(h *consortium.Header, _ *consortium.Body) { h.Records++ },
		"twice":       func(_ *consortium.Header, b *consortium.Body) { *b = consortium.Pack([][]byte{raw, raw}) },
		"committed": func(_ *consortium.Header, b *consortium.Body) {
			first, err := l.Block(1)
			if err != nil {
				t.Fatal(err)
			}
			*b = first.Body
		},
		"config with others": func(_ *consortium.Header, b *consortium.Body) {
			*b = consortium.Pack([][]byte{raw, c.ConfigRecord(func(cfg *consortium.Config) { cfg.Params.BatchRecords++ })})
		},
	}
	for name, edit := range tests {
		h, body, _, err := assemble(tip, genesis, metadata(t, 0, 2), [][]byte{raw}, now, l.Committable)
		if err != nil {
			t.Fatal(err)
		}
		good := *h
		edit(h, &body)
		if h.Root == good.Root && h.Records == good.Records { // the body was edited: fit the header to it
			h.Records, h.Subtrees, h.BodyBytes = uint32(body.Records()), uint16(len(body)), uint32(body.Size())
			h.Root = consortium.BlockRoot(body.SubtreeIDs())
		}
		_, err = verified(tip, genesis, propose(h, body), now, l.Committable)
		if err == nil {
			t.Errorf("%s: a bad proposal is taken", name)
			continue
		}
		t.Logf("%s: %v", name, err)
	}
	h, body, _, err := assemble(tip, genesis, metadata(t, 0, 2), [][]byte{raw}, now, l.Committable)
	if err != nil {
		t.Fatal(err)
	}
	p := propose(h, body)
	if _, err := verified(tip, genesis, p, now, l.Committable); err != nil {
		t.Fatal(err)
	}
	p.VerificationSequence++
	if _, err := verified(tip, genesis, p, now, l.Committable); err == nil {
		t.Error("a wrong verification sequence is taken")
	}
}

// What a restart rebuilds from the ledger must be the bytes that were decided.
func TestDecisionIsByteIdentical(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := testLedger(t, c)
	want := c.Next(c.Record("a", nil), c.Record("b", nil))
	if err := l.Append(want, "sync", ""); err != nil {
		t.Fatal(err)
	}
	have, err := l.Block(1)
	if err != nil {
		t.Fatal(err)
	}
	p, d := propose(want.Header, want.Body), decision(have)
	if p.Digest() != d.Proposal.Digest() {
		t.Error("the proposal changed on its way through the ledger")
	}
	is, err := parse(d.Proposal, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b, err := block(is, append(d.Signatures, d.Signatures[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Certificate.Verify(b.Header, l.Tip().Set); err != nil {
		t.Error(err)
	}
}

// verified parses a proposal and judges it, and lists the ids of its records.
func verified(tip ledger.Tip, genesis chain.Hash, p types.Proposal, now time.Time, ok judge) ([]chain.Hash, error) {
	is, err := parse(p, int(tip.Config.Params.MaxBlockBytes))
	if err != nil {
		return nil, err
	}
	return is.ids, verify(tip, genesis, is, now, ok)
}
