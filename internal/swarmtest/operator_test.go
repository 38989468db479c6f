package swarmtest

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// operator changes the set of validators, one change after the other.
type operator struct {
	s      *Swarm
	rnd    *rand.Rand
	config *consortium.Config // in force, as far as the operator knows
	next   *consortium.Config // under way; nil for none
	raw    string
	id     chain.Hash
	nonce  uint64
}

func newOperator(s *Swarm, rnd *rand.Rand) *operator {
	return &operator{s: s, rnd: rnd, config: &s.genesis.Config}
}

// look learns what became of the change that is under way.
func (o *operator) look() {
	for _, n := range o.s.nodes {
		n.Use(func(p *parley.Node) {
			if o.next == nil {
				return
			}
			if r, err := p.Record(o.id); err == nil && r.Status == "committed" {
				o.config, o.next = o.next, nil
			}
		})
	}
}

// act starts a change, or hands in again the one that is still under way.
func (o *operator) act(least int) string {
	what := "once more"
	if o.look(); o.next == nil {
		what = o.plan(least)
	}
	for _, i := range o.rnd.Perm(len(o.s.nodes)) {
		var err error
		n := o.s.nodes[i]
		if n.Use(func(p *parley.Node) { _, err = p.Submit(o.s.T.Context(), parley.Draft{Raw: o.raw}, parley.Accepted) }) {
			return fmt.Sprintf("validators: %s, at %s: %v", what, n.Name, err)
		}
	}
	return "validators: nobody to ask"
}

// plan makes the next change: one validator more, or one less.
func (o *operator) plan(least int) string {
	next, err := consortium.DecodeConfig(o.config.Encode()) // a copy
	if err != nil {
		o.s.T.Fatal(err)
	}
	next.Epoch++
	var out []*Node
	for _, n := range o.s.nodes {
		if _, in := o.config.Set().ByKey(n.PublicKey()); !in {
			out = append(out, n)
		}
	}
	var what string
	if len(out) > 0 && (len(next.Validators) <= least || o.rnd.IntN(2) == 0) {
		n := out[o.rnd.IntN(len(out))]
		v := n.validator()
		v.ID = next.NextID
		next.NextID++
		next.Validators = append(next.Validators, v)
		what = "add " + n.Name
	} else {
		i := o.rnd.IntN(len(next.Validators))
		what = "remove " + next.Validators[i].Name
		next.Validators = slices.Delete(next.Validators, i, i+1)
	}
	o.sign(next)
	return fmt.Sprintf("%s, epoch %d, %d validators", what, next.Epoch, len(next.Validators))
}

// sign makes the record that puts next in force the change that is under way.
func (o *operator) sign(next *consortium.Config) {
	admin, genesis := o.s.nodes[0].Key, o.s.genesis.Hash()
	change := &consortium.ConfigChange{Config: *next, Approvals: []consortium.Approval{consortium.Approve(admin, genesis, next)}}
	o.nonce++
	r := &consortium.Record{Kind: consortium.KindConfig, Nonce: o.nonce, Subject: consortium.SubjectConfig, MediaType: consortium.MediaTypeConfig, Body: change.Encode()}
	r.Sign(admin, genesis)
	raw := r.Encode()
	o.next, o.raw, o.id = next, hex.EncodeToString(raw), consortium.RecordID(raw)
}
