package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/devnet"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

// TestMain is a program too, which the tests start inside of a namespace.
func TestMain(m *testing.M) {
	if role := os.Getenv("SOAK_TEST_ROLE"); role != "" {
		if err := play(role, os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if dir := filepath.Dir(binaryOnce.path); dir != "." {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// roles of attack experiments; each has one argument.
var roles = map[string]func(arg string) error{}

// play says words to an address by UDP, tells what it hears there, makes a
// network and waits for its end, fetches a page or is a crowd.
func play(role, addr string, words []string) error {
	if f := roles[role]; f != nil {
		return f(addr)
	}
	switch role {
	case "crowd":
		return gather()
	case "fetch":
		return fetch(addr)
	}
	if role == "network" {
		w, err := newNetwork(context.Background(), 1)
		if err == nil {
			fmt.Println(w.space(1))
			_, err = io.ReadAll(os.Stdin)
		}
		return err
	}
	if role == "say" {
		c, err := net.Dial("udp", addr)
		if err == nil {
			_, err = c.Write([]byte(words[0]))
		}
		return err
	}
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	b := make([]byte, 100)
	n, _, err := c.ReadFrom(b)
	fmt.Println(string(b[:n]))
	return err
}

// needsLab skips where there can be no network namespaces. Root in CI can:
// there the test must not vanish.
func needsLab(t *testing.T) {
	t.Helper()
	why := able(t.Context())
	switch {
	case why == "":
	case os.Getenv("CI") == "true" && os.Geteuid() == 0:
		t.Fatal(why)
	default:
		t.Skip(why)
	}
	if err := sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRound kills, cuts and tears real nodes under load, and nothing is lost.
// Then it plants losses, which must be found.
func TestRound(t *testing.T) {
	t.Parallel()
	needsLab(t)
	dir := t.TempDir()
	binary := parleyBinary(t)
	p := plan{Seed: 11, Validators: 3, Followers: 1, Clients: 4, SmallDisk: true, Wipe: true, Accept: true, Hurry: true,
		Script: []string{"torn wal", "leader restarted", "partition", "full disk", "read-only disk", "torn ledger",
			"replace validator", "flip", "restore", "kill all"}}
	var out bytes.Buffer
	r := newRound(p, filepath.Join(dir, "lab"), &out)
	var err error
	if r.lab, err = newLab(t.Context(), r.dir, binary, p.Validators, p.Followers); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.lab.close(context.WithoutCancel(t.Context()), t.Failed()); err != nil {
			t.Error(err)
		}
	}()
	if err := r.run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Logf("%s%s", out.String(), r.totals.table())
	sum := r.totals
	if len(sum.Misses) > 0 || sum.Lost+sum.Duplicated+sum.Disagreements > 0 {
		for _, n := range r.lab.nodes {
			t.Logf("%s: %s", n.name, n.lastWords())
		}
		t.Fatal("a promise was broken")
	}
	if sum.Acknowledged == 0 || sum.Committed == 0 || sum.Kills < 8 || sum.Cuts != 1 || sum.Torn != 2 || sum.Full+sum.ReadOnly != 2 {
		t.Fatal("this round proves nothing")
	}
	plant(t, r)
}

// plant tells the journal what no node holds, and wants the verdict red.
func plant(t *testing.T, r *round) {
	t.Helper()
	told, err := os.ReadFile(r.journal())
	if err != nil {
		t.Fatal(err)
	}
	j, err := checker.OpenJournal(r.journal(), false)
	if err != nil {
		t.Fatal(err)
	}
	var fake chain.Hash
	fake[0] = 1
	for line := range bytes.Lines(told) { // one that is on the chain, said to stand elsewhere
		var e checker.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == checker.Committed {
			e.Index += 1000
			err = errors.Join(j.Write(e), j.Write(checker.Entry{Kind: checker.Submit, Node: "n1", ID: fake}),
				j.Write(checker.Entry{Kind: checker.Committed, Node: "n1", ID: fake, Height: e.Height, Block: e.Block}), j.Close())
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	before := r.totals.Lost
	if err := r.verdict(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lost := r.totals.Lost - before; lost != 2 || len(r.totals.Misses) != 1 {
		t.Errorf("two records were planted as lost, and the verdict found %d: %q", lost, r.totals.Misses)
	}
	plantSilence(t, r, told)
}

// plantSilence takes away what a node told last, and wants the verdict red.
func plantSilence(t *testing.T, r *round, journal []byte) {
	t.Helper()
	if err := os.WriteFile(r.journal(), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	silent := r.lab.nodes[0]
	runs := r.watch.runs[silent]
	last := runs[len(runs)-1]
	if !last.Whole || last.Start == 0 {
		t.Fatalf("%s was heard until it rested: %t, from height %d on", silent.name, last.Whole, last.Start)
	}
	r.totals.Misses = nil
	*last = checker.Run{Whole: true, Start: last.Start} // the load went on after its last start
	if err := r.verdict(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := r.totals.Misses; len(m) != 1 || !strings.Contains(m[0], "the head was never told") {
		t.Errorf("%s told nothing of the blocks after height %d, and the verdict found %q", silent.name, last.Start, m)
	}
}

func TestJudge(t *testing.T) {
	height, index := uint64(7), uint32(3)
	hash := chain.Hash{1}
	for _, c := range []struct {
		status int
		err    error
		got    parley.Record
		want   checker.Kind
	}{
		{http.StatusOK, nil, parley.Record{Status: "committed", Height: &height, Index: &index, BlockHash: &hash}, checker.Committed},
		{http.StatusOK, nil, parley.Record{Status: "committed"}, checker.Unknown},
		{http.StatusAccepted, nil, parley.Record{Status: "pending"}, checker.Accepted},
		{http.StatusGone, &devnet.Refusal{Reason: "expired"}, parley.Record{}, checker.Rejected},
		{http.StatusConflict, &devnet.Refusal{Reason: "expired"}, parley.Record{}, checker.Refused},
		{http.StatusServiceUnavailable, &devnet.Refusal{Reason: "mempool_full"}, parley.Record{}, checker.Refused},
		{http.StatusInternalServerError, &devnet.Refusal{Detail: "broken"}, parley.Record{}, checker.Unknown},
		{0, io.ErrUnexpectedEOF, parley.Record{}, checker.Unknown},
	} {
		if e := judge(c.status, c.err, c.got); e.Kind != c.want {
			t.Errorf("answer %d %v %q is %s, want %s", c.status, c.err, c.got.Status, e.Kind, c.want)
		}
	}
}

func TestGap(t *testing.T) {
	w, t0 := newWatch(), time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	for i, ms := range []int{0, 100, 900, 1000} {
		w.commit(uint64(i+1), at(ms))
	}
	w.commit(2, at(1100)) // another node tells of it later
	for _, c := range []struct{ from, to, want int }{{50, 1000, 800}, {50, 1050, 800}, {50, 3000, 2000}, {910, 1010, 90}, {1200, 1300, 100}} {
		if got := w.gap(at(c.from), at(c.to)); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("gap from %d to %d is %s, want %d ms", c.from, c.to, got, c.want)
		}
	}
	if blocks, first := w.since(at(500)); blocks != 2 || first != at(900) {
		t.Errorf("since 500 ms: %d blocks, the first at %s", blocks, first)
	}
}

// TestWatch: a run begins with the height that the stream was opened at, and is
// whole where the stream goes on while all nodes rest.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", parley.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	streams := make(chan string)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // a test of ours
		for data := <-streams; data != ""; data = <-streams {
			_, _ = fmt.Fprintf(w, "data: %s\n\n", data)
			_ = http.NewResponseController(w).Flush()
		}
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	w, n := newWatch(), &node{name: "n1", api: devnet.NewClient(dir)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.follow(ctx, n) })
	defer wg.Wait()
	defer cancel()
	for _, data := range []string{
		`{"type":"hello","data":{"seq":7,"snapshot":{"chain":null}}}`, "", // a process before it knows its chain
		`{"type":"hello","data":{"seq":9,"snapshot":{"chain":{"height":5}}}}`, `{"type":"block.stored","data":{"height":6}}`,
	} {
		streams <- data
	}
	for w.head() < 6 {
		time.Sleep(time.Millisecond)
	}
	w.rest()
	got := w.told(n)
	if len(got) != 2 || got[0].Whole || got[0].Start != 0 || !got[1].Whole || got[1].Start != 5 {
		t.Errorf("runs %+v, want one that ended, and one from height 5 on", got)
	}
	w.forget(n)
	if got := w.told(n); len(got) != 1 || got[0].Whole {
		t.Errorf("runs %+v of a new store, want one that is not whole", got)
	}
	streams <- ""
}

func TestPlanIsOfItsSeed(t *testing.T) {
	kinds := map[int]bool{}
	for seed := range uint64(50) {
		p := newPlan(seed, time.Minute)
		if !reflect.DeepEqual(p, newPlan(seed, time.Minute)) {
			t.Fatalf("seed %d gives two plans", seed)
		}
		kinds[p.Validators] = true
	}
	if len(kinds) < 5 {
		t.Errorf("50 seeds give %d sizes only", len(kinds))
	}
}

func TestOnly(t *testing.T) {
	if _, err := parseFaults("kill,earthquake"); err == nil || !strings.Contains(err.Error(), `"earthquake"`) {
		t.Errorf("a fault that is none: %v", err)
	}
	only, err := parseFaults("kill,wipe")
	if err != nil {
		t.Fatal(err)
	}
	r := newRound(plan{Only: only}, "", io.Discard)
	r.load, r.lab = &load{}, &lab{}
	for range 20 {
		if f := r.draw(); f.name != "kill" { // nobody may be wiped in this plan
			t.Fatalf("drew %q", f.name)
		}
	}
	r.Only = []string{"wipe"}
	if f := r.draw(); f.name != "rest" {
		t.Errorf("drew %q, where nothing may be drawn", f.name)
	}
}

func TestTearTail(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	if torn, err := tearTail(dir, "*.wal", r); torn || err != nil {
		t.Fatalf("nothing to tear: %t %v", torn, err)
	}
	for name, text := range map[string]string{"01.wal": "old", "02.wal": "new"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		if torn, err := tearTail(dir, "*.wal", r); !torn || err != nil {
			t.Fatalf("tear: %t %v", torn, err)
		}
	}
	before, _ := os.ReadFile(filepath.Join(dir, "01.wal"))
	after, _ := os.ReadFile(filepath.Join(dir, "02.wal"))
	if string(before) != "old" || !bytes.HasPrefix(after, []byte("new")) || len(after) < 53 || len(after) > 3+50*maxTear {
		t.Errorf("torn into %q and %d bytes", before, len(after))
	}
}

func TestTotals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "soak.json")
	if s, err := readState(path); s != nil || err != nil {
		t.Fatalf("no state: %v %v", s, err)
	}
	var dead Samples
	for i := range maxSamples + 5 {
		dead.add(time.Duration(i) * time.Millisecond)
	}
	if len(dead) != maxSamples || dead[0] != 5 || dead.quantile(0.5) != 5004 || dead.quantile(1) != maxSamples+4 {
		t.Errorf("%d samples from %v, median %v, longest %v", len(dead), dead[0], dead.quantile(0.5), dead.quantile(1))
	}
	s := &state{Format: stateFormat, Seed: 5, Totals: Totals{Rounds: 1, Kills: 3, Dead: Samples{1000, 2000}}}
	if err := s.write(path); err != nil {
		t.Fatal(err)
	}
	again, err := readState(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Totals.join(Totals{Rounds: 1, Kills: 4, Lost: 1, Dead: Samples{9000}, Misses: []string{"seed 6: lost"}})
	text := again.Totals.table()
	for _, want := range []string{"2 in", "kill -9                            7\n", "longest 9.0 s, of 3; 66 % within 3 s", "seed 6: lost"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
	if err := os.WriteFile(path, []byte(`{"format":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readState(path); err == nil || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("a state of another format: %v", err)
	}
}
