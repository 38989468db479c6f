package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"
)

// plan says how much is measured.
type plan struct {
	Nodes     []int         `json:"nodes"`
	Bodies    []int         `json:"bodies"`    // bytes; starts and newcomers are measured with the first
	Starts    int           `json:"starts"`    // of a new devnet
	Newcomers int           `json:"newcomers"` // one after another
	Synced    int           `json:"synced"`    // records that a newcomer fetches
	Rounds    int           `json:"rounds"`    // of throughput and of latency
	Round     time.Duration `json:"-"`         // about how long one of throughput lasts
	Latency   time.Duration `json:"-"`         // of one round of latency
	Checks    int           `json:"checks"`    // signatures in a run of the limit
	Stall     stallPlan     `json:"stall"`
	Syncs     []syncPlan    `json:"-"`
	Addrbook  addrbookPlan  `json:"addrbook"`
	Discovery discoveryPlan `json:"discovery"`
	Bans      bansPlan      `json:"bans"`
	Fanout    fanoutPlan    `json:"fanout"`
	Rest      restPlan      `json:"rest"`
	Sidecar   sidecarPlan   `json:"sidecar"`
}

// of is the plan for one size of bodies.
func (p plan) of(body int) plan {
	if body != p.Bodies[0] {
		p.Starts, p.Newcomers, p.Synced = 1, 0, p.Synced/10
	}
	return p
}

var (
	whole = plan{Nodes: []int{1, 3, 4, 7}, Bodies: []int{256, 4096}, Starts: 5, Newcomers: 5, Synced: 10000, Rounds: 5, Round: 3 * time.Second,
		Latency: 3 * time.Second, Checks: 5000, Stall: stallPlan{Nodes: 4, Dead: 10, Fast: 40}, Syncs: syncWhole, Addrbook: addrbookPlan{Addresses: 100_000, Rounds: 5, Ops: 5000},
		Discovery: discoveryPlan{Hosts: 32, Rounds: 5, Lookups: 200, Dials: 100},
		Bans:      bansPlan{Sizes: []int{1_000, 100_000, 1_000_000}, Rounds: 5, Checks: 2_000_000, Arrivals: 1000},
		Fanout:    fanoutPlan{Clients: 1000, Rounds: 5, Paced: 40, Burst: 100, Bytes: []int{256, 4096}, Idle: 200 * time.Millisecond},
		Rest:      restPlan{Conns: []int{1, 32}, Rounds: 5, Round: time.Second},
		Sidecar:   sidecarPlan{Bytes: []int{256, 4096}, Rounds: 5, Load: 5000, Paced: 200, Large: []int{1 << 20, 10 << 20}}}
	smoke = plan{Nodes: []int{1, 3}, Bodies: []int{256, 4096}, Starts: 1, Newcomers: 1, Synced: 1000, Rounds: 2, Round: time.Second / 2,
		Latency: time.Second, Checks: 1000, Stall: stallPlan{Nodes: 4, Dead: 1, Fast: 2}, Syncs: syncSmoke, Addrbook: addrbookPlan{Addresses: 10_000, Rounds: 2, Ops: 500},
		Discovery: discoveryPlan{Hosts: 22, Rounds: 2, Lookups: 40, Dials: 10},
		Bans:      bansPlan{Sizes: []int{1_000, 10_000}, Rounds: 2, Checks: 400_000, Arrivals: 100},
		Fanout:    fanoutPlan{Clients: 100, Rounds: 2, Paced: 10, Burst: 20, Bytes: []int{256, 4096}, Idle: 100 * time.Millisecond},
		Rest:      restPlan{Conns: []int{1, 32}, Rounds: 2, Round: 200 * time.Millisecond},
		Sidecar:   sidecarPlan{Bytes: []int{256, 4096}, Rounds: 2, Load: 1000, Paced: 50, Large: []int{1 << 20}}}
)

const (
	maxRound = 60000                  // records of a round
	maxBytes = 64 << 20               // of their bodies: the bench holds all it signed, as bytes and as lines
	limitFor = 500 * time.Millisecond // at least, for one run of the bare store
)

// row is what was measured with one number of nodes.
type row struct {
	Nodes        int    `json:"nodes"`
	Body         int    `json:"body_bytes"`
	AgreeS       figure `json:"agree_s"`       // first process started → one head, all see each other
	FirstBlockS  figure `json:"first_block_s"` // first process started → a block on every disk
	RecordsPS    figure `json:"records_s"`
	BlockRecords figure `json:"block_records"`
	PebblePS     figure `json:"limit_pebble_records_s"`
	PebbleX      figure `json:"ratio_pebble"`
	ChecksPS     figure `json:"limit_signatures_s"` // all cores, each node checks each record
	ChecksX      figure `json:"ratio_signatures"`
	CPUUS        figure `json:"cpu_us_record_all_nodes"`
	CPUNodeUS    figure `json:"cpu_us_record_node"`
	P50MS        figure `json:"p50_ms"`
	P99MS        figure `json:"p99_ms"`
	JoinS        figure `json:"newcomer_s"`      // its process started → all records
	SyncS        figure `json:"newcomer_sync_s"` // it knows the chain → all records
	SyncPS       figure `json:"newcomer_sync_records_s"`
	SyncMBPS     figure `json:"newcomer_sync_mb_s"`
	SyncPebblePS figure `json:"newcomer_limit_pebble_records_s"`
	SyncX        figure `json:"newcomer_ratio_pebble"`
	Acked        int    `json:"acknowledged"`
	Missing      int    `json:"missing"`
	Later        int64  `json:"pushed_back"` // answers "not now", sent again

	checksCore figure // signatures a second on one core
}

// bench is one run.
type bench struct {
	plan   plan
	binary string
	dir    string // temporary
	keep   bool   // the nodes' directories, when something fails
	cores  int
	begin  time.Time
	say    io.Writer
}

// tell shows progress.
func (b *bench) tell(format string, args ...any) {
	fmt.Fprintf(b.say, "%4.0f s  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// tellEvery is how often a step that is long tells where it is.
const tellEvery = 10 * time.Second

// progress tells how far a step is.
type progress struct {
	tell func(format string, args ...any)
	last time.Time
}

func (b *bench) progress() *progress { return &progress{b.tell, time.Now()} }

// now tells where nothing was told for tellEvery. It is for one goroutine.
func (p *progress) now(format string, args ...any) {
	if p.tell != nil && time.Since(p.last) >= tellEvery {
		p.tell(format, args...)
		p.last = time.Now()
	}
}

// done tells of the end of a step.
func (p *progress) done(format string, args ...any) {
	if p.tell != nil {
		p.tell(format, args...)
		p.last = time.Now()
	}
}

// measureLoad fills a row for each number of nodes and size of bodies.
func (b *bench) measureLoad(ctx context.Context, r *report) error {
	for _, body := range b.plan.Bodies {
		for _, nodes := range b.plan.Nodes {
			row := row{Nodes: nodes, Body: body}
			for i := range b.plan.of(body).Starts {
				if err := b.once(ctx, &row, i == b.plan.of(body).Starts-1); err != nil {
					return fmt.Errorf("with %d nodes and bodies of %d bytes: %w", nodes, body, err)
				}
			}
			r.Rows = append(r.Rows, row)
		}
	}
	return nil
}

// once measures one start of a new devnet, and the load on it if it is the
// last one.
func (b *bench) once(ctx context.Context, r *row, load bool) (err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("net%d", r.Nodes))
	defer func() {
		if err == nil || !b.keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	l, err := establish(dir, b.binary, r.Nodes)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, l.stop(ctx))
		}
	}()
	begin := time.Now()
	agreed, err := l.start(ctx)
	if err != nil {
		return err
	}
	s, err := newSigner(l.genesis, r.Body)
	if err != nil {
		return err
	}
	acked := s.sign(1)
	if _, _, err = l.closedLoop(ctx, acked); err == nil {
		err = l.equal(ctx, 1)
	}
	if err != nil {
		return err
	}
	r.AgreeS.add(agreed.Seconds())
	r.FirstBlockS.add(time.Since(begin).Seconds())
	b.tell("N=%d: agree after %.2f s, first block on all after %.2f s", r.Nodes, agreed.Seconds(), time.Since(begin).Seconds())
	if !load {
		return nil
	}
	w := &work{bench: b, plan: b.plan.of(r.Body), lab: l, row: r, signer: s, acked: acked}
	if err := w.run(ctx); err != nil {
		return errors.Join(err, l.heights(context.WithoutCancel(ctx)))
	}
	stopped = true
	if err := l.stop(ctx); err != nil {
		return err
	}
	return w.check()
}

// work is the load on one devnet.
type work struct {
	*bench
	*lab
	plan      plan
	row       *row
	signer    *signer
	acked     []record
	newcomers []string
	had       int // records when the newcomers came
}

func (w *work) run(ctx context.Context) (err error) {
	c, err := w.chain(ctx, w.nodes[0].Name)
	if err != nil {
		return err
	}
	bare, err := openStore(filepath.Join(w.dir(), "bare"), c.Validators.Quorum)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	rate, err := w.newcomerRounds(ctx, bare)
	if err != nil {
		return err
	}
	for range w.plan.Rounds {
		n := min(maxRound, maxBytes/w.row.Body, max(batchLines*writers, int(rate*w.plan.Round.Seconds())))
		if rate, err = w.round(ctx, bare, n); err != nil {
			return err
		}
	}
	for range w.plan.Rounds {
		took, err := w.openLoop(ctx, w.sign(int(w.plan.Latency.Seconds()*openPace)))
		if err != nil {
			return err
		}
		w.row.P50MS.add(quantile(took, 0.5))
		w.row.P99MS.add(quantile(took, 0.99))
	}
	w.tell("N=%d: p50 %s ms, p99 %s ms at %d records/s", w.row.Nodes, w.row.P50MS.text(), w.row.P99MS.text(), openPace)
	return w.equal(ctx, uint64(len(w.acked)))
}

func (w *work) dir() string { return w.lab.dir }

// sign makes records that are acknowledged when the next step has no error.
func (w *work) sign(n int) []record {
	records := w.signer.sign(n)
	w.acked = append(w.acked, records...)
	return records
}

// newcomerRounds loads what newcomers fetch, which also warms the nodes up,
// and returns the rate of it.
func (w *work) newcomerRounds(ctx context.Context, bare *store) (rate float64, err error) {
	records := w.sign(w.plan.Synced - len(w.acked))
	took, _, err := w.closedLoop(ctx, records)
	if err != nil {
		return 0, err
	}
	if err := w.equal(ctx, uint64(len(w.acked))); err != nil {
		return 0, err
	}
	c, err := w.chain(ctx, w.nodes[0].Name)
	if err != nil {
		return 0, err
	}
	w.had = len(w.acked)
	bytes := 0
	for _, r := range w.acked {
		bytes += len(r.raw)
	}
	r := w.row
	for i := range w.plan.Newcomers {
		name := fmt.Sprintf("new%d", i+1)
		w.newcomers = append(w.newcomers, name)
		total, syncing, err := w.newcomer(ctx, name, uint64(w.had))
		if err != nil {
			return 0, err
		}
		alone, err := bare.writeAll(w.acked, w.had/int(max(c.Height, 1)), limitFor)
		if err != nil {
			return 0, err
		}
		r.JoinS.add(total.Seconds())
		r.SyncS.add(syncing.Seconds())
		r.SyncPS.add(float64(w.had) / syncing.Seconds())
		r.SyncMBPS.add(float64(bytes) / 1e6 / syncing.Seconds())
		r.SyncPebblePS.add(alone)
		w.tell("N=%d: a newcomer has %d records after %.2f s, %.2f s of them to sync", r.Nodes, w.had, total.Seconds(), syncing.Seconds())
	}
	r.SyncX = r.SyncPS.over(r.SyncPebblePS)
	return float64(len(records)) / took.Seconds(), nil
}

// round is one of throughput, with both limits right after it.
func (w *work) round(ctx context.Context, bare *store, n int) (rate float64, err error) {
	records := w.sign(n)
	before, err := w.chain(ctx, w.nodes[0].Name)
	if err != nil {
		return 0, err
	}
	cpuBefore, err := w.cpu()
	if err != nil {
		return 0, err
	}
	took, later, err := w.closedLoop(ctx, records)
	if err != nil {
		return 0, err
	}
	if err := w.equal(ctx, uint64(len(w.acked))); err != nil { // the work of the slowest counts as well
		return 0, err
	}
	cpuAfter, err := w.cpu()
	if err != nil {
		return 0, err
	}
	after, err := w.chain(ctx, w.nodes[0].Name)
	if err != nil {
		return 0, err
	}
	size := float64(n) / float64(max(after.Height-before.Height, 1))
	alone, err := bare.writeAll(records, int(math.Round(size)), limitFor)
	if err != nil {
		return 0, err
	}
	checks, err := verifyRate(records[:min(n, w.plan.Checks)], w.genesis)
	if err != nil {
		return 0, err
	}
	r := w.row
	rate = float64(n) / took.Seconds()
	cpu := (cpuAfter - cpuBefore) * 1e6 / float64(n)
	r.Later += later
	r.RecordsPS.add(rate)
	r.BlockRecords.add(size)
	r.CPUUS.add(cpu)
	r.CPUNodeUS.add(cpu / float64(r.Nodes))
	r.PebblePS.add(alone)
	r.checksCore.add(checks)
	r.ChecksPS.add(checks * float64(w.cores) / float64(r.Nodes))
	r.PebbleX, r.ChecksX = r.RecordsPS.over(r.PebblePS), r.RecordsPS.over(r.ChecksPS)
	w.tell("N=%d: %s records/s in %d records of %d B; bare pebble %s/s", r.Nodes, number(rate), n, r.Body, number(alone))
	return rate, nil
}

// check reads the disks of the stopped nodes.
func (w *work) check() error {
	lost, err := w.prove(w.acked, w.newcomers, w.had)
	if err != nil {
		return err
	}
	w.row.Acked, w.row.Missing = len(w.acked), lost
	if lost > 0 {
		return fmt.Errorf("%d acknowledged records are missing on a disk", lost)
	}
	w.tell("N=%d: %d acknowledged records, each once and in one order on every disk", w.row.Nodes, len(w.acked))
	return nil
}
