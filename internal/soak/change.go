package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/parley-p2p/parley"
)

const (
	changeWait  = 10 * time.Second // for the block of a change
	changeAgain = 200 * time.Millisecond
)

// canLose: a set that loses one has three left. Two of two survive nothing,
// and the node refuses that.
func canLose(r *round) bool { return len(r.lab.validators()) > 3 }

func canGrow(r *round) bool { return severalValidators(r) && len(r.lab.followers()) > 0 }

// addValidator makes a follower one.
func (r *round) addValidator(ctx context.Context) error {
	return r.change(ctx, r.some(r.lab.followers(), 1), nil)
}

func (r *round) removeValidator(ctx context.Context) error {
	return r.change(ctx, nil, r.some(r.lab.validators(), 1))
}

func (r *round) removeLeader(ctx context.Context) error {
	n := r.leader(ctx)
	if n == nil {
		return nil
	}
	return r.change(ctx, nil, []*node{n})
}

// replaceValidator does both in one record.
func (r *round) replaceValidator(ctx context.Context) error {
	return r.change(ctx, r.some(r.lab.followers(), 1), r.some(r.lab.validators(), 1))
}

// change changes the set of validators by the face of one that is an admin.
// Sometimes another node is killed meanwhile.
func (r *round) change(ctx context.Context, add, remove []*node) error {
	if err := r.progress(ctx, time.Now()); err != nil {
		return err
	}
	want := slices.DeleteFunc(append(r.lab.validators(), add...), func(n *node) bool { return slices.Contains(remove, n) })
	admin := r.some(r.lab.admins(), 1)[0]
	killed := make(chan error, 1)
	if victim := r.one(); r.rand.IntN(3) == 0 && victim != admin && len(remove) == 0 {
		after, away := r.between(0, 300*time.Millisecond), r.between(0, 2*time.Second)
		go func() {
			sleep(ctx, after)
			r.kill(victim)
			sleep(ctx, away)
			killed <- victim.start(ctx)
		}()
	} else {
		killed <- nil
	}
	began := time.Now()
	err := r.ask(ctx, admin, add, remove, want)
	if err = errors.Join(err, <-killed); err != nil {
		return err
	}
	r.add(func(t *Totals) { t.Changes++ })
	for _, n := range r.lab.nodes {
		n.elect(slices.Contains(want, n))
	}
	r.say("  validators are %s after %s", names(want), time.Since(began).Round(time.Millisecond))
	return nil
}

// ask hands the change in until it is in force. The node may refuse it for a
// while: a candidate is behind, or somebody is away.
func (r *round) ask(ctx context.Context, admin *node, add, remove, want []*node) error {
	limit := time.Now().Add(progressTime)
	var last error
	for ctx.Err() == nil {
		set, err := r.set(ctx, admin)
		if err == nil && sameNodes(set, want) {
			return nil
		}
		if err == nil {
			var req parley.ChangeRequest
			for _, n := range add {
				req.Add = append(req.Add, parley.Candidate{Key: n.key.String()})
			}
			for _, v := range set {
				if slices.ContainsFunc(remove, func(n *node) bool { return n.key == v.Key }) {
					req.Remove = append(req.Remove, v.ID)
				}
			}
			err = r.hand(ctx, admin, req)
		}
		if err != nil {
			last = err
		}
		if time.Now().After(limit) {
			r.miss("validators are not %s within %s although nothing else is wrong: %v: %s", names(want), progressTime, last, r.states(ctx))
			return errStuck
		}
		sleep(ctx, changeAgain)
	}
	return ctx.Err()
}

func (r *round) hand(ctx context.Context, admin *node, req parley.ChangeRequest) error {
	ctx, cancel := context.WithTimeout(ctx, changeWait+askLimit)
	defer cancel()
	var c parley.Change
	_, err := admin.api.Do(ctx, http.MethodPost, "chain/validators?timeout="+changeWait.String(), req, &c)
	return err
}

// set is who signs the next block, as a node says.
func (r *round) set(ctx context.Context, n *node) ([]parley.Validator, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var list struct {
		Items []parley.Validator `json:"items"`
	}
	status, err := n.get(ctx, "chain/validators", &list)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("validators of %s: %d", n.name, status)
	}
	return list.Items, err
}

func sameNodes(set []parley.Validator, want []*node) bool {
	return len(set) == len(want) && !slices.ContainsFunc(want, func(n *node) bool {
		return !slices.ContainsFunc(set, func(v parley.Validator) bool { return v.Key == n.key })
	})
}

func names(nodes []*node) (list []string) {
	for _, n := range nodes {
		list = append(list, n.name)
	}
	slices.Sort(list)
	return list
}
