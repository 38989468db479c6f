package main

import (
	"context"
	"errors"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/devnet"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

const (
	proofs     = 40 // of a round
	proveLimit = 10 * time.Second
)

// keepSample keeps some of all committed answers, each with the same chance;
// l.mu is held.
func (l *load) keepSample(e checker.Entry, draw func(int) int) {
	l.seen++
	if len(l.sample) < proofs {
		l.sample = append(l.sample, e)
	} else if i := draw(l.seen); i < proofs {
		l.sample[i] = e
	}
}

// prove asks a node for the proof of each sampled record, and verifies it with
// the genesis hash alone.
func (r *round) prove(ctx context.Context) {
	for i, e := range r.load.sample {
		n := r.lab.nodes[i%len(r.lab.nodes)]
		p, err := n.proof(ctx, e.ID)
		if err == nil {
			err = checker.CheckProof(p, r.lab.genesis, e)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.miss("%s does not prove record %s, answered committed at height %d: %v", n.name, e.ID, e.Height, err)
			continue
		}
		r.add(func(t *Totals) { t.Proofs++ })
	}
}

// proof asks for one as long as the node is not there.
func (n *node) proof(ctx context.Context, id chain.Hash) (*consortium.Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, proveLimit)
	defer cancel()
	for {
		var p consortium.Proof
		_, err := n.get(ctx, "records/"+id.String()+"/proof", &p)
		var no *devnet.Refusal
		if err == nil || errors.As(err, &no) || ctx.Err() != nil {
			return &p, err
		}
		sleep(ctx, retryWait)
	}
}
