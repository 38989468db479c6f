package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

const (
	equalTime  = 5 * time.Second  // heads stay equal for that long
	drainTime  = 45 * time.Second // for accepted records to come to their end
	settleTime = 2 * time.Minute

	longRecovery = 3 * time.Second // is told
)

// plan says what a round is made of. All but the moments follows from the seed.
type plan struct {
	Seed       uint64
	Validators int
	Followers  int
	Clients    int
	For        time.Duration // faults
	SmallDisk  bool          // one node has one that gets full
	Wipe       bool          // one node loses its disk
	Accept     bool          // the nodes are held to answers "accepted", too
	Slow       time.Duration // a stall longer than this keeps the round's directory, 0 = none
	Only       []string      // draw these faults alone; nil: all
	Hurry      bool          // shorter times between and in faults, for a test
	Script     []string      // these faults in their order; nil: drawn by weight until For is over
}

// newPlan draws the plan of a round.
func newPlan(seed uint64, long time.Duration) plan {
	r := rand.New(rand.NewPCG(seed, 0))
	sizes := []int{1, 3, 3, 3, 4, 4, 4, 4, 4, 5, 5, 7}
	p := plan{Seed: seed, Validators: sizes[r.IntN(len(sizes))], Followers: 1, Clients: 4 + r.IntN(4), For: long, Accept: true}
	p.SmallDisk = p.Validators > 1 && r.IntN(2) == 0
	p.Wipe = p.Validators > 1 && r.IntN(2) == 0
	return p
}

// round is one run of a lab: faults under load, rest, and the verdict.
type round struct {
	plan
	dir   string
	out   io.Writer
	rand  *rand.Rand // for the goroutine of the faults
	lab   *lab
	load  *load
	watch *watch
	exits *exits

	mu     sync.Mutex // guards totals, out
	totals Totals     // of this round
}

// exits tells which nodes may end by themselves: those with a full disk.
type exits struct {
	mu      sync.Mutex
	allowed map[*node]bool
	codes   map[*node]int // of the last end while that is allowed
}

func (e *exits) allow(n *node, yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.allowed[n] = yes
	delete(e.codes, n)
}

// take notes the end of a process where that is allowed.
func (e *exits) take(n *node, code int) (allowed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.allowed[n] {
		e.codes[n] = code
	}
	return e.allowed[n]
}

// code is that of the last end since it was allowed, 0 = none.
func (e *exits) code(n *node) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.codes[n]
}

func (r *round) add(f func(*Totals)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.totals)
}

func (r *round) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// miss notes a broken promise: the round is red.
func (r *round) miss(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.say("  MISS %s", text)
	r.add(func(t *Totals) { t.Misses = append(t.Misses, fmt.Sprintf("seed %d: %s", r.Seed, text)) })
}

func newRound(p plan, dir string, out io.Writer) *round {
	return &round{plan: p, dir: dir, out: out, rand: rand.New(rand.NewPCG(p.Seed, 1)), watch: newWatch(), exits: &exits{allowed: map[*node]bool{}, codes: map[*node]int{}}}
}

// runRound runs one round in dir, which it removes when all is well. The error
// is of the harness or of ctx; what the nodes did wrong is in the totals.
func runRound(ctx context.Context, p plan, dir, binary string, out io.Writer) (Totals, error) {
	r := newRound(p, dir, out)
	began := time.Now()
	err := os.RemoveAll(dir) // what an interrupted run left
	if err != nil {
		return Totals{}, fmt.Errorf("directory of the round: %w", err)
	}
	if r.lab, err = newLab(ctx, dir, binary, p.Validators, p.Followers); err != nil {
		return Totals{}, err
	}
	err = r.run(ctx)
	keep := err != nil && ctx.Err() == nil || len(r.totals.Misses) > 0 || p.Slow > 0 && r.totals.stall() > p.Slow
	err = errors.Join(err, r.lab.close(ctx, keep))
	r.totals.Rounds, r.totals.Seconds = 1, time.Since(began).Seconds()
	if keep {
		r.say("  kept: %s", dir)
	}
	return r.totals, err
}

func (r *round) run(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	var err error
	if r.load.journal, err = checker.OpenJournal(r.journal(), true); err != nil {
		return err
	}
	err = r.trouble(ctx)
	err = errors.Join(err, r.load.journal.Close())
	if err != nil {
		return err
	}
	return r.verdict(ctx)
}

// journal is the file of what clients were told.
func (r *round) journal() string { return filepath.Join(r.dir, "journal.jsonl") }

// prepare chooses the nodes with disks of their own.
func (r *round) prepare() error {
	r.load = &load{lab: r.lab, head: r.watch.head, accept: r.Accept}
	for _, n := range r.lab.nodes {
		n.ended = r.onExit
		n.answered = func(d time.Duration) { r.add(func(t *Totals) { t.Starts.add(d) }) }
	}
	chosen := r.some(r.lab.nodes, 2)
	if r.Wipe {
		r.load.fragile = chosen[0]
	}
	if r.SmallDisk {
		return r.lab.giveSmallDisk(chosen[len(chosen)-1])
	}
	return nil
}

// onExit judges the end of a process that nobody asked for. Its supervisor
// starts it again.
func (r *round) onExit(n *node, code int) {
	if r.exits.take(n, code) {
		return
	}
	r.add(func(t *Totals) { t.Exits++ })
	if code == configExit {
		r.miss("%s ended with exit code 78, which no restart mends: %s", n.name, n.lastWords())
		return
	}
	r.say("  %s ended by itself with exit code %d: %s", n.name, code, n.lastWords())
}

// trouble runs load and faults, and lets the nodes come to rest.
func (r *round) trouble(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, n := range r.lab.nodes {
		wg.Go(func() { r.watch.follow(watching, n) })
	}
	if err := start(ctx, r.lab.nodes...); err != nil {
		return err
	}
	loading, enough := context.WithCancel(ctx)
	defer enough()
	loaded := make(chan error, 1)
	go func() { loaded <- r.load.run(loading, r.Clients, r.Seed) }()
	err := r.faults(ctx)
	enough()
	if err = errors.Join(err, <-loaded, ctx.Err()); err != nil {
		return err
	}
	r.settle(ctx)
	r.prove(ctx)
	if one, waiting := r.look(ctx); one && !waiting {
		r.watch.rest()
	}
	return ctx.Err()
}

// faults makes one after the other, with rest after most of them. A chain that
// stands still ends them.
func (r *round) faults(ctx context.Context) error {
	if err := r.progress(ctx, time.Now()); err != nil {
		return notStuck(err)
	}
	end := time.Now().Add(r.For)
	for i := 0; ctx.Err() == nil; i++ {
		if r.Script == nil && time.Now().After(end) || r.Script != nil && i == len(r.Script) {
			return nil
		}
		f := r.next(i)
		r.say("  %s %s", time.Now().UTC().Format("15:04:05.000"), f.name) // as in the nodes' logs
		if err := f.do(r, ctx); err != nil {
			return notStuck(err)
		}
		if r.rand.IntN(4) == 0 {
			continue
		}
		ended := time.Now()
		if err := r.progress(ctx, ended); err != nil {
			return notStuck(err)
		}
		if _, first := r.watch.since(ended); !first.IsZero() {
			took := first.Sub(ended)
			r.add(func(t *Totals) { t.Recovered.add(took) })
			if took > longRecovery {
				r.say("  %s until a block came after %s", took.Round(time.Millisecond), f.name)
			}
		}
		sleep(ctx, r.between(200*time.Millisecond, 2*time.Second))
	}
	return nil
}

// notStuck leaves out what is noted as a miss already.
func notStuck(err error) error {
	if errors.Is(err, errStuck) {
		return nil
	}
	return err
}

// settle waits until all have one head for a while, and no record waits.
func (r *round) settle(ctx context.Context) {
	began := time.Now()
	equal := began
	for ctx.Err() == nil {
		one, waiting := r.look(ctx)
		if !one {
			equal = time.Now()
		}
		if time.Since(equal) > r.short(equalTime) && (!waiting || time.Since(began) > drainTime) {
			if waiting {
				r.say("  records wait still: %s", r.states(ctx))
				for _, line := range r.load.pending(ctx, 5) {
					r.say("    %s", line)
				}
			}
			return
		}
		if time.Since(began) > settleTime {
			r.miss("the nodes do not agree %s after the last fault: %s", settleTime, r.states(ctx))
			return
		}
		sleep(ctx, 100*time.Millisecond)
	}
}

// look asks all nodes whether they have one head, and whether records wait.
func (r *round) look(ctx context.Context) (one, waiting bool) {
	heads := map[string]bool{}
	for _, n := range r.lab.nodes {
		s, err := n.status(ctx)
		if err != nil || s.Head == nil {
			return false, true
		}
		heads[s.Head.Hash.String()] = true
		waiting = waiting || s.Mempool.Records > 0
	}
	return len(heads) == 1, waiting
}

func (n *node) status(ctx context.Context) (parley.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var s parley.Status
	status, err := n.get(ctx, "status", &s)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status of %s: %d", n.name, status)
	}
	return s, err
}

// states says in a line how each node is.
func (r *round) states(ctx context.Context) string {
	var parts []string
	for _, n := range r.lab.nodes {
		s, err := n.status(ctx)
		switch {
		case err != nil:
			parts = append(parts, fmt.Sprintf("%s: %v", n.name, err))
		case s.Head == nil:
			parts = append(parts, n.name+": no chain")
		default:
			parts = append(parts, fmt.Sprintf("%s: %s height %d %s, %d records wait, %d peers %s", n.name, s.Role, s.Head.Height, s.Sync.State,
				s.Mempool.Records, s.Peers.Inbound+s.Peers.Outbound, strings.Join(s.Reasons, ", ")))
		}
	}
	return strings.Join(parts, "; ")
}

// verdict stops the nodes and holds all that they store to the journal.
func (r *round) verdict(ctx context.Context) (err error) {
	for _, n := range r.lab.nodes {
		if err := n.stop(); err != nil {
			r.miss("unclean stop: %v", err)
		}
	}
	told, err := checker.ReadJournal(r.journal())
	if err != nil {
		return err
	}
	var nodes []checker.Node
	for _, n := range r.lab.nodes {
		l, err := checker.OpenChain(n.dir, nil)
		if err != nil {
			r.miss("open the ledger of %s: %v", n.name, err)
			continue
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		nodes = append(nodes, checker.Node{Name: n.name, Chain: l, Runs: r.watch.told(n)})
	}
	report, err := checker.Judge(ctx, told, nodes)
	if err != nil {
		return err
	}
	r.note(report)
	if !report.OK() {
		err = os.WriteFile(filepath.Join(r.dir, "report.txt"), []byte(report.String()+"\n"), 0o600)
		r.miss("%d violations, all in %s: %s", len(report.Violations)+report.More, filepath.Join(r.dir, "report.txt"), report.Violations[0])
	}
	return err
}

func (r *round) note(report *checker.Report) {
	r.add(func(t *Totals) {
		t.Submitted += report.Submitted
		t.Accepted += int(r.load.accepted.Load())
		t.Answered += int(r.load.committed.Load())
		t.Acknowledged += report.Acknowledged
		t.Committed += report.Committed
		t.Rejected += report.Rejected
		t.Lost += report.Lost
		t.Duplicated += report.Duplicated
		t.Disagreements += report.Disagreements
		t.Blocks += int(report.Height)
	})
}
