package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	quiet        = 6 * time.Second  // without another fault after one whose stall is measured
	progressTime = 60 * time.Second // for a healthy lab to commit again
	leaderTime   = 15 * time.Second // for validators to name a leader
	steady       = 500 * time.Millisecond
	hurry        = 5
)

// fault is one kind of trouble. do returns when it has ended, but for what the
// nodes make of it.
type fault struct {
	name   string
	weight int
	may    func(r *round) bool // nil: always
	do     func(r *round, ctx context.Context) error
}

var faults = []fault{
	{"leader restarted", 10, nil, (*round).restartLeader},
	{"leader dead", 5, severalValidators, (*round).killLeader},
	{"kill", 6, nil, (*round).killOne},
	{"kill minority", 3, severalValidators, (*round).killMinority},
	{"kill all", 3, nil, (*round).killAll},
	{"kill young", 6, nil, (*round).killYoung},
	{"restart", 3, nil, (*round).restart},
	{"pause", 4, nil, (*round).pauseOne},
	{"unplug", 3, nil, (*round).unplug},
	{"partition", 3, nil, (*round).partition},
	{"one-way cut", 3, nil, (*round).oneWay},
	{"cut and kill", 3, severalValidators, (*round).cutAndKill},
	{"torn wal", 3, nil, (*round).tearWAL},
	{"torn ledger", 3, nil, (*round).tearLedger},
	{"full disk", 3, func(r *round) bool { return r.lab.small != nil }, (*round).fullDisk},
	{"read-only disk", 1, func(r *round) bool { return r.lab.small != nil }, (*round).readOnlyDisk},
	{"wipe", 2, mayLose, (*round).wipe},
	{"restore", 2, mayLose, (*round).lose},
	{"flip", 3, mayLose, (*round).flip},
	{"add validator", 3, canGrow, (*round).addValidator},
	{"remove validator", 2, canLose, (*round).removeValidator},
	{"remove leader", 3, canLose, (*round).removeLeader},
	{"replace validator", 3, canGrow, (*round).replaceValidator},
}

// parseFaults reads a list of names by comma, "" = nil.
func parseFaults(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	var all []string
	for _, f := range faults {
		all = append(all, f.name)
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if !slices.Contains(all, n) {
			return nil, fmt.Errorf("fault %q is not one of %q", n, all)
		}
	}
	return names, nil
}

func mayLose(r *round) bool { return r.load.fragile != nil }

func severalValidators(r *round) bool { return len(r.lab.validators()) > 2 }

// next is the fault of that number.
func (r *round) next(i int) fault {
	for _, f := range faults {
		if r.Script != nil && f.name == r.Script[i] {
			return f
		}
	}
	return r.draw()
}

// draw chooses the next fault by weight.
func (r *round) draw() fault {
	var may []fault
	sum := 0
	for _, f := range faults {
		if (f.may == nil || f.may(r)) && (r.Only == nil || slices.Contains(r.Only, f.name)) {
			may = append(may, f)
			sum += f.weight
		}
	}
	if len(may) == 0 {
		return fault{"rest", 0, nil, func(r *round, ctx context.Context) error {
			sleep(ctx, r.between(time.Second, 5*time.Second))
			return nil
		}}
	}
	p := r.rand.IntN(sum)
	for _, f := range may {
		if p -= f.weight; p < 0 {
			return f
		}
	}
	return may[0] // not reached
}

// short is a time, or a part of it where the plan is in a hurry.
func (r *round) short(d time.Duration) time.Duration {
	if r.Hurry {
		return d / hurry
	}
	return d
}

// between is a random time.
func (r *round) between(low, high time.Duration) time.Duration {
	return low + r.short(time.Duration(r.rand.Int64N(int64(high-low)+1)))
}

// one is a random node, some are several.
func (r *round) one() *node { return r.lab.nodes[r.rand.IntN(len(r.lab.nodes))] }

func (r *round) some(of []*node, count int) []*node {
	list := slices.Clone(of)
	r.rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(count, len(list))]
}

func (r *round) kill(nodes ...*node) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			if n.kill() {
				r.add(func(t *Totals) { t.Kills++ })
			}
		})
	}
	wg.Wait()
}

func start(ctx context.Context, nodes ...*node) error {
	var err error
	for _, n := range nodes {
		err = errors.Join(err, n.start(ctx))
	}
	return err
}

// leader is the validator that more than half of the validators name as such, nil
// where they do not agree on one.
func (r *round) leader(ctx context.Context) *node {
	ctx, cancel := context.WithTimeout(ctx, leaderTime)
	defer cancel()
	for ctx.Err() == nil {
		votes := map[string]int{}
		for _, n := range r.lab.validators() {
			set, _ := r.set(ctx, n) // who does not answer has no vote
			for _, v := range set {
				if v.Leader {
					votes[v.Name]++
				}
			}
		}
		for _, n := range r.lab.validators() {
			if 2*votes[n.name] > len(r.lab.validators()) {
				return n
			}
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return nil
}

// restartLeader measures the stall after kill -9 and a start within the
// heartbeat.
func (r *round) restartLeader(ctx context.Context) error {
	return r.measure(ctx, func(n *node) error {
		sleep(ctx, r.between(0, 1500*time.Millisecond))
		return n.start(ctx)
	}, func(t *Totals, d time.Duration) { t.Restarted.add(d) })
}

// killLeader measures the stall after a leader that stays away.
func (r *round) killLeader(ctx context.Context) error {
	var dead *node
	err := r.measure(ctx, func(n *node) error {
		dead = n
		return nil
	}, func(t *Totals, d time.Duration) { t.Dead.add(d) })
	if dead != nil {
		err = errors.Join(err, dead.start(ctx))
	}
	return err
}

// measure kills the leader of a chain that runs well, and notes the longest
// time without a commit from then on.
func (r *round) measure(ctx context.Context, then func(*node) error, note func(*Totals, time.Duration)) error {
	if err := r.progress(ctx, time.Now()); err != nil {
		return err
	}
	n := r.leader(ctx)
	if n == nil {
		return nil
	}
	calm := r.watch.gap(time.Now().Add(-2*time.Second), time.Now()) < 2*steady
	killed := time.Now()
	r.kill(n)
	if err := then(n); err != nil {
		return err
	}
	sleep(ctx, time.Until(killed.Add(r.short(quiet))))
	if err := r.progress(ctx, killed); err != nil {
		return err
	}
	stall := r.watch.gap(killed, time.Now())
	if calm && len(r.lab.validators()) > 1 { // else it would count what was before, or the start of a process
		r.add(func(t *Totals) { note(t, stall) })
	}
	r.say("  stall %s after the kill of leader %s (calm before: %t)", stall.Round(time.Millisecond), n.name, calm)
	return nil
}

func (r *round) killOne(ctx context.Context) error {
	n := r.one()
	r.kill(n)
	sleep(ctx, r.between(0, 3*time.Second))
	return n.start(ctx)
}

func (r *round) killMinority(ctx context.Context) error {
	v := r.lab.validators()
	nodes := r.some(v, r.lab.spare())
	r.kill(nodes...)
	sleep(ctx, r.between(0, 5*time.Second))
	return start(ctx, nodes...)
}

func (r *round) killAll(ctx context.Context) error {
	r.kill(r.lab.nodes...)
	var err error
	for _, n := range r.some(r.lab.nodes, len(r.lab.nodes)) {
		sleep(ctx, r.between(0, 300*time.Millisecond))
		err = errors.Join(err, n.start(ctx))
	}
	return err
}

// killYoung kills processes that have just begun, one or all of them.
func (r *round) killYoung(ctx context.Context) error {
	nodes := []*node{r.one()}
	if r.rand.IntN(4) == 0 {
		nodes = r.lab.nodes
	}
	for range 1 + r.rand.IntN(5) {
		r.kill(nodes...)
		if err := start(ctx, nodes...); err != nil {
			return err
		}
		sleep(ctx, r.between(30*time.Millisecond, 300*time.Millisecond))
	}
	r.kill(nodes...)
	return start(ctx, nodes...)
}

// restart stops a node as an operator does.
func (r *round) restart(ctx context.Context) error {
	n := r.one()
	n.await(ctx)
	if err := n.stop(); err != nil {
		r.miss("unclean stop: %v", err)
	}
	return n.start(ctx)
}

func (r *round) pauseOne(ctx context.Context) error {
	n := r.one()
	if r.rand.IntN(2) == 0 {
		if leader := r.leader(ctx); leader != nil {
			n = leader
		}
	}
	r.add(func(t *Totals) { t.Pauses++ })
	n.pause()
	sleep(ctx, r.between(200*time.Millisecond, 8*time.Second))
	if r.rand.IntN(4) == 0 {
		r.kill(n)
		return n.start(ctx)
	}
	n.resume()
	return nil
}

// cuts runs a cut of the network for a while and heals it.
func (r *round) cuts(ctx context.Context, cut func() error, during func() error) error {
	r.add(func(t *Totals) { t.Cuts++ })
	err := cut()
	if err == nil && during != nil {
		err = during()
	}
	sleep(ctx, r.between(time.Second, 10*time.Second))
	return errors.Join(err, r.lab.network.heal(ctx))
}

func (r *round) unplug(ctx context.Context) error {
	return r.cuts(ctx, func() error { return r.lab.network.plug(ctx, r.one().index, false) }, nil)
}

func (r *round) partition(ctx context.Context) error {
	return r.cuts(ctx, func() error { return r.split(ctx) }, nil)
}

// split parts the nodes into two random groups.
func (r *round) split(ctx context.Context) error {
	all := r.some(r.lab.nodes, len(r.lab.nodes))
	var a, b []int
	at := 1 + r.rand.IntN(max(1, len(all)-1))
	for i, n := range all {
		if i < at {
			a = append(a, n.index)
		} else {
			b = append(b, n.index)
		}
	}
	return r.lab.network.split(ctx, a, b)
}

func (r *round) oneWay(ctx context.Context) error {
	return r.cuts(ctx, func() error {
		var to []int
		for _, n := range r.some(r.lab.nodes, 1+r.rand.IntN(len(r.lab.nodes))) {
			to = append(to, n.index)
		}
		return r.lab.network.cut(ctx, r.one().index, to...)
	}, nil)
}

func (r *round) cutAndKill(ctx context.Context) error {
	return r.cuts(ctx, func() error { return r.split(ctx) }, func() error {
		sleep(ctx, r.between(0, 2*time.Second))
		return r.killOne(ctx)
	})
}

// tearWAL leaves what a crash leaves of an entry that it was writing.
func (r *round) tearWAL(ctx context.Context) error {
	return r.tear(ctx, r.some(r.lab.validators(), 1)[0], "wal/*.wal")
}

// tearLedger does the same to the store's own log.
func (r *round) tearLedger(ctx context.Context) error { return r.tear(ctx, r.one(), "ledger/*.log") }

func (r *round) tear(ctx context.Context, n *node, glob string) error {
	r.kill(n)
	torn, err := tearTail(n.dir, glob, r.rand)
	if err != nil {
		return err
	}
	if torn {
		r.add(func(t *Totals) { t.Torn++ })
	}
	sleep(ctx, r.between(0, time.Second))
	return n.start(ctx)
}

// fullDisk leaves a node without room for a while. It may end by itself then,
// and is started again in vain.
func (r *round) fullDisk(ctx context.Context) error {
	n := r.lab.small
	r.add(func(t *Totals) { t.Full++ })
	r.exits.allow(n, true)
	if err := r.lab.fill(); err != nil {
		return err
	}
	sleep(ctx, r.between(time.Second, 8*time.Second))
	if r.rand.IntN(3) == 0 {
		r.kill(n)
		if err := n.start(ctx); err != nil {
			return err
		}
		sleep(ctx, r.between(0, 2*time.Second))
	}
	if err := r.lab.empty(); err != nil {
		return err
	}
	// What met the full disk is done with it by a start on a roomy one.
	r.kill(n)
	r.exits.allow(n, false)
	return n.start(ctx)
}

// readOnlyDisk starts a node in vain on a disk that takes no writes.
func (r *round) readOnlyDisk(ctx context.Context) error {
	n := r.lab.small
	r.kill(n)
	r.exits.allow(n, true)
	if err := r.lab.lock(true); err != nil {
		return err
	}
	r.add(func(t *Totals) { t.ReadOnly++ })
	if err := n.start(ctx); err != nil {
		return err
	}
	sleep(ctx, r.between(time.Second, 3*time.Second))
	r.kill(n)
	r.exits.allow(n, false)
	if err := r.lab.lock(false); err != nil {
		return err
	}
	return n.start(ctx)
}

// wipe gives a node a new disk. All others are up: a validator without its
// log waits for a block before it votes.
func (r *round) wipe(ctx context.Context) error {
	if err := r.progress(ctx, time.Now()); err != nil {
		return err
	}
	r.kill(r.load.fragile)
	return r.renew(ctx, r.load.fragile)
}

// renew starts a node that is killed with an empty disk.
func (r *round) renew(ctx context.Context, n *node) error {
	r.add(func(t *Totals) { t.Wiped++ })
	r.watch.forget(n)
	if err := n.wipe(keyFile()); err != nil {
		return err
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	return r.progress(ctx, time.Now())
}

// progress waits until blocks are committed after a time, as they are by a
// healthy lab under load. That they are not is a miss.
func (r *round) progress(ctx context.Context, after time.Time) error {
	limit := time.Now().Add(progressTime)
	for ctx.Err() == nil {
		if blocks, _ := r.watch.since(after); blocks > 1 {
			return nil
		}
		if time.Now().After(limit) {
			r.miss("no block within %s although nothing is wrong with the nodes: %s", progressTime, r.states(ctx))
			return errStuck
		}
		sleep(ctx, 20*time.Millisecond)
	}
	return ctx.Err()
}

var errStuck = fmt.Errorf("the chain stands still")

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
