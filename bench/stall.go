package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
)

// stallPlan says how often a leader is killed.
type stallPlan struct {
	Nodes int `json:"nodes"`
	Dead  int `json:"dead"` // times it stays down until the others commit again
	Fast  int `json:"fast"` // times it is started again at once
}

const (
	probeEvery   = 25 * time.Millisecond
	stallLimit   = 2 * time.Minute // for one episode
	settleFor    = time.Second     // of commits by all, before the next leader is killed
	fastTarget   = 4.0             // s, in 95 of 100
	beyondBeat   = 1.0             // s that a dead leader may cost beyond the heartbeat
	wantedShare  = 0.95
	probeAnswers = 4096 // kept for latency
	stallBody    = 256  // bytes
)

// stallRow is how long nothing was committed after a leader was killed.
type stallRow struct {
	Nodes      int     `json:"nodes"`
	HeartbeatS float64 `json:"heartbeat_s"`
	DeadS      figure  `json:"dead_s"` // kill -9 → first commit of a record submitted later
	FastS      figure  `json:"fast_s"` // the same, and its process is started again at once
	CalmMS     figure  `json:"calm_ms"`
	Acked      int     `json:"acknowledged"`
	Missing    int     `json:"missing"`
}

// measureStall kills leaders under a light load, one after another.
func (b *bench) measureStall(ctx context.Context, to *report) error {
	r, err := b.stall(ctx, b.plan.Stall)
	to.Stall = &r
	return err
}

func (b *bench) stall(ctx context.Context, p stallPlan) (r stallRow, err error) {
	r = stallRow{Nodes: p.Nodes, HeartbeatS: float64(consortium.DefaultParams().HeartbeatMS) / 1000}
	dir := filepath.Join(b.dir, "stall")
	defer func() {
		if err == nil || !b.keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	l, err := establish(dir, b.binary, p.Nodes)
	if err != nil {
		return r, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, l.stop(context.WithoutCancel(ctx)))
		}
	}()
	if _, err := l.start(ctx); err != nil {
		return r, err
	}
	s, err := newSigner(l.genesis, stallBody)
	if err != nil {
		return r, err
	}
	load := probe(ctx, l, s)
	err = b.episodes(ctx, l, load, p, &r)
	if err = errors.Join(err, load.end()); err != nil {
		return r, err
	}
	r.CalmMS = load.latency
	if err := l.equal(ctx, uint64(len(load.acked))); err != nil {
		return r, err
	}
	stopped = true
	if err := l.stop(ctx); err != nil {
		return r, err
	}
	r.Acked = len(load.acked)
	if r.Missing, err = l.prove(load.acked, nil, 0); err == nil && r.Missing > 0 {
		err = fmt.Errorf("%d acknowledged records are missing on a disk", r.Missing)
	}
	return r, err
}

// episodes kills the leader of the moment again and again, in both ways in turn.
func (b *bench) episodes(ctx context.Context, l *lab, load *probes, p stallPlan, r *stallRow) error {
	for dead, fast := 0, 0; dead < p.Dead || fast < p.Fast; {
		again := fast*max(p.Dead, 1) <= dead*max(p.Fast, 1) && fast < p.Fast || dead >= p.Dead
		took, err := l.episode(ctx, load, again)
		if err != nil {
			return fmt.Errorf("stall, episode %d: %w", dead+fast+1, err)
		}
		if again {
			fast++
			r.FastS.add(took.Seconds())
		} else {
			dead++
			r.DeadS.add(took.Seconds())
		}
		b.tell("leader killed%s: nothing for %.2f s", map[bool]string{true: " and started again", false: ""}[again], took.Seconds())
	}
	return nil
}

// episode is one: all commit for a while, the leader is killed, and the rest
// commits again. Afterwards all nodes run and agree.
func (l *lab) episode(ctx context.Context, load *probes, again bool) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, stallLimit)
	defer cancel()
	if err := load.settled(ctx); err != nil {
		return 0, err
	}
	leader, err := l.leader(ctx)
	if err != nil {
		return 0, err
	}
	if err := load.spare(ctx, leader); err != nil { // what it answers last is not to be lost
		return 0, err
	}
	name := l.nodes[leader].Name
	at := time.Now()
	if _, err := l.net.Kill(name); err != nil {
		return 0, err
	}
	l.clients[name].HTTP.CloseIdleConnections()
	up := make(chan error, 1)
	restart := func() { up <- l.net.Restart(ctx, []string{name}, nil) }
	if again {
		go restart()
	}
	took, err = load.firstAfter(ctx, at)
	if !again {
		go restart()
	}
	if err = errors.Join(err, <-up); err != nil {
		return 0, err
	}
	load.spareNobody()
	return took, nil
}

// leader is the index of the node that leads, which two nodes have to agree on.
func (l *lab) leader(ctx context.Context) (int, error) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		votes := map[string]int{}
		for i := range l.nodes {
			if name, err := l.leaderSays(ctx, i); err == nil && name != "" {
				votes[name]++
			}
		}
		for i, node := range l.nodes {
			if votes[node.Name] == len(l.nodes) {
				return i, nil
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the nodes name no leader: %v: %w", votes, ctx.Err())
		}
	}
}

func (l *lab) leaderSays(ctx context.Context, node int) (string, error) {
	var list struct{ Items []parley.Validator }
	if _, err := l.clients[l.nodes[node].Name].Do(ctx, http.MethodGet, "chain/validators", nil, &list); err != nil {
		return "", err
	}
	for _, v := range list.Items {
		if v.Leader {
			return v.Name, nil
		}
	}
	return "", nil
}

// probes submits single records to the nodes in turn, whether or not others are
// answered.
type probes struct {
	lab    *lab
	signer *signer
	cancel context.CancelFunc
	done   chan struct{}
	work   sync.WaitGroup

	mu      sync.Mutex // guards below
	spared  int        // node that gets none, -1 = no node
	busy    []int      // probes under way, by node
	wide    bool       // all nodes answer, and latencies count
	since   time.Time  // of wide
	answers []answer   // since the last episode began
	acked   []record
	latency figure
	fault   error
}

type answer struct{ sent, at time.Time }

func probe(ctx context.Context, l *lab, s *signer) *probes {
	ctx, cancel := context.WithCancel(ctx)
	p := &probes{lab: l, signer: s, cancel: cancel, done: make(chan struct{}), spared: -1, busy: make([]int, len(l.nodes)), wide: true, since: time.Now()}
	go p.run(ctx)
	return p
}

func (p *probes) run(ctx context.Context) {
	defer close(p.done)
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		node := i % len(p.lab.nodes)
		p.mu.Lock()
		skip := node == p.spared
		if !skip {
			p.busy[node]++
		}
		p.mu.Unlock()
		if skip {
			continue
		}
		p.work.Go(func() { p.one(context.WithoutCancel(ctx), node) })
	}
}

func (p *probes) one(ctx context.Context, node int) {
	r := p.signer.sign(1)[0]
	sent := time.Now()
	err := p.lab.submit(ctx, node, r)
	at := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy[node]--
	if err != nil {
		p.fault = errors.Join(p.fault, err)
		return
	}
	p.acked = append(p.acked, r)
	p.answers = append(p.answers, answer{sent, at})
	if p.wide && sent.After(p.since) && len(p.latency) < probeAnswers {
		p.latency.add(ms(at.Sub(sent)))
	}
}

// until polls f, under the lock, until it says yes.
func (p *probes) until(ctx context.Context, what string, f func() bool) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		p.mu.Lock()
		yes, fault := f(), p.fault
		p.mu.Unlock()
		if yes || fault != nil {
			return fault
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}

// settled returns when all nodes have committed for settleFor.
func (p *probes) settled(ctx context.Context) error {
	begin := time.Now()
	return p.until(ctx, "the nodes do not settle", func() bool {
		answered := 0
		for _, a := range p.answers {
			if a.sent.After(begin) {
				answered++
			}
		}
		return time.Since(begin) > settleFor && answered >= len(p.busy)
	})
}

// spare sends no more probes to a node, and waits for its last answers.
func (p *probes) spare(ctx context.Context, node int) error {
	p.mu.Lock()
	p.spared, p.wide, p.answers = node, false, nil
	p.mu.Unlock()
	return p.until(ctx, p.lab.nodes[node].Name+" does not answer", func() bool { return p.busy[node] == 0 })
}

func (p *probes) spareNobody() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spared, p.wide, p.since = -1, true, time.Now()
}

// firstAfter waits for the first commit of a record submitted after at.
func (p *probes) firstAfter(ctx context.Context, at time.Time) (took time.Duration, err error) {
	err = p.until(ctx, "nothing is committed any more", func() bool {
		for _, a := range p.answers {
			if d := a.at.Sub(at); a.sent.After(at) && (took == 0 || d < took) {
				took = d
			}
		}
		return took > 0
	})
	return took, err
}

// end waits for the last answers.
func (p *probes) end() error {
	p.cancel()
	<-p.done
	p.work.Wait()
	return p.fault
}

// share of the runs that are within limit.
func (f figure) within(limit float64) float64 {
	n := 0
	for _, v := range f {
		if v <= limit {
			n++
		}
	}
	return float64(n) / float64(max(len(f), 1))
}

// stallTable is the result for people.
func (r *report) stallTable() string {
	if r.Stall == nil {
		return ""
	}
	return r.Stall.table()
}

func (r *stallRow) table() string {
	var b strings.Builder
	put := func(label, runs, spread, p95, target, met string) {
		b.WriteString(strings.TrimRight(pad(label, 34, false)+pad(runs, 5, true)+pad(spread, 20, true)+pad(p95, 8, true)+pad(target, 16, true)+pad(met, 8, true), " ") + "\n")
	}
	put(fmt.Sprintf("stall of %d validators, s", r.Nodes), "runs", "median (min–max)", "p95", "target", "within")
	b.WriteString(strings.Repeat("─", 91) + "\n")
	row := func(label string, f figure, limit float64, target string) {
		put(label, strconv.Itoa(len(f)), f.text(), number(quantile(f, 0.95)), target, fmt.Sprintf("%.0f %%", 100*f.within(limit)))
	}
	row("leader killed", r.DeadS, r.HeartbeatS+beyondBeat, fmt.Sprintf("≤ %.1f", r.HeartbeatS+beyondBeat))
	row("leader killed and started at once", r.FastS, fastTarget, fmt.Sprintf("≤ %.1f in %.0f %%", fastTarget, 100*wantedShare))
	fmt.Fprintf(&b, "\nheartbeat %.1f s; a commit without faults in the same run: p50 %s, p99 %s ms at %.0f/s;\n%s acknowledged records, %d missing on any node\n",
		r.HeartbeatS, number(r.CalmMS.median()), number(quantile(r.CalmMS, 0.99)), time.Second.Seconds()/probeEvery.Seconds(), number(float64(r.Acked)), r.Missing)
	return b.String()
}
