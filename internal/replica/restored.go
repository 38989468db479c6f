package replica

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger"
)

// This file is what a node does that starts on a backup: it waits with its
// vote, and verifies what it took on trust.

// later makes a function that reports whether two blocks came after those that
// this key may have signed, the upper one made after now by any clock that the
// validators allow: from then on nothing that it signed before can be
// undecided. Blocks that are only caught up with do not count, so this node has
// to be at the head first. It is asked after each event.
//
// A vote of before was for the height above a certified block, which one of any
// q−1 other validators has, or helped to certify and has the block below it: so
// the vote was for two above their highest head at most.
func (w *running) later() func() bool {
	after, head, at := uint64(time.Now().Add(consensus.ClockSkew).UnixMilli()), false, uint64(0)
	return func() bool {
		tip := w.ledger.Tip()
		if !head {
			if w.syncer.State().State == chainsync.Synced {
				at, head = w.certified(tip)
			}
			return false
		}
		return tip.Head.Height > at+1 && tip.Header.Time > after
	}
}

// certified is the highest head that this node or a connected validator has
// proved. enough is false while fewer than q−1 others have proved one: the
// heads of the others may hide a vote of ours.
func (w *running) certified(tip ledger.Tip) (height uint64, enough bool) {
	peers := map[peer.ID]uint64{}
	for _, p := range w.services.Peers() {
		peers[p.ID] = p.Validated.Height
	}
	height = tip.Head.Height
	need := tip.Set.Quorum() - 1
	for _, v := range tip.Config.Validators {
		id, err := v.Key.PeerID()
		if err != nil || v.Key == w.self {
			continue
		}
		if at, ok := peers[id]; ok && at > 0 {
			height, need = max(height, at), need-1
		}
	}
	return height, need <= 0
}

// promoted makes a function that reports whether this node is a validator. On
// a backup it notes meanwhile when a vote is free.
func (w *running) promoted() func() bool {
	restored, err := w.ledger.Restored()
	if err != nil {
		w.log.Error("ledger not read", "err", err)
	}
	later := w.later()
	return func() bool {
		if restored && later() {
			restored = false
			if err := w.ledger.Free(); err != nil {
				w.log.Error("ledger not written", "err", err) // the vote waits once more
			}
		}
		return w.Role() == RoleValidator
	}
}

// waitToVote follows until the vote is free, and says so meanwhile.
func (w *running) waitToVote(ctx context.Context, lost *consensus.LostError, free func() bool) error {
	f := Finding{Code: "PLY-605", Title: "vote_waits", Severity: severityWarn}
	f.Why = lost.Why + ": this validator follows, and votes again when the others have committed two blocks"
	if set := w.ledger.Tip().Set; set.Len()-1 < set.Quorum() {
		f.Severity = severityCrit
		f.Why += ", which they can not do without it"
	}
	f.Why += "; only when no other validator can vote, and no old copy of this one runs: start it once with --set consortium.sole_validator=true"
	w.findings.set(f)
	err := w.sitOut(ctx, time.Time{}, free)
	if err == nil && ctx.Err() == nil {
		f.Severity, f.Why = severityOK, "this validator may vote again"
		w.findings.set(f)
	}
	return err
}

// States of a verification.
const (
	Running = "running"
	Good    = "good"
	Damaged = "damaged"
)

// Verification tells how far the chain of a backup was verified. The zero
// value is that of a node whose chain needs none.
type Verification struct {
	State       string
	Done, Total uint64 // blocks
	ETA         time.Duration
	Detail      string // what is damaged
}

// Verification tells of the backup that this node was started from, since its
// start.
func (r *Replica) Verification() Verification {
	if v := r.proved.Load(); v != nil {
		return *v
	}
	return Verification{}
}

// verify verifies the chain of a backup from its genesis on, once: what is
// found good is noted in the store, and a restart goes on from there. Damage is told and ends nothing, for what
// comes on top is verified as ever.
func (w *running) verify(ctx context.Context) error {
	height, err := w.ledger.Unverified()
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	w.log.Info("verifying the chain of the backup from its genesis on", "height", height)
	began := time.Now()
	block, first := began, uint64(0)
	err = w.ledger.CheckOn(ctx, func(done, total uint64) {
		if first == 0 { // an earlier run came that far
			first = done
		}
		v := &Verification{State: Running, Done: done, Total: total}
		v.ETA = time.Duration(float64(time.Since(began)) * float64(total-done) / float64(done-first+1))
		w.proved.Store(v)
		rest(ctx, time.Since(block)) // half of the time is for the node's work
		block = time.Now()
	})
	if ctx.Err() != nil {
		return nil
	}
	if damage, ok := errors.AsType[*ledger.CorruptError](err); ok {
		w.proved.Store(&Verification{State: Damaged, Done: damage.Height, Total: height, Detail: damage.Error()})
		w.log.Error("the chain of the backup is damaged", "height", damage.Height, "err", damage.Err, "code", "PLY-104")
		w.bus.Publish(event.LedgerChecked{Height: damage.Height, Detail: damage.Err.Error()})
		return nil
	}
	if err == nil {
		err = w.ledger.SetVerified()
	}
	if err != nil {
		return err
	}
	w.proved.Store(&Verification{State: Good, Done: height, Total: height})
	w.log.Info("the chain of the backup is verified", "height", height, "took", time.Since(began).Round(time.Millisecond))
	w.bus.Publish(event.LedgerChecked{OK: true, Height: height})
	return nil
}

// rest waits as long as d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
