package chainsync

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	// relayDepth is how far below the tip an announcement may be and still be
	// relayed, once: a validator has the block by its own engine before the
	// proposer's word of it comes by, and nodes behind it wait for that word.
	relayDepth = 64
	maxHints   = 64
)

// Announced judges an announcement of a block, for the topic's validator:
//   - nil: its certificate is good and it follows what we have verified, or it
//     is of a recent block of our chain and comes by for the first time; relay
//   - chain.ErrKnown: seen before
//   - chain.ErrOrphan: its parent, or the config in force, is not known yet;
//     Follow asks the peer
//   - *chain.InvalidError forged_block, malformed: charge the peer
//
// Other errors are ours. It does not wait for the body.
func (y *Syncer) Announced(ctx context.Context, from peer.ID, a wire.BlockAnnouncement) error {
	s, err := unseal(a.Header, a.Certificate)
	if err != nil {
		return err
	}
	if s.header.Genesis != y.genesis {
		return chain.Invalid(chain.ForgedBlock, "block %d: genesis %s, our chain's is %s", s.header.Height, s.header.Genesis, y.genesis)
	}
	if n := len(a.Subtrees); n != int(s.header.Subtrees) || consortium.BlockRoot(a.Subtrees) != s.header.Root {
		return chain.Invalid(chain.Malformed, "block %d: its %d subtree ids do not give the root of its header, which has %d", s.header.Height, n, s.header.Subtrees)
	}
	s.subtrees = a.Subtrees
	for ctx.Err() == nil {
		if err := y.judge(from, s); !errors.Is(err, errMoved) {
			if err == nil {
				y.traceStore(ctx, s.header.Height)
			}
			return err
		}
	}
	return ctx.Err()
}

// errMoved means that the run or the ledger went on meanwhile: look again.
var errMoved = errors.New("the chain moved")

func (y *Syncer) judge(from peer.ID, s sealed) error {
	tip := y.ledger.Tip()
	if s.header.Height <= tip.Head.Height {
		return y.past(tip, from, s)
	}
	if l, ok := y.run.at(tip, s.header.Height); ok {
		return y.ahead(l, from, s)
	}
	top, open, err := y.run.top(tip)
	if err != nil {
		y.noteFork(err)
		return err
	}
	switch {
	case s.header.Height <= top.Head.Height:
		return errMoved
	case s.header.Height > top.Head.Height+1 || !open:
		return y.orphan(top, from, s)
	}
	links, closed, err := verify(top, top.Head == tip.Head, []sealed{s}, from)
	if err != nil {
		if errors.Is(err, ledger.ErrFork) {
			y.noteFork(err)
		}
		return err
	}
	for i := range links {
		links[i].gossip = true
	}
	if !y.run.extend(y.ledger.Tip(), top.Head.Hash, links, closed) {
		return errMoved
	}
	if len(links) == 0 {
		return y.orphan(top, from, s)
	}
	y.firstTold(s.header.Height, links[0].hash)
	y.hint(from, s.header.Height)
	y.peers.Validated(from, chain.Head{Height: s.header.Height, Hash: links[0].hash})
	return nil
}

// past judges an announcement of a height that the ledger has.
func (y *Syncer) past(tip ledger.Tip, from peer.ID, s sealed) error {
	h, hash := s.header, s.header.Hash()
	if at, ok := y.ledger.HeightOf(hash); !ok || at != h.Height {
		return y.other(s)
	}
	if h.Height+relayDepth <= tip.Head.Height || y.wasTold(h.Height, hash) {
		return fmt.Errorf("block %d: %w", h.Height, chain.ErrKnown)
	}
	set := tip.Set
	if h.Epoch != tip.Config.Epoch {
		config, _, err := y.ledger.ConfigAt(h.Epoch)
		if err != nil {
			return fmt.Errorf("judge announcement of block %d: %w", h.Height, err)
		}
		set = config.Set()
	}
	return y.repeat(from, s, hash, set)
}

// ahead judges an announcement of a height whose header we have verified.
func (y *Syncer) ahead(l link, from peer.ID, s sealed) error {
	hash := s.header.Hash()
	if hash == l.hash {
		if y.wasTold(s.header.Height, hash) {
			return fmt.Errorf("block %d: %w", s.header.Height, chain.ErrKnown)
		}
		return y.repeat(from, s, hash, l.prev.Set)
	}
	if err := s.cert.Verify(s.header, l.prev.Set); err != nil {
		return chain.Invalid(chain.ForgedBlock, "block %d: certificate: %v", s.header.Height, err)
	}
	fork := &ledger.ForkError{Ours: l.header, OursCert: l.cert, Theirs: s.header, TheirsCert: s.cert}
	y.noteFork(fork)
	return fork
}

// repeat judges the first announcement of a header that we know already. The
// certificate may be another one than ours.
func (y *Syncer) repeat(from peer.ID, s sealed, hash chain.Hash, set *consortium.ValidatorSet) error {
	if err := s.cert.Verify(s.header, set); err != nil {
		return chain.Invalid(chain.ForgedBlock, "block %d: certificate: %v", s.header.Height, err)
	}
	if !y.firstTold(s.header.Height, hash) {
		return fmt.Errorf("block %d: %w", s.header.Height, chain.ErrKnown)
	}
	y.peers.Validated(from, chain.Head{Height: s.header.Height, Hash: hash})
	return nil
}

// other judges a header of a height at which the ledger has another one: the
// ledger tells a forgery from a fork.
func (y *Syncer) other(s sealed) error {
	err := y.ledger.Append(&consortium.Block{Header: s.header, Certificate: s.cert}, "gossip", "")
	if errors.Is(err, ledger.ErrFork) {
		y.noteFork(err)
	}
	if err == nil { // cannot be: its height is not above the tip
		return fmt.Errorf("block %d: %w", s.header.Height, chain.ErrKnown)
	}
	return err
}

// orphan judges a header that does not follow what we have verified. A set
// that we know still tells a forgery.
func (y *Syncer) orphan(top ledger.Tip, from peer.ID, s sealed) error {
	if s.header.Set == top.Set.Hash() {
		if err := s.cert.Verify(s.header, top.Set); err != nil {
			return chain.Invalid(chain.ForgedBlock, "block %d: certificate: %v", s.header.Height, err)
		}
	}
	y.hint(from, s.header.Height)
	return fmt.Errorf("block %d on verified height %d: %w", s.header.Height, top.Head.Height, chain.ErrOrphan)
}

// hint tells the session whom to ask.
func (y *Syncer) hint(p peer.ID, height uint64) {
	y.mu.Lock()
	if _, ok := y.hints[p]; ok || len(y.hints) < maxHints {
		y.hints[p] = max(y.hints[p], height)
	}
	y.mu.Unlock()
	y.nudge()
}

func (y *Syncer) takeHints() map[peer.ID]uint64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(y.hints) == 0 {
		return nil
	}
	hints := y.hints
	y.hints = map[peer.ID]uint64{}
	return hints
}

func (y *Syncer) wasTold(height uint64, hash chain.Hash) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.known[height] == hash
}

// firstTold notes that a verified block was announced, and reports whether it
// is the first time.
func (y *Syncer) firstTold(height uint64, hash chain.Hash) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.known[height] == hash {
		return false
	}
	y.known[height] = hash
	if len(y.known) > 2*relayDepth {
		for h := range y.known {
			if h+relayDepth < height {
				delete(y.known, h)
			}
		}
	}
	return true
}
