package swarmtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

const (
	followers = 2
	settleIn  = 60 * time.Second // after the last fault: commits again, and all agree
	calm      = 5 * time.Second  // of equal heads before the check
)

// TestFaults runs a chain under faults and compares what clients were told
// with what every node holds. It runs one seed; SWARM_SEED names another one,
// SWARM_SEEDS=100 runs so many from SWARM_FROM on, each with 3 to 7 validators and
// 20 to 60 faults. Every third of these has a traitor among at least 4, which
// betrays whoever it leads, now and then and in one way or another; it is not
// asked and not judged. A seed that fails leaves its fault log, its journal and the
// nodes' logs and stores in a directory, below SWARM_DIR where that is set.
func TestFaults(t *testing.T) {
	first, count := uint64(number(t, "SWARM_FROM", 1)), number(t, "SWARM_SEEDS", 1)
	long := os.Getenv("SWARM_SEEDS") != ""
	if k := number(t, "SWARM_SEED", 0); k > 0 {
		first, count, long = uint64(k), 1, true
	}
	for seed := first; seed < first+uint64(count); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { runFaults(t, seed, long) })
	}
}

func number(t *testing.T, name string, def int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a number", name, v)
	}
	return n
}

// faultRun is one seed.
type faultRun struct {
	s     *Swarm
	rnd   *rand.Rand
	began time.Time
	log   *os.File
	dir   string
	load  *Load
	op    *operator
	least int  // validators
	good  bool // it ended, and well

	suspect *suspect // the traitor, nil for none
	plot    *plot    // what it did last, nil for nothing so far
	struck  int      // messages of earlier plots
}

// fault is one row of the table.
type fault struct {
	weight int
	strike func(r *faultRun) string // what it did
}

var faults = []fault{
	{3, (*faultRun).partition},
	{3, (*faultRun).isolateLeader},
	{2, (*faultRun).isolateAny},
	{2, (*faultRun).oneWay},
	{2, (*faultRun).lose},
	{2, (*faultRun).delay},
	{3, (*faultRun).killMinority},
	{3, (*faultRun).killLeader},
	{4, (*faultRun).killAtWrite},
	{1, (*faultRun).killAll},
	{1, (*faultRun).restart},
	{3, (*faultRun).changeSet},
	{6, (*faultRun).betray}, // where there is a traitor
}

func runFaults(t *testing.T, seed uint64, long bool) {
	r := &faultRun{rnd: rand.New(rand.NewPCG(seed, 7)), least: 3}
	validators, strikes := 4, 10
	traitor := false
	if long {
		validators, strikes = 3+r.rnd.IntN(5), 20+r.rnd.IntN(41)
		traitor = seed%3 == 0
	}
	if traitor {
		r.least, validators = 4, max(validators, 4)
	}
	r.open(t, seed)
	defer r.close(t)
	wall := time.Now()
	RunSeed(t, seed, func(s *Swarm) {
		defer func() {
			if t.Failed() {
				r.keep()
			}
		}()
		r.s, r.began = s, time.Now()
		r.note("seed %d: %d validators, %d followers, %d faults", seed, validators, followers, strikes)
		r.start(validators, traitor)
		for range strikes {
			time.Sleep(r.between(500*time.Millisecond, 8*time.Second))
			r.strike()
		}
		time.Sleep(r.between(0, 5*time.Second))
		r.settle()
		r.check()
	})
	t.Logf("seed %d took %v", seed, time.Since(wall).Round(time.Millisecond))
	r.good = !t.Failed()
}

func (r *faultRun) between(a, b time.Duration) time.Duration {
	return a + time.Duration(r.rnd.Int64N(int64(b-a)))
}

// start lets all nodes run, with clients.
func (r *faultRun) start(validators int, traitor bool) {
	s := r.s
	s.PowerCuts = true
	for range validators + followers {
		s.Add()
	}
	s.Genesis("faults", s.nodes[:validators]...)
	if traitor {
		r.suspect = s.nodes[0].suspect() // the first leader
		r.note("%s", r.conspire())
	}
	for _, n := range s.nodes {
		n.cfg.Consortium.GenesisFile = s.nodes[0].cfg.Consortium.GenesisFile
		for _, o := range s.nodes {
			if o != n {
				n.cfg.P2P.StaticPeers = append(n.cfg.P2P.StaticPeers, o.Addr())
			}
		}
		r.tee(n)
		n.Start()
	}
	r.load = s.StartLoad(4, 400*time.Millisecond, r.honest()...)
	r.op = newOperator(s, r.rnd)
}

// strike mends a part of what is broken, and breaks something else.
func (r *faultRun) strike() {
	if r.rnd.IntN(10) < 6 {
		r.s.Heal()
		r.note("links healed")
	}
	for _, n := range r.s.nodes {
		if !n.Alive() && r.rnd.IntN(10) < 7 {
			n.Start()
			r.note("%s starts", n.Name)
		}
	}
	of := faults
	if r.suspect == nil {
		of = faults[:len(faults)-1]
	}
	sum := 0
	for _, f := range of {
		sum += f.weight
	}
	at := r.rnd.IntN(sum)
	for _, f := range of {
		if at -= f.weight; at < 0 {
			r.note("%s", f.strike(r))
			return
		}
	}
}

func (r *faultRun) any() *Node { return r.s.nodes[r.rnd.IntN(len(r.s.nodes))] }

// leader is who leads in the eyes of somebody; any node where nobody knows.
func (r *faultRun) leader() *Node {
	for _, i := range r.rnd.Perm(len(r.s.nodes)) {
		name := ""
		r.s.nodes[i].Use(func(p *parley.Node) {
			for _, v := range p.Validators() {
				if v.Leader {
					name = v.Name
				}
			}
		})
		for _, n := range r.s.nodes {
			if n.Name == name {
				return n
			}
		}
	}
	return r.any()
}

func (r *faultRun) partition() string {
	var group []*Node
	names := ""
	for _, n := range r.s.nodes {
		if r.rnd.IntN(2) == 0 {
			group = append(group, n)
			names += " " + n.Name
		}
	}
	r.s.Partition(group...)
	return "partition:" + names
}

func (r *faultRun) isolateLeader() string {
	n := r.leader()
	r.s.Partition(n)
	return "isolate the leader " + n.Name
}

func (r *faultRun) isolateAny() string {
	n := r.any()
	r.s.Partition(n)
	return "isolate " + n.Name
}

func (r *faultRun) oneWay() string {
	a, b := r.any(), r.any()
	r.s.Cut(a, b)
	return "cut " + a.Name + " to " + b.Name
}

func (r *faultRun) lose() string {
	n, part := r.any(), 0.01+0.2*r.rnd.Float64()
	r.s.Lossy(n, part)
	return fmt.Sprintf("lose %.0f %% at %s", 100*part, n.Name)
}

func (r *faultRun) delay() string {
	n, delay, jitter := r.any(), r.between(0, 300*time.Millisecond), r.between(1, 200*time.Millisecond)
	r.s.Slow(n, delay, jitter)
	return fmt.Sprintf("delay %v ± %v at %s", delay, jitter, n.Name)
}

// unsynced is how much of what was not synced survives a power cut: often
// nothing, sometimes all.
func (r *faultRun) unsynced() int { return []int{0, 0, 30, 70, 100}[r.rnd.IntN(5)] }

func (r *faultRun) kill(n *Node) string {
	percent := r.unsynced()
	n.Kill(percent)
	return fmt.Sprintf(" %s(%d%%)", n.Name, percent)
}

func (r *faultRun) killMinority() string {
	text := "kill"
	most := 1 + r.rnd.IntN((len(r.s.nodes)-1)/2)
	for _, i := range r.rnd.Perm(len(r.s.nodes))[:most] {
		text += r.kill(r.s.nodes[i])
	}
	return text
}

func (r *faultRun) killLeader() string { return "kill the leader" + r.kill(r.leader()) }

func (r *faultRun) killAtWrite() string {
	n, count, percent := r.any(), 1+r.rnd.IntN(60), r.unsynced()
	n.KillAtWrite(count, percent)
	return fmt.Sprintf("kill %s(%d%%) at change %d of its disk", n.Name, percent, count)
}

func (r *faultRun) killAll() string {
	text := "kill all:"
	for _, n := range r.s.nodes {
		text += r.kill(n)
	}
	return text
}

func (r *faultRun) restart() string {
	n := r.any()
	n.Stop()
	n.Start()
	return "restart " + n.Name
}

func (r *faultRun) changeSet() string { return r.op.act(r.least) }

// honest are the nodes whose word counts.
func (r *faultRun) honest() []*Node {
	return slices.DeleteFunc(slices.Clone(r.s.nodes), func(n *Node) bool { return r.suspect != nil && n == r.suspect.node })
}

// betray gives the traitor another way to betray the others, or ends it.
func (r *faultRun) betray() string {
	name := r.suspect.node.Name
	r.repent()
	if r.rnd.IntN(4) == 0 {
		return name + " is honest for a while"
	}
	return r.conspire()
}

func (r *faultRun) conspire() string {
	t := treasons[r.rnd.IntN(len(treasons))]
	r.plot = r.s.betray(t, r.rnd.Uint64(), r.suspect)
	return r.suspect.node.Name + " " + t.name
}

// repent makes the traitor an honest node.
func (r *faultRun) repent() {
	if r.suspect != nil && r.plot != nil {
		r.suspect.plot.Store(nil)
		r.struck += r.plot.count()
		r.plot = nil
	}
}

// settle ends all faults and waits until the chain goes on and all agree.
func (r *faultRun) settle() {
	s := r.s
	s.Heal()
	r.repent()
	for _, n := range s.nodes {
		n.KillAtWrite(0, 0)
		if !n.Alive() {
			n.Start()
		}
	}
	r.note("faults end, %d messages of a traitor were false", r.struck)
	r.load.Stop()
	since := time.Now()
	for _, n := range s.nodes {
		r.probe(n, since)
	}
	r.note("every node commits, after %v", time.Since(since))
	var equal time.Time
	var head uint64
	s.Until("all heads are equal and stay so", settleIn, func() bool {
		r.supervise()
		h, same := s.heads()
		if !same || h != head {
			equal, head = time.Now(), h
			return false
		}
		return time.Since(equal) >= calm
	})
	r.note("all agree on height %d, after %v", head, time.Since(since))
}

// probe writes one record at n, again and again until it is committed.
func (r *faultRun) probe(n *Node, since time.Time) {
	rec := &consortium.Record{Nonce: 1, Subject: "probe/" + n.Name, MediaType: "text/plain"}
	rec.Sign(n.Key, r.s.genesis.Hash())
	for {
		before := r.load.count(checker.Committed)
		r.load.write(n, rec, parley.Committed)
		if r.load.count(checker.Committed) > before {
			return
		}
		if time.Since(since) > settleIn {
			r.s.Until("a record at "+n.Name+" is committed", 0, func() bool { return false })
		}
		time.Sleep(100 * time.Millisecond)
		r.supervise()
	}
}

// supervise starts again what ended by itself, as a supervisor does.
func (r *faultRun) supervise() {
	for _, n := range r.s.nodes {
		if !n.Alive() {
			r.note("%s ended by itself, and starts", n.Name)
			n.Start()
		}
	}
}

// heads is the highest head, and whether all nodes have it.
func (s *Swarm) heads() (height uint64, same bool) {
	same = true
	hash := ""
	for _, n := range s.nodes {
		n.Use(func(p *parley.Node) {
			head := p.Status().Head
			height = max(height, head.Height)
			same = same && (hash == "" || hash == head.Hash.String())
			hash = head.Hash.String()
		})
	}
	return height, same
}

// check cuts the power of all, and judges what is left on the disks.
func (r *faultRun) check() {
	t := r.s.T
	for _, n := range r.s.nodes {
		n.Kill(0)
	}
	for _, n := range r.s.nodes {
		n.Stop()
		n.runs[len(n.runs)-1].Whole = true // it was at rest
	}
	report := r.s.judge(r.load, r.honest()...)
	r.note("%s", report)
	if report.OK() {
		t.Log(report)
	} else {
		t.Error(report)
	}
}

// --- what a run leaves ---

func (r *faultRun) open(t *testing.T, seed uint64) {
	name := fmt.Sprintf("seed-%d", seed)
	base := os.Getenv("SWARM_DIR")
	var err error
	if base == "" {
		r.dir, err = os.MkdirTemp("", "swarm-"+name+"-") //nolint:usetesting // what failed is kept
	} else {
		r.dir = filepath.Join(base, name)
		err = os.MkdirAll(r.dir, 0o700)
	}
	if err == nil {
		r.log, err = os.Create(filepath.Join(r.dir, "faults.log"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// note writes a line of the fault log at once: a panic must not lose it.
func (r *faultRun) note(format string, args ...any) {
	fmt.Fprintf(r.log, "%9.3f "+format+"\n", append([]any{time.Since(r.began).Seconds()}, args...)...)
}

// tee writes the node's log to a file as well, at once.
func (r *faultRun) tee(n *Node) {
	f, err := os.Create(filepath.Join(r.dir, n.Name+".log"))
	if err != nil {
		r.s.T.Fatal(err)
	}
	r.s.T.Cleanup(func() { _ = f.Close() })
	n.Log.tee = f
}

// keep copies journal and stores beside the logs.
func (r *faultRun) keep() {
	if b, err := os.ReadFile(r.load.path); err == nil {
		_ = os.WriteFile(filepath.Join(r.dir, "journal.jsonl"), b, 0o600)
	}
	for _, n := range r.s.nodes {
		n.Kill(0)
		n.Stop()
		if _, err := vfs.Clone(n.disk, vfs.Default, n.cfg.DataDir, filepath.Join(r.dir, n.Name)); err != nil {
			r.note("keep %s: %v", n.Name, err)
		}
	}
}

func (r *faultRun) close(t *testing.T) {
	_ = r.log.Close()
	if r.good && os.Getenv("SWARM_KEEP") == "" {
		_ = os.RemoveAll(r.dir)
		return
	}
	b, _ := os.ReadFile(filepath.Join(r.dir, "faults.log"))
	t.Logf("run this seed again with SWARM_SEED; what it left is in %s\n%s", r.dir, b)
}
