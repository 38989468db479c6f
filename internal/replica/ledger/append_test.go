package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestAppendRefuses has one row a rule. Each starts on a chain of 3 blocks.
func TestAppendRefuses(t *testing.T) {
	type at struct {
		*ledgertest.Chain
		blocks []*consortium.Block
	}
	// header returns a good block with an edited header, signed as edited.
	header := func(edit func(*consortium.Header)) func(*testing.T, at) *consortium.Block {
		return func(_ *testing.T, c at) *consortium.Block {
			b := c.Build(c.Record("a", nil))
			edit(b.Header)
			c.Seal(b)
			return b
		}
	}
	lone := func(record func(c at) []byte) func(*testing.T, at) *consortium.Block {
		return func(_ *testing.T, c at) *consortium.Block { return c.Build(record(c)) }
	}
	const forged, invalid = chain.ForgedBlock, chain.InvalidBlock
	for _, tt := range []struct {
		name    string
		block   func(*testing.T, at) *consortium.Block
		offence chain.Offence
		is      error
		says    string
	}{
		{"known", func(_ *testing.T, c at) *consortium.Block { return c.blocks[1] }, "", chain.ErrKnown, ""},
		{"gap", header(func(h *consortium.Header) { h.Height++ }), "", chain.ErrOrphan, ""},
		{"height 0", header(func(h *consortium.Header) { h.Height = 0 }), forged, nil, "genesis has no block"},
		{"foreign genesis", header(func(h *consortium.Header) { h.Genesis[0]++ }), forged, nil, "genesis"},
		{"foreign genesis below", header(func(h *consortium.Header) { h.Height, h.Genesis[0] = 2, h.Genesis[0]+1 }), forged, nil, "genesis"},
		{"fork", header(func(h *consortium.Header) { h.Height = 2 }), "", ledger.ErrFork, "height 2"},
		{"fork by its parent", header(func(h *consortium.Header) { h.Prev[0]++ }), "", ledger.ErrFork, "height 4"},
		{"fork without certificate", func(_ *testing.T, c at) *consortium.Block {
			b := c.Build()
			b.Header.Height = 2
			return b
		}, forged, nil, "certificate"},
		{"time stands", header(func(h *consortium.Header) { h.Time-- }), forged, nil, "time"},
		{"time over its limit", header(func(h *consortium.Header) { h.Time = consortium.MaxNumber + 1 }), forged, nil, "limit"},
		{"epoch ahead", header(func(h *consortium.Header) { h.Epoch++ }), forged, nil, "epoch"},
		{"foreign set", header(func(h *consortium.Header) { h.Set[0]++ }), forged, nil, "set"},
		{"foreign proposer", header(func(h *consortium.Header) { h.Proposer = 99 }), forged, nil, "proposer"},
		{"body over the chain's limit", header(func(h *consortium.Header) { h.BodyBytes = 1<<20 + 1 }), forged, nil, "1048577 bytes"},
		{"metadata over its limit", header(func(h *consortium.Header) { h.Metadata = make([]byte, 65) }), forged, nil, "metadata"},
		{"too few votes", func(_ *testing.T, c at) *consortium.Block {
			b := c.Build()
			b.Certificate.Votes = b.Certificate.Votes[:2]
			return b
		}, forged, nil, "certificate"},
		{"forged vote", func(_ *testing.T, c at) *consortium.Block {
			b := c.Build()
			b.Certificate.Votes[3].Sig[7]++
			return b
		}, forged, nil, "validator 4"},
		{"header changed after the votes", func(_ *testing.T, c at) *consortium.Block {
			b := c.Build()
			b.Header.Time++
			return b
		}, forged, nil, "signature"},
		{"wrong root", header(func(h *consortium.Header) { h.Root[0]++ }), invalid, nil, "root"},
		{"wrong count", header(func(h *consortium.Header) { h.Records++ }), invalid, nil, "records"},
		{"body missing", func(_ *testing.T, c at) *consortium.Block {
			b := c.Build(c.Record("a", nil))
			b.Body = nil
			return b
		}, invalid, nil, "records"},
		{"other packing", func(_ *testing.T, c at) *consortium.Block {
			b := c.Build(records(c.Chain, 2, 1)...)
			rs := b.Body[0].Records
			b.Body = consortium.Body{{Records: rs[:1]}, {Records: rs[1:]}}
			b.Header.Subtrees, b.Header.BodyBytes, b.Header.Root = 2, uint32(b.Body.Size()), consortium.BlockRoot(b.Body.SubtreeIDs())
			c.Seal(b)
			return b
		}, invalid, nil, "closed early"},
		{"next set changes by itself", header(func(h *consortium.Header) { h.NextSet[0]++ }), invalid, nil, "next validator set"},
		{"garbage record", lone(func(at) []byte { return make([]byte, 200) }), invalid, nil, "malformed"},
		{"forged record", lone(func(c at) []byte {
			raw := c.Record("a", []byte("b"))
			raw[len(raw)-1]++
			return raw
		}), invalid, nil, "bad_signature"},
		{"record of another chain", func(t *testing.T, c at) *consortium.Block {
			return c.Build(ledgertest.New(t, 1).Record("a", nil))
		}, invalid, nil, "bad_signature"},
		{"record in the chain", lone(func(c at) []byte { return c.blocks[0].Body[0].Records[0] }), invalid, nil, "duplicate"},
		{"record twice", func(_ *testing.T, c at) *consortium.Block {
			r := c.Record("a", nil)
			return c.Build(r, c.Record("a", nil), r)
		}, invalid, nil, "record 2 is record 0 again"},
		{"expired", lone(func(c at) []byte {
			return c.RecordBy(ledgertest.Key("x"), func(r *consortium.Record) { r.NotAfter = 3 })
		}), invalid, nil, "expired"},
		{"config in company", func(_ *testing.T, c at) *consortium.Block {
			return c.Build(c.Record("a", nil), c.ConfigRecord(func(*consortium.Config) {}))
		}, invalid, nil, "alone"},
		{"config of a later epoch", lone(func(c at) []byte {
			return c.ConfigRecord(func(cfg *consortium.Config) { cfg.Epoch++ })
		}), invalid, nil, "stale_config"},
		{"config that nobody approved", lone(func(c at) []byte {
			return c.RecordBy(ledgertest.Key("x"), func(r *consortium.Record) {
				cfg := *c.Config()
				cfg.Epoch++
				r.Kind, r.Subject, r.MediaType = consortium.KindConfig, consortium.SubjectConfig, consortium.MediaTypeConfig
				r.Body = (&consortium.ConfigChange{Config: cfg}).Encode()
			})
		}), invalid, nil, "not_authorised"},
	} {
		for _, door := range []func(*ledger.Ledger, *consortium.Block) error{
			func(l *ledger.Ledger, b *consortium.Block) error { return l.Append(b, "gossip", "peer") },
			func(l *ledger.Ledger, b *consortium.Block) error {
				p, err := l.Prepare(b)
				if _, ok := errors.AsType[*chain.InvalidError](err); ok { // of a body that does not fit; Append may know worse
					return l.Append(b, "gossip", "peer")
				} else if err != nil {
					return err
				}
				return l.AppendPrepared(p, "gossip", "peer")
			},
			func(l *ledger.Ledger, b *consortium.Block) error {
				p, ok := opened(b)
				if !ok { // there is nothing to hand over
					return l.Append(b, "gossip", "peer")
				}
				return l.AppendPrepared(p, "gossip", "peer")
			},
		} {
			t.Run(tt.name, func(t *testing.T) {
				c := at{Chain: ledgertest.New(t, 4)}
				l := start(t, c.Chain)
				c.blocks = grow(t, c.Chain, l, 3)
				before := l.Tip()
				err := door(l, tt.block(t, c))
				var bad *chain.InvalidError
				switch {
				case err == nil || !strings.Contains(err.Error(), tt.says):
					t.Fatalf("got %v, want %q", err, tt.says)
				case tt.is != nil && !errors.Is(err, tt.is):
					t.Fatalf("got %v, want %v", err, tt.is)
				case tt.offence != "" && (!errors.As(err, &bad) || bad.Offence != tt.offence):
					t.Fatalf("got %v, want %s", err, tt.offence)
				}
				var fork *ledger.ForkError
				if errors.Is(err, ledger.ErrFork) && (!errors.As(err, &fork) || fork.Ours.Hash() == fork.Theirs.Hash() || len(fork.TheirsCert.Votes) != 4) {
					t.Errorf("evidence %+v", fork)
				}
				if l.Tip() != before {
					t.Error("the tip moved")
				}
				appendBlock(t, l, c.Next(c.Record("after", nil)))
				if err := l.Check(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// opened opens and decodes b as an engine does.
func opened(b *consortium.Block) (p *ledger.Prepared, ok bool) {
	ids, err := consortium.OpenBody(b.Header, b.Body)
	if err != nil {
		return nil, false
	}
	var records []*consortium.Record
	for _, s := range b.Body {
		for _, raw := range s.Records {
			r, err := consortium.DecodeRecord(raw)
			if err != nil {
				return nil, false
			}
			records = append(records, r)
		}
	}
	return ledger.Opened(b, ids, records), true
}

// A block that was opened before is stored with all its entries.
func TestAppendOpened(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := start(t, c)
	for _, b := range []*consortium.Block{c.Next(records(c, 300, 20)...), c.Next(), c.Next(c.ConfigRecord(c.AddValidator)), c.Next(records(c, 2, 9)...)} {
		p, ok := opened(b)
		if !ok {
			t.Fatalf("block %d does not open", b.Header.Height)
		}
		if err := l.AppendPrepared(p, "own", ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if tip := l.Tip(); tip.Head.Height != 4 || tip.Records != 303 || tip.Config.Epoch != 1 {
		t.Errorf("tip at %d with %d records in epoch %d", tip.Head.Height, tip.Records, tip.Config.Epoch)
	}
}

func TestListedAuthors(t *testing.T) {
	c := ledgertest.New(t, 1)
	l := start(t, c)
	key := ledgertest.Key("listed")
	appendBlock(t, l, c.Next(c.ConfigRecord(func(cfg *consortium.Config) {
		cfg.AuthorPolicy, cfg.Authors = consortium.Listed, []consortium.PublicKey{consortium.PublicKeyOf(key)}
	})))
	err := l.Append(c.Build(c.Record("a", nil)), "own", "")
	if err == nil || !strings.Contains(err.Error(), "unknown_author") {
		t.Errorf("unlisted author: %v", err)
	}
	appendBlock(t, l, c.Next(c.RecordBy(key, nil)))
	// The admin is not listed; approvals count for a config.
	appendBlock(t, l, c.Next(c.ConfigRecord(func(cfg *consortium.Config) { cfg.AuthorPolicy, cfg.Authors = consortium.Open, nil })))
	appendBlock(t, l, c.Next(c.Record("a", nil)))
	for epoch, height := range []uint64{0, 1, 3} {
		if cfg, at, err := l.ConfigAt(uint64(epoch)); err != nil || at != height || cfg.Epoch != uint64(epoch) {
			t.Errorf("config of epoch %d: at %d, %v", epoch, at, err)
		}
	}
	if _, _, err := l.ConfigAt(3); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("config of a later epoch: %v", err)
	}
}

func TestNotAfterIsTheLastHeight(t *testing.T) {
	c := ledgertest.New(t, 1)
	l := start(t, c)
	appendBlock(t, l, c.Next())
	for notAfter, good := range map[uint64]bool{0: true, 1: false, 2: true, 3: true} {
		r, err := consortium.DecodeRecord(c.RecordBy(ledgertest.Key("x"), func(r *consortium.Record) { r.NotAfter = notAfter }))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Committable(r, consortium.RecordID(r.Encode()), 2); (err == nil) != good {
			t.Errorf("not_after %d in block 2: %v", notAfter, err)
		}
	}
}

func TestVerifiedIsNotVerifiedAgain(t *testing.T) {
	c := ledgertest.New(t, 1)
	var asked atomic.Int32
	l := open(t, ledger.Options{Verified: func(chain.Hash) bool { asked.Add(1); return true }})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	bad := c.Record("a", []byte("b"))
	bad[len(bad)-1]++ // only a check of the signature could see it
	appendBlock(t, l, c.Next(bad))
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	if err := l.Check(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "bad_signature") {
		t.Errorf("Check trusts the caller: %v", err)
	}
}

// TestHeadersAhead walks headers like chainsync does: certificates, and
// configs over changes of the set.
func TestHeadersAhead(t *testing.T) {
	c := ledgertest.New(t, 4)
	l := start(t, c)
	blocks := grow(t, c, l, 9)
	tip := ledger.GenesisTip(c.Genesis())
	for _, b := range blocks {
		if err := ledger.CheckHeader(tip, b.Header, b.Certificate); err != nil {
			t.Fatal(err)
		}
		var cfg *consortium.Config
		if b.Header.Height == 5 {
			if _, err := tip.After(b.Header, nil); err == nil {
				t.Error("a change of the set passes without its config")
			}
			var err error
			if cfg, _, err = l.ConfigAt(1); err != nil {
				t.Fatal(err)
			}
		}
		next, err := tip.After(b.Header, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tip.After(b.Header, &c.Genesis().Config); err == nil {
			t.Error("a config of the wrong epoch passes")
		}
		tip = next
	}
	if tip.Head != l.Tip().Head || tip.Records != l.Tip().Records {
		t.Errorf("walked to %+v, tip is %+v", tip.Head, l.Tip().Head)
	}
	if err := ledger.CheckHeader(tip, blocks[0].Header, blocks[0].Certificate); !errors.Is(err, chain.ErrOrphan) {
		t.Errorf("old header: %v", err)
	}
}

// TestManySubtrees fills blocks that need several subtrees, by count and by
// bytes.
func TestManySubtrees(t *testing.T) {
	c := ledgertest.New(t, 1)
	l := start(t, c)
	blocks := []*consortium.Block{c.Next(records(c, 600, 16)...)}
	appendBlock(t, l, blocks[0])
	blocks = append(blocks, c.Next(records(c, 15, 65_000)...))
	appendBlock(t, l, blocks[1])
	for i, b := range blocks {
		if len(b.Body) < 2 {
			t.Fatalf("block %d has %d subtrees", i+1, len(b.Body))
		}
		got, err := l.Block(uint64(i + 1))
		if err != nil || !bytes.Equal(consortium.EncodeBody(got.Body), consortium.EncodeBody(b.Body)) || got.Header.Hash() != b.Header.Hash() || len(got.Certificate.Votes) != 1 {
			t.Fatalf("block %d differs: %v", i+1, err)
		}
		index := 0
		for j, s := range b.Body {
			sub, height, at, err := l.Subtree(s.ID())
			if err != nil || height != uint64(i+1) || int(at) != j || fmt.Sprint(sub.IDs()) != fmt.Sprint(s.IDs()) {
				t.Fatalf("subtree %d of block %d: %d, %d, %v", j, i+1, height, at, err)
			}
			for _, want := range s.Records {
				raw, height, at, err := l.RecordAt(consortium.RecordID(want))
				if err != nil || !bytes.Equal(raw, want) || height != uint64(i+1) || int(at) != index {
					t.Fatalf("record %d of block %d: %d, %d, %v", index, i+1, height, at, err)
				}
				index++
			}
		}
		if h, ok := l.HeightOf(b.Header.Hash()); !ok || h != uint64(i+1) {
			t.Errorf("height of block %d: %d, %t", i+1, h, ok)
		}
	}
	none := chain.Hash{9}
	_, _, _, subErr := l.Subtree(none)
	_, _, _, recErr := l.RecordAt(none)
	_, blockErr := l.Block(3)
	_, _, headErr := l.Header(3)
	for _, err := range []error{subErr, recErr, blockErr, headErr} {
		if !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	}
	if _, ok := l.HeightOf(none); ok || l.Committed(none) || !l.Committed(blocks[0].Body[0].IDs()[0]) {
		t.Error("a hash that is nowhere was found, or a record was not")
	}
}
