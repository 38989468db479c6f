package parley

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica"
)

// Validators lists the set that signs the next block; none on a node of another
// network.
func (n *Node) Validators() []Validator {
	if _, err := n.genesis(); err != nil {
		return nil
	}
	leader := n.replica.Leader()
	var vs []Validator
	for _, v := range n.replica.Ledger().Tip().Config.Validators {
		if e := n.viewValidator(v, leader); e.Peer != "" {
			vs = append(vs, e)
		}
	}
	return vs
}

// viewValidator tells how a validator is seen from here. Peer is "" for a key
// that no peer can have.
func (n *Node) viewValidator(v consortium.Validator, leader uint64) Validator {
	e := Validator{ID: v.ID, Key: v.Key, Name: v.Name, Leader: leader != 0 && v.ID == leader}
	id, err := v.Key.PeerID()
	if err != nil {
		return e
	}
	e.Peer = id
	if id == n.host.ID() {
		e.Connected, e.Height = true, n.replica.Status().Head.Height
	} else if p, ok := n.shake.Peer(id); ok && p.Ready {
		e.Connected, e.Height = true, p.Claimed.Height
	}
	return e
}

// validatorsN counts the set of a chain that is known.
func (n *Node) validatorsN() ValidatorsN {
	set := n.replica.Ledger().Tip().Set
	c := ValidatorsN{N: set.Len(), Quorum: set.Quorum(), Away: []string{}}
	for _, v := range n.Validators() {
		if v.Connected {
			c.Connected++
		} else {
			c.Away = append(c.Away, cmp.Or(v.Name, v.Peer.String()))
		}
	}
	c.Spare = max(0, c.Connected-c.Quorum)
	return c
}

// describe tells what a change does. next is change's config, or current where
// it is in force already.
func (n *Node) describe(current, next *consortium.Config, change *consortium.ConfigChange) Change {
	c := Change{
		Epoch: change.Config.Epoch, Threshold: int(current.Threshold), Added: []Validator{}, Removed: []Validator{},
		Before: n.tolerance(current), After: n.tolerance(next), Other: otherChanges(current, next), Warnings: warnings(current, next),
		Admins: AdminsChange{
			Added: lacking(current.Admins, next.Admins), Removed: lacking(next.Admins, current.Admins),
			N: len(next.Admins), Threshold: int(next.Threshold),
		},
	}
	c.QuorumBefore, c.QuorumAfter = c.Before.Quorum, c.After.Quorum
	added, removed := current.Set().Changes(next.Set())
	leader := n.replica.Leader()
	for _, v := range next.Validators {
		if slices.Contains(added, v.ID) {
			c.Added = append(c.Added, n.viewValidator(v, leader))
		}
	}
	for _, v := range current.Validators {
		if slices.Contains(removed, v.ID) {
			c.Removed = append(c.Removed, n.viewValidator(v, leader))
		}
	}
	c.take(change)
	return c
}

// take shows change's bytes and approvals.
func (c *Change) take(change *consortium.ConfigChange) {
	c.Change, c.Approvals = hex.EncodeToString(change.Encode()), len(change.Approvals)
	c.ApprovedBy = []consortium.PublicKey{}
	for _, a := range change.Approvals {
		c.ApprovedBy = append(c.ApprovedBy, a.Admin)
	}
}

func (n *Node) tolerance(c *consortium.Config) Tolerance {
	set := c.Set()
	t := Tolerance{N: set.Len(), Quorum: set.Quorum(), Crashes: set.Crashes(), Traitors: set.Faults()}
	for _, v := range c.Validators {
		if n.viewValidator(v, 0).Connected {
			t.Connected++
		}
	}
	return t
}

// lacking lists what is in list and not in from.
func lacking(from, list []consortium.PublicKey) []consortium.PublicKey {
	out := []consortium.PublicKey{}
	for _, k := range list {
		if !slices.Contains(from, k) {
			out = append(out, k)
		}
	}
	return out
}

// otherChanges tells what differs beside the set and the admins: nobody shall
// approve what he was not shown.
func otherChanges(current, next *consortium.Config) []string {
	out := []string{}
	for _, v := range next.Validators {
		at := slices.IndexFunc(current.Validators, func(c consortium.Validator) bool { return c.ID == v.ID })
		if at < 0 {
			continue
		}
		if old := current.Validators[at]; old.Name != v.Name || !slices.Equal(old.Addresses, v.Addresses) {
			out = append(out, fmt.Sprintf("validator %d: name %q and %d addresses become %q and %d", v.ID, old.Name, len(old.Addresses), v.Name, len(v.Addresses)))
		}
	}
	differ := func(name string, from, to any) {
		if from != to {
			out = append(out, fmt.Sprintf("%s: %v becomes %v", name, from, to))
		}
	}
	differ("author_policy", current.AuthorPolicy, next.AuthorPolicy)
	if !slices.Equal(current.Authors, next.Authors) {
		out = append(out, fmt.Sprintf("authors: %d become %d, %d of them new", len(current.Authors), len(next.Authors), len(lacking(current.Authors, next.Authors))))
	}
	p, q := current.Params, next.Params
	differ("max_block_bytes", p.MaxBlockBytes, q.MaxBlockBytes)
	differ("batch_records", p.BatchRecords, q.BatchRecords)
	differ("interval_ms", p.IntervalMS, q.IntervalMS)
	differ("heartbeat_ms", p.HeartbeatMS, q.HeartbeatMS)
	differ("author_pending", p.AuthorPending, q.AuthorPending)
	return out
}

const advisedValidators = 13 // messages grow with the square

func warnings(current, next *consortium.Config) []string {
	out := []string{}
	if n := len(next.Admins); n == int(next.Threshold) {
		text := fmt.Sprintf("all %d admins must approve each change: one lost key freezes the set of validators for ever", n)
		if n == 1 {
			text = "there is 1 admin: if its key is lost, the set of validators is frozen for ever"
		}
		out = append(out, text+"; make another one: parley chain validators admins --add ID")
	}
	_, removed := current.Set().Changes(next.Set())
	for _, v := range current.Validators {
		if slices.Contains(removed, v.ID) && slices.Contains(next.Admins, v.Key) {
			out = append(out, fmt.Sprintf("%s is no validator any more but still an admin: parley chain validators admins --remove %s", v.Name, v.Key))
		}
	}
	if n := len(next.Validators); n > advisedValidators && n > len(current.Validators) {
		out = append(out, fmt.Sprintf("%d validators: at most %d are advised, for each block costs messages by the square of that", n, advisedValidators))
	}
	return out
}

const (
	maxBehind = 2               // blocks that a new validator may be behind
	nearTime  = 3 * time.Second // for it to come so near: where blocks are made all the time, news takes some of them
	nearEvery = 100 * time.Millisecond
)

// nearHead asks a node for its head until that is near tip or nearTime is over.
func (n *Node) nearHead(ctx context.Context, p peer.ID, tip uint64) (chain.Head, error) {
	most := time.Now().Add(nearTime)
	for {
		head, err := n.replica.HeadOf(ctx, p)
		if err == nil && head.Height+maxBehind >= tip || errors.Is(err, replica.ErrElsewhere) || time.Now().After(most) || !pause(ctx, nearEvery) {
			return head, err
		}
	}
}

// pause reports false where ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// caution refuses what is allowed and yet likely a mistake.
func (n *Node) caution(ctx context.Context, current, next *consortium.Config, c Change, req ChangeRequest) error {
	if c.After.N == 2 && c.Before.N != 2 && !req.AcceptTwo {
		mend := "add two nodes at once (three validators survive one crash) or three (four survive one crash or one traitor)"
		if c.Before.N > 2 {
			mend = "keep three, or go to one at once"
		}
		return &CautionError{"accept_two", fmt.Sprintf("%d → 2 validators: two of two survive nothing, for when either stops nothing is committed: %s", c.Before.N, mend)}
	}
	if req.Force {
		return nil
	}
	for _, v := range c.Added {
		if err := n.fit(ctx, v); err != nil {
			return err
		}
	}
	if b := c.Before; b.Connected < b.Quorum {
		return &CautionError{"force", fmt.Sprintf("%d of %d validators are connected and %d are needed: no change can be committed before more are back", b.Connected, b.N, b.Quorum)}
	}
	if a := c.After; a.Connected < a.Quorum && len(c.Added)+len(c.Removed) > 0 {
		return &CautionError{"force", fmt.Sprintf("of the %d validators after the change %d are connected and %d are needed: nothing more would be committed, not even the way back", a.N, a.Connected, a.Quorum)}
	}
	return nil
}

// fit refuses a candidate that is away or behind. One that this node prepared
// and another approves is looked at by both.
func (n *Node) fit(ctx context.Context, v Validator) error {
	tip := n.replica.Ledger().Tip().Head.Height // before the candidate is asked
	name := strings.TrimSpace(fmt.Sprintf("%s %s", v.Name, v.Peer))
	if v.Peer == n.host.ID() {
		most := time.Now().Add(nearTime)
		for y := n.syncState(); y.State == "waiting" || y.LagBlocks > maxBehind; y = n.syncState() {
			if time.Now().After(most) || !pause(ctx, nearEvery) {
				return &CautionError{"force", fmt.Sprintf("this node is to be a validator and is %s, %d blocks behind: wait until it has caught up", y.State, y.LagBlocks)}
			}
		}
		return nil
	}
	if !v.Connected {
		return &CautionError{"force", name + " is not connected to this node: start it with PEERS naming a node of this chain, and see parley peers list"}
	}
	head, err := n.nearHead(ctx, v.Peer, tip)
	if err != nil {
		return &CautionError{"force", fmt.Sprintf("%s does not show its head: %v", name, err)}
	}
	if head.Height+maxBehind < tip {
		return &CautionError{"force", fmt.Sprintf("%s is at block %d, %d behind the head at %d: wait until it has caught up", name, head.Height, tip-head.Height, tip)}
	}
	return nil
}
