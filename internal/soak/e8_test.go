//go:build attack

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

var (
	out     = flag.String("out", "", "directory for the table, such as docs/attack")
	commit  = flag.String("commit", "", "the commit that is measured, for the table")
	only    = flag.String("only", "", "the habits that are made, parted by commas; empty = all")
	victims = flag.String("victims", "B0,B1,ours", "who is attacked")
	sockets = flag.Int("sockets", 10_000, "slow sockets; a tenth of them where they finish the transport's handshake")
	count   = flag.Int("newcomers", 60, "honest newcomers a row")
	profile = flag.String("profile", "", "directory for profiles of our node under each flood")
)

const (
	e8Warm = 15 * time.Second       // the flood alone
	e8Each = 500 * time.Millisecond // between two newcomers
	e8Ops  = "127.0.0.1:9090"       // in the victim's space, where profiles are for everybody
)

// e8Row is what one victim got under one habit.
type e8Row struct {
	habit          string
	groups         int
	sockets        int
	victim         string
	took           []came
	cpu            float64 // cores that the victim used while they came
	fds, heap, rss float64 // most
	before         float64 // heap before the flood
	flood          floodTotals
}

// TestE8 holds slow sockets against a node and two stock hosts, each in turn,
// in namespaces over TCP.
func TestE8(t *testing.T) {
	needsLab(t)
	var rows []e8Row
	for _, a := range []struct {
		habit   string
		groups  int
		sockets int
		ours    bool // it is no attack on a stock host
	}{
		{"none", 0, 0, false},
		{halfOpen, 32, *sockets, false},
		{slowly, 32, *sockets, false},
		{slowly, 1024, *sockets, false},
		{unread, 32, *sockets / 10, false},
		{unreadOur, 32, *sockets / 10, true},
	} {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), a.habit) {
			continue
		}
		for _, victim := range strings.Split(*victims, ",") {
			if a.ours && victim != "ours" {
				continue
			}
			r := e8Row{habit: a.habit, groups: a.groups, sockets: a.sockets, victim: victim}
			t.Run(fmt.Sprintf("%s, %d groups, %s", a.habit, a.groups, victim), func(t *testing.T) { r.run(t) })
			t.Log(r.String())
			rows = append(rows, r)
			if t.Failed() {
				return
			}
		}
	}
	page := e8Page(rows)
	fmt.Println(page)
	if *out != "" {
		if err := os.WriteFile(filepath.Join(*out, "E8.md"), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *e8Row) run(t *testing.T) {
	w := newWorld(t, 1, nil, func(_ int, _ string, c map[string]any) {
		c["discovery"] = map[string]any{"dht": "off", "pex": false}
		c["ops"] = map[string]any{"listen": e8Ops, "pprof": true}
	})
	ctx := t.Context()
	// Ten thousand addresses are behind one neighbour, and need no interface.
	if err := ip(ctx, w.net.space(1), "route replace default via "+placeOf(2)+" dev eth0 onlink"); err != nil {
		t.Fatal(err)
	}
	if err := ip(ctx, w.net.space(2), "route add local 20.0.0.0/6 dev lo", "route add local 24.0.0.0/8 dev lo"); err != nil {
		t.Fatal(err)
	}
	id := r.start(t, w)
	idle := w.processID(t, "e8-beside", besideOrder{placeOf(1)})
	r.before = r.sample(t, w)["go_memstats_heap_inuse_bytes"]
	var end func() []byte
	if r.sockets > 0 {
		end = w.role(t, 2, "e8-flood", floodOrder{Habit: r.habit, Sockets: r.sockets, Groups: r.groups,
			Victim: fmt.Sprintf("%s:%d", placeOf(1), p2pPort), ID: id, Status: w.status()})
	}
	measured, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for measured.Err() == nil {
			m := r.sample(t, w)
			r.fds, r.heap = max(r.fds, m["process_open_fds"]), max(r.heap, m["go_memstats_heap_inuse_bytes"])
			r.rss = max(r.rss, m["process_resident_memory_bytes"])
			pause(measured, time.Second)
		}
	}()
	pause(ctx, e8Warm)
	work, begin := r.sample(t, w)["process_cpu_seconds_total"], time.Now()
	profiled := r.profiles(ctx, w)
	at := func(port int, id peer.ID) string { return fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", placeOf(1), port, id) }
	answer := w.role(t, 2, "e8-honest", honestOrder{Victim: at(p2pPort, id), Beside: at(besidePort, idle),
		Echo: fmt.Sprintf("%s:%d", placeOf(1), echoPort), Each: e8Each, Count: *count})()
	r.cpu = (r.sample(t, w)["process_cpu_seconds_total"] - work) / time.Since(begin).Seconds()
	stop()
	<-done
	<-profiled
	if err := json.Unmarshal(answer, &r.took); err != nil {
		t.Fatalf("newcomers: %v: %s", err, answer)
	}
	if end != nil {
		if err := json.Unmarshal(end(), &r.flood); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts the victim in the first space, and tells its id.
func (r *e8Row) start(t *testing.T, w *world) peer.ID {
	t.Helper()
	if r.victim == "ours" {
		w.start(w.nodes[0])
		id, err := w.nodes[0].key.PeerID()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	return w.processID(t, "e8-stock", stockOrder{At: placeOf(1), Limited: r.victim == "B1"})
}

// processID starts a process in the victim's space that prints its id.
func (w *world) processID(t *testing.T, role string, order any) peer.ID {
	t.Helper()
	lines := w.process(t, 1, role, order)
	var text string
	if _, err := fmt.Fscanln(lines.out, &text); err != nil {
		t.Fatal(err)
	}
	id, err := peer.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// profiles keeps what our node does while it is flooded.
func (r *e8Row) profiles(ctx context.Context, w *world) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		if *profile == "" || r.victim != "ours" {
			return
		}
		for _, kind := range []string{"profile?seconds=10", "goroutine?debug=1", "heap", "allocs"} {
			text, err := w.fetch(ctx, "http://"+e8Ops+"/debug/pprof/"+kind)
			name, _, _ := strings.Cut(kind, "?")
			if err == nil {
				err = os.WriteFile(filepath.Join(*profile, fmt.Sprintf("%s-%d-%s", strings.ReplaceAll(r.habit, " ", "-"), r.groups, name)), text, 0o600)
			}
			if err != nil {
				w.t.Errorf("profile %s: %v", kind, err)
			}
		}
	}()
	return done
}

// fetch reads a page in the victim's space.
func (w *world) fetch(ctx context.Context, url string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", w.net.space(1), os.Args[0], url)
	cmd.Env = append(os.Environ(), "SOAK_TEST_ROLE=fetch")
	return cmd.Output()
}

// sample reads the victim's metrics. A victim that does not answer in time has
// none.
func (r *e8Row) sample(t *testing.T, w *world) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	text, _ := w.fetch(ctx, "http://"+e8Ops+"/metrics")
	m := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if name, number, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			m[name], _ = strconv.ParseFloat(number, 64)
		}
	}
	return m
}

// process is a role of this program in a space.
type process struct {
	cmd *exec.Cmd
	in  io.Closer
	out io.Reader
}

func (w *world) process(t *testing.T, space int, role string, order any) *process {
	t.Helper()
	arg, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", w.net.space(space), os.Args[0], string(arg)) //nolint:noctx // it ends with its input, or its space
	cmd.Env = append(os.Environ(), "SOAK_TEST_ROLE="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &process{cmd, in, out}
}

// role starts a process; end closes its input and gives what it printed.
func (w *world) role(t *testing.T, space int, role string, order any) (end func() []byte) {
	t.Helper()
	p := w.process(t, space, role, order)
	return func() []byte {
		_ = p.in.Close()
		text, err := io.ReadAll(p.out)
		if err != nil {
			t.Error(err)
		}
		return bytes.TrimSpace(text)
	}
}

// in counts who got in.
func (r *e8Row) in() (n int) {
	for _, c := range r.took {
		if c.Victim > 0 {
			n++
		}
	}
	return n
}

// cut is how often newcomers were cut, all together.
func (r *e8Row) cut() (n int) {
	for _, c := range r.took {
		n += c.Cut
	}
	return n
}

// quantile is a share of the times that of picks; who gave up took for ever.
func (r *e8Row) quantile(q float64, of func(came) time.Duration) string {
	var list []time.Duration
	for _, c := range r.took {
		d := of(c)
		if d == 0 {
			d = time.Hour
		}
		list = append(list, d)
	}
	slices.Sort(list)
	d := list[min(len(list)-1, int(q*float64(len(list))))]
	if d == time.Hour {
		return "never"
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func (r *e8Row) String() string {
	groups := fmt.Sprintf("%d groups", r.groups)
	if r.sockets == 0 {
		groups = "–"
	}
	victim := map[string]string{"B0": "B0: libp2p, all defaults", "B1": "B1: 32 connections per /24", "ours": "ours"}[r.victim]
	times := func(of func(came) time.Duration) string { return r.quantile(.5, of) + " / " + r.quantile(.99, of) }
	return fmt.Sprintf("| %s | %d | %s | %s | %d of %d | %s | %d | %s | %s | %.0f | %.0f → %.0f MiB | %.0f MiB | %.2f | %d |", r.habit, r.sockets, groups, victim,
		r.in(), len(r.took), times(func(c came) time.Duration { return c.Victim }), r.cut(), times(func(c came) time.Duration { return c.Beside }),
		times(func(c came) time.Duration { return c.Echo }), r.fds, r.before/(1<<20), r.heap/(1<<20), r.rss/(1<<20), r.cpu, r.flood.Connects)
}

func e8Page(rows []e8Row) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# E8: slow peers

Up to %d sockets are held by peers that are slow: they say nothing, they take a second for each byte of the handshake, or
they finish it, ask on 32 streams and read no answer. A socket that is closed comes back after 2 to 8 s. Meanwhile %d
honest newcomers, one each %s and each in a group of its own, dial and wait for an answered ping; a newcomer that is cut
tries again after 200 ms, and gives up after %s. Processes in network namespaces over TCP, addresses that look public
(netns); the victim is a stock host (B0, B1) or a node as it ships, each started anew for its row, flooded for %s
before the first newcomer. Most of one sample a second.

Beside the victim, in its namespace and under the same flood of the machine, stand a stock host and a bare echo over TCP
that nobody attacks, and each newcomer dials them too: no victim can be faster than the machine is.

| attackers | sockets | from | victim | newcomers in | median / p99 | cut | host beside | bare TCP echo | files | heap in use, before → most | memory | victim's cores | connects of attackers |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`, *sockets, *count, e8Each, patience, e8Warm)
	for _, r := range rows {
		fmt.Fprintln(&b, r.String())
	}
	fmt.Fprint(&b, e8Words)
	if c := strings.TrimSpace(*commit); c != "" {
		fmt.Fprintf(&b, "Commit %s.\n", c)
	}
	return b.String()
}

const e8Words = `
"cut" is how often newcomers had to try again, all together; "victim's cores" is its CPU time while they came. The aim: heap
bounded, p99 of newcomers at most 1 s. With a few dozen newcomers p99 is the slowest one. One run a row.

What decides it: a muxer takes and deciphers 256 KiB of each stream that a stranger opens, read or not, so who asks on 32
streams cost 8 MiB of memory and CPU a connection. A connection over TCP now carries 512 KiB until its peer has greeted. Where one of those in a
handshake makes room, the parts of the network that lost one in the last minute go first, so that a flood is told from
newcomers though it comes one by one from many parts. And parts that nobody came from for a minute have a reserve of
arrivals (1,024 groups).

Rows where we lose: none of these. A machine whose cores are taken by other work is not among the rows: there a flooded
victim waits for them longer than the hosts beside it, which sleep. A flood that has new groups all the time, more than fifty a second
that were silent for a minute, uses up the reserve and looks like newcomers; greeted slow readers have places, and hold up
to 12 MiB each.

What this does not show: victim, flood and newcomers share the machine, so times are an upper bound. QUIC is not flooded:
its own window bounds what a stranger sends unread to 768 KiB a connection.
`
