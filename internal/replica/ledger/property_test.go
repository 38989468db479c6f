package ledger_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// TestCommittableIsAppend drives random pools over random tips. What the
// proposer's side (Committable) lets into a block the other side (Append) has
// to take, and what it refuses Append has to refuse: else an honest leader
// could poison the chain. Two ledgers with the same tip give the same answers.
func TestCommittableIsAppend(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := ledgertest.New(t, rapid.IntRange(1, 4).Draw(rt, "validators"))
		trusting := func(chain.Hash) bool { return true }
		l, twin := openFor(rt, c, nil), openFor(rt, c, nil)
		blind := openFor(rt, c, trusting) // differs in signatures only
		defer func() {
			if err := errors.Join(l.Close(), twin.Close(), blind.Close()); err != nil {
				rt.Error(err)
			}
		}()
		keys := []string{"a", "b", "c"}
		var old [][]byte
		for range rapid.IntRange(1, 5).Draw(rt, "blocks") {
			height := l.Tip().Head.Height + 1
			var good [][]byte
			for range rapid.IntRange(0, 8).Draw(rt, "pool") {
				raw := drawRecord(rt, c, keys, old, height)
				if err := verdict(rt, l, twin, raw, height); err != nil {
					mustRefuse(rt, l, c, raw, err)
					continue
				}
				r, err := consortium.DecodeRecord(raw)
				if err != nil {
					rt.Fatal(err)
				}
				if r.Kind == consortium.KindConfig {
					good = [][]byte{raw}
					break
				}
				if !slices.ContainsFunc(good, func(g []byte) bool { return string(g) == string(raw) }) {
					good = append(good, raw)
				}
			}
			b := c.Next(good...)
			for _, each := range []*ledger.Ledger{l, twin, blind} {
				if err := each.Append(b, "own", ""); err != nil {
					rt.Fatalf("what Committable passed, Append refuses: %v", err)
				}
			}
			old = append(old, good...)
		}
		if l.Tip().Head != twin.Tip().Head {
			rt.Fatal("the twins differ")
		}
	})
}

func openFor(rt *rapid.T, c *ledgertest.Chain, verified func(chain.Hash) bool) *ledger.Ledger {
	l, err := ledger.Open(ledger.Options{Dir: "ledger", FS: vfs.NewMem(), Log: slog.New(slog.DiscardHandler), Verified: verified})
	if err == nil {
		err = l.Init(c.Genesis())
	}
	if err != nil {
		rt.Fatal(err)
	}
	return l
}

// verdict is Committable's, which both ledgers have to share.
func verdict(rt *rapid.T, l, twin *ledger.Ledger, raw []byte, height uint64) error {
	ask := func(l *ledger.Ledger) error {
		r, err := consortium.DecodeRecord(raw)
		if err != nil {
			return err
		}
		return l.Committable(r, consortium.RecordID(raw), height)
	}
	a, b := ask(l), ask(twin)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		rt.Fatalf("one says %v, the other %v", a, b)
	}
	var bad *consortium.RecordError
	if a != nil && !errors.As(a, &bad) {
		rt.Fatalf("not a refusal: %v", a)
	}
	return a
}

func mustRefuse(rt *rapid.T, l *ledger.Ledger, c *ledgertest.Chain, raw []byte, why error) {
	var bad *chain.InvalidError
	if err := l.Append(c.Build(raw), "own", ""); !errors.As(err, &bad) || bad.Offence != chain.InvalidBlock {
		rt.Fatalf("Committable says %v, Append %v", why, err)
	}
}

// drawRecord gives good and bad records of all kinds.
func drawRecord(rt *rapid.T, c *ledgertest.Chain, keys []string, old [][]byte, height uint64) []byte {
	key := ledgertest.Key(rapid.SampledFrom(keys).Draw(rt, "author"))
	switch rapid.IntRange(0, 7).Draw(rt, "kind") {
	case 0: // around the last height
		notAfter := height - 1 + uint64(rapid.IntRange(0, 2).Draw(rt, "not after"))
		return c.RecordBy(key, func(r *consortium.Record) { r.NotAfter = notAfter })
	case 1: // damaged at any byte
		raw := c.RecordBy(key, nil)
		raw[rapid.IntRange(0, len(raw)-1).Draw(rt, "byte")]++
		return raw
	case 2:
		if len(old) > 0 {
			return rapid.SampledFrom(old).Draw(rt, "committed")
		}
	case 3:
		return c.ConfigRecord(func(cfg *consortium.Config) {
			switch rapid.IntRange(0, 4).Draw(rt, "change") {
			case 0:
				c.AddValidator(cfg)
			case 1:
				cfg.Epoch += 3
			case 2:
				cfg.NextID--
			case 3:
				cfg.AuthorPolicy, cfg.Authors = consortium.Listed, []consortium.PublicKey{consortium.PublicKeyOf(key)}
			case 4:
				cfg.AuthorPolicy, cfg.Authors = consortium.Open, nil
			}
		})
	}
	return c.RecordBy(key, nil)
}
