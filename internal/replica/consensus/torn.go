package consensus

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// This file is about a tip whose bytes on disk are damaged. The library cannot
// begin without the block, and the read that fails has it repaired from peers.

// aloneTime is how long the only validator waits for a peer that has its tip.
const aloneTime = time.Minute

// awaitTip waits until the block at the tip can be read: the old one repaired,
// or a new one on top. It returns false when ctx ended. The only validator has
// nobody who makes a new one, and where no peer shows the old one either, the
// error is a *ledger.CorruptError.
func (e *Engine) awaitTip(ctx context.Context) (bool, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	since, told := time.Now(), false
	for ctx.Err() == nil {
		tip := e.ledger.Tip()
		if tip.Head.Height == 0 {
			return true, nil
		}
		_, err := e.ledger.Block(tip.Head.Height)
		if err == nil {
			return true, nil
		}
		if tip.Set.Len() == 1 && time.Since(since) >= aloneTime && !e.shown(tip.Head.Height) {
			return false, fmt.Errorf("the only validator cannot read its tip, and no peer has that block; parley chain check shows what is good: %w",
				&ledger.CorruptError{Dir: e.cfg.LedgerDir, Height: tip.Head.Height, Err: err})
		}
		if !told {
			e.log.Error("tip is damaged on disk: not voting before a peer has served it", "height", tip.Head.Height, "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
			e.sync(ctx)
		}
	}
	return false, nil
}

// shown reports whether a ready peer claims a head of that height.
func (e *Engine) shown(height uint64) bool {
	if e.cfg.Heads == nil {
		return false
	}
	for _, head := range e.cfg.Heads() {
		if head >= height {
			return true
		}
	}
	return false
}

// torn ends the session, and with it the library's goroutine that calls us:
// there is no decision that it could be told.
func (s *session) torn(err error) {
	s.log.Error("tip is damaged on disk: the engine begins anew, and waits for peers to serve it", "height", s.ledger.Tip().Head.Height, "err", err)
	s.anew(whyTorn)
	runtime.Goexit()
}
