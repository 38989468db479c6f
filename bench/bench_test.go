package main

import (
	"context"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/devnet"
)

func TestMain(m *testing.M) {
	if beServer() { // sections run their servers as this binary once more
		return
	}
	os.Exit(m.Run())
}

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // unsorted
	}
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.5, 7},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %v, want %v", c.q, c.values, got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("quantile has sorted its argument")
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.126: "0.13", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100",
		999: "999", 1000: "1,000", 12345.6: "12,346", 99_949: "99,949", 260_548: "261k", 1_234_567: "1,235k", -2: "-2.00"} {
		if got := number(v); got != want {
			t.Errorf("number %v is %q, want %q", v, got, want)
		}
	}
	f := figure{30, 10, 20}
	if got := f.text(); got != "20.0 (10.0–30.0)" {
		t.Errorf("text is %q", got)
	}
	if got := (figure{}).text(); got != "–" {
		t.Errorf("text of nothing is %q", got)
	}
	if got := f.over(figure{10, 0, 40}); len(got) != 2 || got[0] != 3 || got[1] != 0.5 {
		t.Errorf("ratio is %v", got)
	}
	b, err := json.Marshal(f)
	if err != nil || string(b) != `{"median":20,"min":10,"max":30,"runs":[30,10,20]}` {
		t.Errorf("JSON is %s, %v", b, err)
	}
	if got := sixDigits(1234567.8); got != 1234570 {
		t.Errorf("six digits of it are %v", got)
	}
	if got := sixDigits(math.Inf(1)); got != 0 {
		t.Errorf("infinity is %v", got) // JSON has none
	}
}

func TestSpread(t *testing.T) {
	if got := spread(figure{10, 12, 10, 12}); math.Abs(got-2.0/11) > 1e-9 {
		t.Errorf("spread is %v", got)
	}
	if got := spread(figure{10}); got != 0 {
		t.Errorf("spread of one run is %v", got)
	}
}

func TestParseStat(t *testing.T) {
	line := "4711 (par) ley (x) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20"
	if got, err := parseStat([]byte(line)); err != nil || got != 175 {
		t.Errorf("ticks are %d, %v: want 175", got, err)
	}
	for _, bad := range []string{"", "1 (x) S 1 2", strings.Replace(line, "150", "many", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q has ticks", bad)
		}
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		l := &lab{nodes: []devnet.Node{{Name: "me", PID: os.Getpid()}}}
		if _, err := l.cpu(); err != nil {
			t.Error(err)
		}
	}
}

func signed(t *testing.T, n int) (*signer, []record) {
	t.Helper()
	s, err := newSigner(chain.Hash{1}, 256)
	if err != nil {
		t.Fatal(err)
	}
	return s, s.sign(n)
}

// TestBareStore writes 200 records as blocks and reads them back the way a
// node's ledger is read.
func TestBareStore(t *testing.T) {
	_, records := signed(t, 200)
	dir := t.TempDir()
	s, err := openStore(filepath.Join(dir, "ledger"), 3)
	if err != nil {
		t.Fatal(err)
	}
	rate, err := s.writeAll(records, 64, 0)
	if err != nil || rate <= 0 {
		t.Errorf("rate is %v, %v", rate, err)
	}
	if s.height != 4 { // 64, 64, 64, 8
		t.Errorf("%d blocks, want 4", s.height)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	held, err := stored(dir)
	if err != nil {
		t.Fatal(err)
	}
	if lost, err := missing(records, held); lost != 0 || err != nil {
		t.Errorf("%d are missing, %v", lost, err)
	}
	for i, r := range records {
		if held[i] != r.id {
			t.Fatalf("record %d is out of order", i)
		}
	}
	if lost, err := missing(records, held[5:]); lost != 5 || err != nil {
		t.Errorf("%d are missing, %v: want 5", lost, err)
	}
	if _, err := missing(records, append(held, held[0])); err == nil {
		t.Error("a record that is there twice is not seen")
	}
	if _, err := missing(records[1:], held); err == nil {
		t.Error("a record that nobody acknowledged is not seen")
	}
	if sameOrder(held, held[:199], 200) == nil || sameOrder(held, append(held[1:2:2], held[1:]...), 200) == nil || sameOrder(held, held[:199], 199) != nil {
		t.Error("order is compared wrongly")
	}
	if _, err := stored(t.TempDir()); err == nil {
		t.Error("no ledger is no error")
	}
}

func TestVerifyRate(t *testing.T) {
	s, records := signed(t, 20)
	if rate, err := verifyRate(records, s.genesis); err != nil || rate <= 0 {
		t.Errorf("rate is %v, %v", rate, err)
	}
	if _, err := verifyRate(records, chain.Hash{2}); err == nil {
		t.Error("a signature for another chain counts")
	}
}

// TestClosedLoop answers "later" now and then, with a part of a batch and with
// all of it: each record must come through, and once.
func TestClosedLoop(t *testing.T) {
	calls := 0
	taken := map[string]int{}
	l := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"status":503,"code":"syncing"}` + "\n"))
			return
		}
		dec := json.NewDecoder(r.Body)
		for i := 0; dec.More(); i++ {
			var d struct {
				Raw string `json:"raw"`
			}
			if dec.Decode(&d) != nil {
				t.Error("a line is no draft")
				return
			}
			if calls == 2 && i%2 == 0 {
				_, _ = w.Write([]byte(`{"status":"pending"}` + "\n"))
				continue
			}
			taken[d.Raw]++
			_, _ = w.Write([]byte(`{"id":"x","status":"committed"}` + "\n"))
		}
	})
	_, records := signed(t, 30)
	_, later, err := l.closedLoop(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	if len(taken) != len(records) || later == 0 {
		t.Errorf("%d of %d records taken, %d later", len(taken), len(records), later)
	}
	for _, n := range taken {
		if n != 1 {
			t.Errorf("a record was committed %d times", n)
		}
	}
}

func TestRefusedForGood(t *testing.T) {
	l := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"status":400,"detail":"bad signature"}` + "\n"))
	})
	_, records := signed(t, 1)
	if _, _, err := l.closedLoop(t.Context(), records); err == nil || !strings.Contains(err.Error(), "bad signature") {
		t.Errorf("error is %v", err)
	}
	if _, err := l.openLoop(t.Context(), records); err == nil || !strings.Contains(err.Error(), "bad signature") {
		t.Errorf("error is %v", err)
	}
}

func TestOpenLoop(t *testing.T) {
	l := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"status":"committed"}`))
	})
	_, records := signed(t, 10)
	begin := time.Now()
	took, err := l.openLoop(t.Context(), records)
	if err != nil || len(took) != 10 {
		t.Fatalf("%d latencies, %v", len(took), err)
	}
	if pace := time.Since(begin); pace < 9*time.Second/openPace {
		t.Errorf("10 records at %d a second took %s", openPace, pace)
	}
	for _, v := range took {
		if v <= 0 {
			t.Errorf("latency %v ms", v)
		}
	}
}

// serve is a lab with one node that answers one request at a time.
func serve(t *testing.T, h http.HandlerFunc) *lab {
	t.Helper()
	turn := make(chan struct{}, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn <- struct{}{}
		defer func() { <-turn }()
		h(w, r)
	}))
	t.Cleanup(s.Close)
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	}}}
	t.Cleanup(c.CloseIdleConnections)
	return &lab{nodes: []devnet.Node{{Name: "node1"}}, clients: map[string]*devnet.Client{"node1": {HTTP: c}}}
}

func TestReport(t *testing.T) {
	wide, share := figure{123_456, 99_949, 1_000_000}, figure{0.021, 0.0199, 1.105}
	full := func(nodes int) row {
		return row{Nodes: nodes, Body: 256, AgreeS: wide, FirstBlockS: wide, RecordsPS: wide, BlockRecords: wide, PebblePS: wide, PebbleX: share, ChecksPS: wide,
			ChecksX: share, CPUUS: wide, CPUNodeUS: wide, P50MS: wide, P99MS: wide, JoinS: wide, SyncS: wide, SyncPS: wide, SyncMBPS: wide,
			SyncPebblePS: wide, SyncX: share, Acked: 7, checksCore: figure{100, 130}}
	}
	r := &report{Harness: "loopback", Plan: whole, Rows: []row{full(1), full(3), full(4), full(7), {Nodes: 4, Body: 4096, RecordsPS: wide}},
		Stall:   &stallRow{Nodes: 4, HeartbeatS: 2, DeadS: figure{2.1, 2.2, 3.1, 2}, FastS: wide, CalmMS: wide, Acked: 1000},
		Machine: machine{CPU: "AMD EPYC", Cores: 2, OS: "linux/amd64", Go: "go1.26", Commit: "abc", Load: 3.5, Fsync: figure{0.1}}}
	r.finish(time.Now())
	text := r.honest() + r.tables()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
	for _, want := range []string{"1 node ", "4 nodes", "123k (99,949–1,000k)", "2.10 (1.99–110)", "LOADED", "NOISY", "missing on any node", "newcomer, 10,000 records, s", "commit abc", "7 nodes", "4,096 B", "stall of 4 validators", "≤ 3.0", "75 %"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	r.Machine.Load, r.AA, r.Checks = 0.3, 0.01, figure{100, 90}
	if quiet := r.honest(); strings.Contains(quiet, "LOADED") || strings.Contains(quiet, "NOISY") {
		t.Errorf("a quiet machine is called otherwise:\n%s", quiet)
	}
	dir := filepath.Join(t.TempDir(), "docs")
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "latest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Rows []struct {
			Nodes   int
			Missing *int
			Records struct{ Median float64 } `json:"records_s"`
		}
	}
	if err := json.Unmarshal(b, &back); err != nil || len(back.Rows) != 5 || back.Rows[2].Nodes != 4 || back.Rows[2].Missing == nil || back.Rows[2].Records.Median != 123_456 {
		t.Errorf("result file: %v\n%s", err, b)
	}
	page, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil || strings.Contains(string(page), "%!") {
		t.Errorf("page: %v\n%s", err, page)
	}
}

func TestChosen(t *testing.T) {
	for list, want := range map[string]string{"": "load stall sync announce addrbook discovery bans fanout rest sidecar", "stall": "stall", "stall, load": "stall load", "load,lod": "", "x": ""} {
		parts, err := chosen(list)
		var names []string
		for _, p := range parts {
			names = append(names, p.name)
		}
		if got := strings.Join(names, " "); got != want || (err == nil) != (want != "") {
			t.Errorf("-only %q measures %q, %v; want %q", list, got, err, want)
		}
	}
}

func TestNarrow(t *testing.T) {
	p := whole
	if err := p.narrow("1, 7", "4096", 3); err != nil || len(p.Nodes) != 2 || p.Nodes[1] != 7 || len(p.Bodies) != 1 || p.Stall.Fast != 3 || p.Stall.Dead != whole.Stall.Dead {
		t.Errorf("plan is %+v, %v", p, err)
	}
	for _, bad := range [][2]string{{"0", ""}, {"32", ""}, {"a", ""}, {"1,", ""}, {"", "65537"}, {"", "-1"}} {
		if err := new(plan).narrow(bad[0], bad[1], 0); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if new(plan).narrow("", "", -1) == nil {
		t.Error("-1 episodes are taken")
	}
	if p := whole.of(4096); p.Starts != 1 || p.Newcomers != 0 {
		t.Errorf("plan of the second body is %+v", p)
	}
	if p := whole.of(256); p.Starts != whole.Starts || p.Synced != whole.Synced {
		t.Errorf("plan of the first body is %+v", p)
	}
}

// TestProbes has one node that answers, and one that is spared while nothing is
// answered for a while: the stall ends with the first record submitted after its
// begin.
func TestProbes(t *testing.T) {
	var held sync.RWMutex // while it is locked, nothing is committed
	l := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"status":"committed"}`)) })
	l.nodes = append(l.nodes, devnet.Node{Name: "node2"})
	wait := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held.RLock()
		defer held.RUnlock()
		_, _ = w.Write([]byte(`{"status":"committed"}`))
	}))
	t.Cleanup(wait.Close)
	l.clients["node2"] = &devnet.Client{HTTP: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", wait.Listener.Addr().String())
	}}}}
	t.Cleanup(l.clients["node2"].HTTP.CloseIdleConnections)
	s, _ := signed(t, 0)
	p := probe(t.Context(), l, s)
	if err := p.settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.spare(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	const stall = 300 * time.Millisecond
	held.Lock()
	at := time.Now()
	time.AfterFunc(stall, held.Unlock)
	took, err := p.firstAfter(t.Context(), at)
	if err != nil || took < stall {
		t.Errorf("the stall lasted %s, %v; want %s at least", took, err, stall)
	}
	p.spareNobody()
	if err := p.settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	if len(p.acked) == 0 || len(p.latency) == 0 {
		t.Errorf("%d records, %d latencies", len(p.acked), len(p.latency))
	}
	if got := (figure{1, 2, 3, 5}).within(3); got != 0.75 {
		t.Errorf("%v are within, want 0.75", got)
	}
}
