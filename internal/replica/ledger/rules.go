package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Tip is the end of a chain with all that judging the next block needs. The
// values that it points to MUST NOT be changed.
type Tip struct {
	Head    chain.Head
	Header  *consortium.Header       // nil at height 0
	Genesis *consortium.Genesis      // of the chain; nil while there is none
	Config  *consortium.Config       // in force for the next block
	Set     *consortium.ValidatorSet // signs the next block
	Records uint64                   // in the whole chain

	genesis chain.Hash // hash of Genesis
}

// GenesisTip is the tip of the empty chain that g begins.
func GenesisTip(g *consortium.Genesis) Tip {
	hash := g.Hash()
	return Tip{Head: chain.Head{Hash: hash}, Genesis: g, Config: &g.Config, Set: g.Config.Set(), genesis: hash}
}

// time is what the next header's time has to pass.
func (t Tip) time() uint64 {
	if t.Header != nil {
		return t.Header.Time
	}
	return t.Genesis.Time
}

// After returns the tip with h on top, which CheckHeader found good. config is
// what h's block puts in force, nil where the block holds no config record.
// Its epoch and validators are checked against h; the approvals under it are
// judged with the body only.
func (t Tip) After(h *consortium.Header, config *consortium.Config) (Tip, error) {
	next := t
	next.Head = chain.Head{Height: h.Height, Hash: h.Hash()}
	next.Header = h
	next.Records += uint64(h.Records)
	if config != nil {
		if config.Epoch != t.Config.Epoch+1 {
			return Tip{}, chain.Invalid(chain.InvalidBlock, "block %d: config of epoch %d after epoch %d", h.Height, config.Epoch, t.Config.Epoch)
		}
		next.Config, next.Set = config, config.Set()
	}
	if got := next.Set.Hash(); got != h.NextSet {
		return Tip{}, chain.Invalid(chain.InvalidBlock, "block %d: next validator set is %s, the header says %s", h.Height, got, h.NextSet)
	}
	return next, nil
}

// ErrFork means that two certified blocks claim one height: more than a third
// of the validators lied. The caller MUST halt and keep the evidence, which is
// in the *ForkError.
var ErrFork = errors.New("two certified blocks claim one height")

// ForkError holds both sides of a fork. Where the foreign header is one above
// ours, it names another parent than our block.
type ForkError struct {
	Ours, Theirs         *consortium.Header
	OursCert, TheirsCert consortium.Certificate // OursCert may have no votes: the store has it
}

func (e *ForkError) Error() string {
	return fmt.Sprintf("%v: ours is %s at height %d, the other is %s at height %d: stop all nodes and compare the validators' keys",
		ErrFork, e.Ours.Hash(), e.Ours.Height, e.Theirs.Hash(), e.Theirs.Height)
}

// Unwrap makes errors.Is(err, ErrFork) true.
func (e *ForkError) Unwrap() error { return ErrFork }

// CheckHeader judges a header and its certificate against the tip before it,
// without the body: nil, chain.ErrOrphan for a header that is not next, an
// *InvalidError forged_block, or a *ForkError. It holds nobody to a clock.
func CheckHeader(prev Tip, h *consortium.Header, cert consortium.Certificate) error {
	forged := func(format string, args ...any) error {
		return chain.Invalid(chain.ForgedBlock, "block %d: "+format, append([]any{h.Height}, args...)...)
	}
	if h.Genesis != prev.genesis {
		return forged("genesis %s, our chain's is %s", h.Genesis, prev.genesis)
	}
	if h.Height != prev.Head.Height+1 {
		return fmt.Errorf("block %d on tip %d: %w", h.Height, prev.Head.Height, chain.ErrOrphan)
	}
	if err := cert.Verify(h, prev.Set); err != nil {
		return forged("certificate: %v", err)
	}
	if h.Prev != prev.Head.Hash {
		if prev.Header != nil {
			return &ForkError{Ours: prev.Header, Theirs: h, TheirsCert: cert}
		}
		return forged("previous is %s, want the genesis hash %s", h.Prev, prev.Head.Hash)
	}
	if h.Time > consortium.MaxNumber || len(h.Metadata) > consortium.MaxMetadata {
		return forged("time %d or metadata of %d bytes is over its limit", h.Time, len(h.Metadata))
	}
	if h.Time <= prev.time() {
		return forged("time %d is not after %d", h.Time, prev.time())
	}
	if h.Epoch != prev.Config.Epoch {
		return forged("epoch %d, want %d", h.Epoch, prev.Config.Epoch)
	}
	if set := prev.Set.Hash(); h.Set != set {
		return forged("validator set %s, want %s", h.Set, set)
	}
	if _, ok := prev.Set.Key(h.Proposer); !ok {
		return forged("proposer %d is no validator", h.Proposer)
	}
	if h.BodyBytes > prev.Config.Params.MaxBlockBytes {
		return forged("body of %d bytes, the chain allows %d", h.BodyBytes, prev.Config.Params.MaxBlockBytes)
	}
	return nil
}

// Committable is the one rule for records (LEDGER 4.2): nil when r, whose id is
// id, may stand in the block at height, which MUST be the next one. A refusal
// is a *consortium.RecordError, the same on every node with this tip. Any other
// error is a fault of ours, by which nobody may judge the record:
// chain.ErrUnready while there is no chain, or a read that fails.
func (l *Ledger) Committable(r *consortium.Record, id chain.Hash, height uint64) error {
	_, err := l.committable(l.Tip(), r, id, height)
	return err
}

// committable is Committable on a given tip. It returns the config that a
// config record would put in force.
func (l *Ledger) committable(tip Tip, r *consortium.Record, id chain.Hash, height uint64) (*consortium.Config, error) {
	return l.fresh(tip, r, id, height, l.verified(id))
}

// fresh is committable with the word of whether r's signature was checked.
func (l *Ledger) fresh(tip Tip, r *consortium.Record, id chain.Hash, height uint64, verified bool) (*consortium.Config, error) {
	if tip.Genesis == nil {
		return nil, fmt.Errorf("judge record %s: no genesis: %w", id, chain.ErrUnready)
	}
	known, err := l.known(id)
	if err != nil {
		return nil, err
	}
	if known {
		return nil, consortium.Refuse(consortium.Duplicate, "record %s is in the chain", id)
	}
	return permitted(tip, r, height, verified)
}

// permitted is the part of the rule that needs no store: what of r fits the
// tip, whatever records the chain holds.
func permitted(tip Tip, r *consortium.Record, height uint64, verified bool) (*consortium.Config, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	if !verified {
		if err := r.Verify(tip.genesis); err != nil {
			return nil, err
		}
	}
	if r.NotAfter != 0 && r.NotAfter < height {
		return nil, consortium.Refuse(consortium.Expired, "not_after is %d and the next block is %d: sign it again", r.NotAfter, height)
	}
	if r.Kind == consortium.KindConfig { // its approvals count, not its author
		change, err := consortium.DecodeConfigChange(r.Body)
		if err != nil {
			return nil, err
		}
		if err := consortium.CheckChange(tip.Config, change, tip.genesis); err != nil {
			return nil, err
		}
		return &change.Config, nil
	}
	if !listed(tip.Config, r.Author) {
		return nil, consortium.Refuse(consortium.UnknownAuthor, "author %s is not on the list of epoch %d", r.Author, tip.Config.Epoch)
	}
	return nil, nil
}

// listed reports whether author may write under c.
func listed(c *consortium.Config, author consortium.PublicKey) bool {
	if c.AuthorPolicy == consortium.Open {
		return true
	}
	_, ok := slices.BinarySearchFunc(c.Authors, author, func(a, b consortium.PublicKey) int { return bytes.Compare(a[:], b[:]) })
	return ok
}
