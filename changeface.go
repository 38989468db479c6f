package parley

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/p2p/host"
)

// ErrBadChange means that a request to change the validators makes no sense.
var ErrBadChange = errors.New("bad change of the validators")

// A CautionError is a change that the node makes only where its Flag is set.
type CautionError struct {
	Flag   string // force | accept_two
	Detail string
}

func (e *CautionError) Error() string { return e.Detail }

// ChangeRequest asks for another set of validators: either by Change, which
// somebody prepared, or by what to add and remove.
type ChangeRequest struct {
	Add          []Candidate `json:"add,omitempty"`
	Remove       []uint64    `json:"remove,omitempty"`        // ids
	AddAdmins    []string    `json:"add_admins,omitempty"`    // keys or peer ids
	RemoveAdmins []string    `json:"remove_admins,omitempty"` // keys or peer ids
	Threshold    int         `json:"threshold,omitempty"`     // of admins; 0 = as it is
	Change       string      `json:"change,omitempty"`        // hex of a config and its approvals: the body of a config record
	Approvals    []string    `json:"approvals,omitempty"`     // more of them, each hex of an admin's key and its signature
	Force        bool        `json:"force,omitempty"`         // though somebody needed is away or behind
	AcceptTwo    bool        `json:"accept_two,omitempty"`    // though two of two survive nothing
	DryRun       bool        `json:"dry_run,omitempty"`       // judge and tell, sign nothing
}

// Candidate is a node that shall become a validator.
type Candidate struct {
	Key       string   `json:"key"`                 // ed25519:…, or the peer id
	Name      string   `json:"name,omitempty"`      // "" = as the node calls itself
	Addresses []string `json:"addresses,omitempty"` // none = those that it tells its peers
}

// States of a [Change].
const (
	ChangePlanned   = "planned"   // a dry run
	ChangeWaiting   = "waiting"   // for approvals of other admins
	ChangePending   = "pending"   // handed in, and not committed yet
	ChangeCommitted = "committed" // in force
)

// Change is a change of the validators and what it does.
type Change struct {
	Status       string                 `json:"status"`
	Change       string                 `json:"change"` // hex; see ChangeRequest.Change
	Epoch        uint64                 `json:"epoch"`
	Approvals    int                    `json:"approvals"`
	Threshold    int                    `json:"threshold"` // approvals needed
	ApprovedBy   []consortium.PublicKey `json:"approved_by"`
	Added        []Validator            `json:"added"`
	Removed      []Validator            `json:"removed"`
	Admins       AdminsChange           `json:"admins"`
	Other        []string               `json:"other"` // what else changes, in words
	QuorumBefore int                    `json:"quorum_before"`
	QuorumAfter  int                    `json:"quorum_after"`
	Before       Tolerance              `json:"before"`
	After        Tolerance              `json:"after"`
	Warnings     []string               `json:"warnings"`
	Record       *chain.Hash            `json:"record"` // null until it is handed in
	Height       *uint64                `json:"height"` // null until it is committed
}

// AdminsChange is what a change does to the admins.
type AdminsChange struct {
	Added     []consortium.PublicKey `json:"added"`
	Removed   []consortium.PublicKey `json:"removed"`
	N         int                    `json:"n"`         // after
	Threshold int                    `json:"threshold"` // after
}

// Tolerance is what a set of validators survives.
type Tolerance struct {
	N         int `json:"n"`
	Quorum    int `json:"quorum"`
	Crashes   int `json:"crashes"`
	Traitors  int `json:"traitors"`
	Connected int `json:"connected"` // of the N, this node included
}

// ChangeValidators changes the set of validators. Where this node's key is an
// admin it approves the change; with enough approvals the change is handed in
// as a config record, and the answer waits for its block until ctx ends. A
// refusal is a *consortium.RecordError, a *CautionError or ErrBadChange.
func (n *Node) ChangeValidators(ctx context.Context, req ChangeRequest) (Change, error) {
	g, err := n.genesis()
	if err != nil {
		return Change{}, err
	}
	current := n.replica.Ledger().Tip().Config
	change, err := n.draft(current, g.Hash(), req)
	if err != nil {
		return Change{}, err
	}
	if same, height := n.inForce(change); same { // another admin was faster
		c := n.describe(current, current, change)
		c.Status, c.Height = ChangeCommitted, &height
		return c, nil
	}
	if err := consortium.CheckProposal(current, change, g.Hash()); err != nil {
		return Change{}, staleHint(err)
	}
	c := n.describe(current, &change.Config, change)
	if err := n.caution(ctx, current, &change.Config, c, req); err != nil {
		return Change{}, err
	}
	if req.DryRun {
		c.Status = ChangePlanned
		return c, nil
	}
	if err := n.approve(current, change, g.Hash(), req.Change != ""); err != nil {
		return Change{}, err
	}
	c.take(change)
	if len(change.Approvals) < int(current.Threshold) {
		c.Status = ChangeWaiting
		return c, nil
	}
	return n.enact(ctx, change, c)
}

// draft makes the new config and gathers its approvals.
func (n *Node) draft(current *consortium.Config, genesis chain.Hash, req ChangeRequest) (*consortium.ConfigChange, error) {
	change := &consortium.ConfigChange{}
	edits := len(req.Add)+len(req.Remove)+len(req.AddAdmins)+len(req.RemoveAdmins) > 0 || req.Threshold != 0
	switch {
	case req.Change != "" && edits:
		return nil, badChange("change is a whole config: give it alone, or what to add and remove")
	case req.Change != "":
		raw, err := hex.DecodeString(req.Change)
		if err != nil {
			return nil, badChange("change: %v", err)
		}
		if change, err = consortium.DecodeConfigChange(raw); err != nil {
			return nil, err
		}
	case !edits:
		return nil, badChange("nothing to change: give add, remove, add_admins, remove_admins or threshold")
	default:
		next, err := n.edit(current, req)
		if err != nil {
			return nil, err
		}
		change.Config = *next
	}
	for i, text := range req.Approvals {
		raw, err := hex.DecodeString(text)
		if want := len(consortium.PublicKey{}) + len(consortium.Signature{}); err != nil || len(raw) != want {
			return nil, badChange("approvals[%d]: want %d hex digits: an admin's key and its signature", i, 2*want)
		}
		a := consortium.Approval{Admin: consortium.PublicKey(raw[:32]), Sig: consortium.Signature(raw[32:])}
		if !slices.Contains(change.Approvals, a) {
			change.Approvals = append(change.Approvals, a)
		}
	}
	if len(change.Approvals) > consortium.MaxAdmins {
		return nil, badChange("%d approvals: want at most %d", len(change.Approvals), consortium.MaxAdmins)
	}
	return change, nil
}

func badChange(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrBadChange}, args...)...)
}

// edit does what req asks to a copy of current.
func (n *Node) edit(current *consortium.Config, req ChangeRequest) (*consortium.Config, error) {
	next := current.Next()
	for i, id := range req.Remove {
		at := slices.IndexFunc(next.Validators, func(v consortium.Validator) bool { return v.ID == id })
		if at < 0 {
			return nil, badChange("remove[%d]: no validator has id %d: the ids are %v", i, id, current.Set().IDs())
		}
		next.Validators = slices.Delete(next.Validators, at, at+1)
	}
	for i, c := range req.Add {
		v, err := n.candidate(c)
		if err != nil {
			return nil, badChange("add[%d]: %v", i, err)
		}
		if id, ok := current.Set().ByKey(v.Key); ok && !slices.Contains(req.Remove, id) {
			return nil, badChange("add[%d]: %s is validator %d already", i, c.Key, id)
		}
		v.ID = next.NextID
		next.NextID++
		next.Validators = append(next.Validators, v)
	}
	for i, text := range req.RemoveAdmins {
		key, err := parseKey(text)
		at := slices.Index(next.Admins, key)
		if err != nil || at < 0 {
			return nil, badChange("remove_admins[%d]: %q is no admin: see admins of GET /api/v1/chain", i, text)
		}
		next.Admins = slices.Delete(next.Admins, at, at+1)
	}
	for i, text := range req.AddAdmins {
		key, err := parseKey(text)
		if err != nil {
			return nil, badChange("add_admins[%d]: %v", i, err)
		}
		if slices.Contains(next.Admins, key) {
			return nil, badChange("add_admins[%d]: %s is an admin already", i, key)
		}
		next.Admins = append(next.Admins, key)
	}
	if t := req.Threshold; t < 0 || t > len(next.Admins) {
		return nil, badChange("threshold %d: want 1 to %d, the number of admins", t, len(next.Admins))
	} else if t > 0 {
		next.Threshold = uint8(t)
	}
	if err := next.Check(); err != nil {
		return nil, badChange("%v", err)
	}
	return next, nil
}

// candidate fills in what we know of a node from its handshake and identify.
func (n *Node) candidate(c Candidate) (consortium.Validator, error) {
	key, err := parseKey(c.Key)
	if err != nil {
		return consortium.Validator{}, err
	}
	v := consortium.Validator{Key: key, Name: c.Name, Addresses: slices.Clone(c.Addresses)}
	id, err := key.PeerID()
	if err != nil {
		return v, err
	}
	name, addrs := "", []string(nil)
	if id == n.host.ID() {
		name, addrs = n.cfg.Node.Name, texts(n.fullAddrs())
	} else if p, ok := n.shake.Peer(id); ok {
		name, addrs = p.Name, announced(id, n.host.Peerstore().Addrs(id), manet.IsIPLoopback(p.Addr))
	}
	if v.Name == "" {
		v.Name = name
	}
	if len(v.Addresses) == 0 {
		v.Addresses = slices.DeleteFunc(addrs, func(a string) bool { return len(a) > consortium.MaxAddress })
		v.Addresses = v.Addresses[:min(len(v.Addresses), consortium.MaxAddresses)]
	}
	return v, nil
}

// announced puts the addresses of a peer in an order that does not depend on
// chance, those of its own machine left out unless it is ours.
func announced(id peer.ID, addrs []multiaddr.Multiaddr, local bool) []string {
	rank := func(a multiaddr.Multiaddr) int {
		switch {
		case manet.IsIPLoopback(a):
			return 2
		case manet.IsPrivateAddr(a):
			return 1
		}
		return 0
	}
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a multiaddr.Multiaddr) bool { return !local && rank(a) == 2 })
	slices.SortFunc(addrs, func(a, b multiaddr.Multiaddr) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.String(), b.String()))
	})
	full, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: id, Addrs: addrs})
	if err != nil {
		return nil
	}
	return texts(full)
}

// parseKey reads a key, or the peer id that names it.
func parseKey(text string) (consortium.PublicKey, error) {
	id, err := peer.Decode(text)
	if err != nil {
		return consortium.ParsePublicKey(text)
	}
	pub, err := id.ExtractPublicKey()
	if err != nil || pub.Type() != crypto.Ed25519 {
		return consortium.PublicKey{}, fmt.Errorf("peer id %s holds no Ed25519 key", id)
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return consortium.PublicKey{}, fmt.Errorf("peer id %s holds no Ed25519 key", id)
	}
	return consortium.PublicKey(raw), nil
}

// approve adds this node's approval where it is an admin. prepared says that
// somebody else made the change.
func (n *Node) approve(current *consortium.Config, change *consortium.ConfigChange, genesis chain.Hash, prepared bool) error {
	key := host.RawEd25519(n.host.Key())
	self := consortium.PublicKeyOf(key)
	switch {
	case slices.ContainsFunc(change.Approvals, func(a consortium.Approval) bool { return a.Admin == self }),
		len(change.Approvals) >= int(current.Threshold):
		return nil
	case slices.Contains(current.Admins, self):
		change.Approvals = append(change.Approvals, consortium.Approve(key, genesis, &change.Config))
		return nil
	case prepared:
		return consortium.Refuse(consortium.NotAuthorised, "this node's key %s is no admin, and %d of %d approvals are there: ask a node of an admin", self, len(change.Approvals), current.Threshold)
	}
	return nil // prepared here, approved elsewhere
}

// enact hands the change in.
func (n *Node) enact(ctx context.Context, change *consortium.ConfigChange, c Change) (Change, error) {
	r := change.Record(randomNonce())
	r.Sign(host.RawEd25519(n.host.Key()), n.replica.Genesis().Hash())
	placed, err := n.replica.Submit(ctx, r.Encode(), true)
	id := placed.ID
	if same, height := n.inForce(change); same { // by our record, or that of another admin
		c.Status, c.Record, c.Height = ChangeCommitted, &id, &height
		return c, nil
	}
	if err != nil && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
		return Change{}, staleHint(err)
	}
	c.Status, c.Record = ChangePending, &id
	return c, nil
}

// inForce tells whether the change's config was put in force, and by which
// block.
func (n *Node) inForce(change *consortium.ConfigChange) (bool, uint64) {
	config, height, err := n.replica.Ledger().ConfigAt(change.Config.Epoch)
	if err != nil || height == 0 {
		return false, 0
	}
	return slices.Equal(config.Encode(), change.Config.Encode()), height
}

// staleHint tells what to do about a change that came too late.
func staleHint(err error) error {
	if bad, ok := errors.AsType[*consortium.RecordError](err); ok && bad.Reason == consortium.StaleConfig {
		return consortium.Refuse(bad.Reason, "%s: another change was committed first: look at the validators and ask anew", bad.Detail)
	}
	return err
}
