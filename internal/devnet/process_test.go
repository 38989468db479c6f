package devnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
)

// TestMain is also the node that the tests start: called like one, this binary
// answers like one.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "run" && os.Args[2] == "--config" {
		if err := standIn(os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn answers like a node of a devnet until it is interrupted. A file
// "behave" in its data directory makes it fail.
func standIn(path string) error {
	c, err := config.Load(config.LoadArgs{File: path, Environ: os.Environ()})
	if err != nil {
		return err
	}
	behave, _ := os.ReadFile(filepath.Join(c.DataDir, "behave")) // none = well
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT)
	switch string(behave) {
	case "exit":
		return errors.New("the disk is made of cheese")
	case "deaf":
		signal.Ignore(syscall.SIGINT)
	}
	// The port is kept, as a node does.
	tcp, err := net.Listen("tcp", c.API.Listen[0])
	if err != nil {
		return err
	}
	defer tcp.Close()
	socket := parley.SocketPath(c.DataDir)
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, standInAPI(c.Config)) }()
	fmt.Println(c.Node.Name, "started")
	<-stop
	return l.Close()
}

func standInAPI(c config.Config) http.Handler {
	var records atomic.Uint64
	var peers atomic.Int64
	peers.Store(int64(len(c.P2P.StaticPeers)))
	mux := http.NewServeMux()
	answer := func(pattern string, f func(r *http.Request) any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(f(r)) })
	}
	id, _ := consortium.PublicKey{1}.PeerID() // any will do
	head := &parley.StatusHead{Height: 7, Hash: chain.Hash{7}}
	answer("GET /api/v1/status", func(*http.Request) any {
		role := RoleValidator
		if c.Consortium.GenesisFile == "" {
			role = RoleFollower
		}
		return parley.Status{Name: c.Node.Name, PeerID: id, Role: role, Verdict: "healthy", Head: head,
			Peers: parley.StatusPeers{Outbound: int(peers.Load())}, Sync: parley.Sync{State: "synced"}}
	})
	answer("GET /api/v1/chain/validators", func(*http.Request) any {
		// As if node4, who was added, had taken the place of node3.
		var set []parley.Validator
		for _, name := range []string{"node1", "node2", "node4"} {
			set = append(set, parley.Validator{Name: name, Key: consortium.PublicKey{1}, Peer: id})
		}
		return map[string]any{"items": set}
	})
	answer("GET /api/v1/chain", func(*http.Request) any { return parley.Chain{RecordCount: records.Load()} })
	mux.HandleFunc("POST /api/v1/records", func(w http.ResponseWriter, _ *http.Request) {
		switch n := records.Add(1); {
		case n%10 == 3:
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"status":429,"code":"PLY-017","detail":"the mempool is full"}`))
		case n == 5:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"status":400,"code":"PLY-017","detail":"no such luck"}`))
		default:
			_ = json.NewEncoder(w).Encode(parley.Record{Status: "committed"})
		}
	})
	mux.HandleFunc("POST /api/v1/devnet/partition", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Groups [][]string }
		mine := func(group []string) bool { return slices.Contains(group, c.Node.Name) }
		if json.NewDecoder(r.Body).Decode(&body) != nil || !slices.ContainsFunc(body.Groups, mine) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		peers.Store(int64(len(body.Groups[slices.IndexFunc(body.Groups, mine)]) - 1))
	})
	mux.HandleFunc("POST /api/v1/devnet/heal", func(http.ResponseWriter, *http.Request) { peers.Store(int64(len(c.P2P.StaticPeers))) })
	return mux
}

// stopped makes sure that no process stays behind.
func stopped(t *testing.T, n *Net) {
	t.Helper()
	t.Cleanup(func() {
		n.patience = time.Second
		if _, err := n.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if up := n.running(state(t, n)); len(up) > 0 {
			t.Errorf("still running: %s", pids(up))
		}
	})
}

func start(t *testing.T, nodes int) *Net {
	t.Helper()
	n := create(t, nodes)
	stopped(t, n)
	if err := n.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLifeOfADevnet(t *testing.T) {
	n := start(t, 3)
	before := state(t, n)
	for _, node := range before.Nodes {
		if !n.isUp(node) {
			t.Errorf("%s does not run", node.Name)
		}
	}
	if _, err := Create(Options{Dir: n.dir}); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("second start of a running devnet: %v", err)
	}
	if err := n.Purge(); err == nil {
		t.Error("a running devnet was purged")
	}

	// From another process: nothing but the directory is shared.
	other, err := Open(n.dir, n.binary)
	if err != nil {
		t.Fatal(err)
	}
	killed, err := other.Kill("n2")
	if err != nil || killed.Name != "node2" || n.isUp(before.Nodes[1]) {
		t.Fatalf("killed %v, %v", killed, err)
	}
	if _, err := other.Kill("n2"); !errors.Is(err, ErrDown) {
		t.Errorf("second kill: %v, want ErrDown", err)
	}
	if rows, err := n.Status(t.Context()); err != nil || rows[1].State != "down" || rows[1].PID != 0 || rows[0].State != "synced" || Missing(rows) != "" {
		t.Errorf("after the kill: %+v, %v", rows, err)
	}
	if _, down, err := n.Partition(t.Context(), [][]string{{"n1"}}); err != nil || !slices.Equal(down, []string{"node2"}) {
		t.Errorf("partition with node2 down: %v, %v", down, err)
	}
	if err := other.Restart(t.Context(), []string{"node2"}, nil); err != nil {
		t.Fatal(err)
	}
	if down, err := n.Heal(t.Context()); err != nil || len(down) > 0 {
		t.Errorf("heal: %v, %v", down, err)
	}
	added, err := other.Add(t.Context(), "", nil)
	if err != nil || added.Name != "node4" || added.Role != RoleFollower || added.APIPort != before.Nodes[2].APIPort+1 {
		t.Fatalf("added %+v, %v", added, err)
	}
	if _, err := other.Add(t.Context(), "node4", nil); err == nil {
		t.Error("two nodes of one name")
	}
	if err := n.Restart(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	now := state(t, n)
	for i, node := range now.Nodes {
		if !n.isUp(node) || i < 3 && (node.PID == before.Nodes[i].PID || node.PeerID != before.Nodes[i].PeerID) {
			t.Errorf("after the restart: %+v", node)
		}
	}
	if killed, err := other.Stop(t.Context()); err != nil || len(killed) != 0 {
		t.Errorf("stop: killed %v, %v", killed, err)
	}
	if s := state(t, n); !s.Stopped || len(n.running(now)) != 0 {
		t.Errorf("after the stop: %+v", s)
	}
	if err := n.Start(t.Context(), nil); err != nil {
		t.Errorf("second start: %v", err)
	}
}

// TestRolesOfStoppedNodes: who does not run has the role that the others know,
// and after the stop of all that one still.
func TestRolesOfStoppedNodes(t *testing.T) {
	n := start(t, 3)
	if _, err := n.Add(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node2", "node3", "node4"} {
		if _, err := n.Kill(name); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{RoleValidator, RoleValidator, RoleFollower, RoleValidator}
	check := func(when string) {
		t.Helper()
		rows, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range rows {
			if r.Role != want[i] {
				t.Errorf("%s: %s is %s, want %s", when, r.Name, r.Role, want[i])
			}
		}
	}
	check("with one that runs")
	ended, cancel := context.WithCancel(t.Context())
	cancel() // as Ctrl-C does
	if _, err := n.Stop(ended); err != nil {
		t.Fatal(err)
	}
	check("with none")
}

func TestStartFails(t *testing.T) {
	n := create(t, 3)
	stopped(t, n)
	if err := os.WriteFile(filepath.Join(n.NodeDir("node2"), "behave"), []byte("exit"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := n.Start(t.Context(), nil)
	var failed *NodeError
	if !errors.As(err, &failed) || failed.Node != "node2" || !strings.Contains(err.Error(), "made of cheese") {
		t.Fatalf("error %v, want a *NodeError with the end of node2's log", err)
	}
	if up := n.running(state(t, n)); len(up) > 0 {
		t.Errorf("left running: %s", pids(up))
	}

	missing := newNet(n.dir, filepath.Join(t.TempDir(), "no-such-binary"))
	if err := missing.Start(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a binary: %v", err)
	}
}

func TestStopKillsTheDeaf(t *testing.T) {
	n := create(t, 2)
	stopped(t, n)
	if err := os.WriteFile(filepath.Join(n.NodeDir("node1"), "behave"), []byte("deaf"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	n.patience = 5 * time.Second // node1 is deaf for all of it; node2 ends at once, on a busy machine too
	killed, err := n.Stop(t.Context())
	if err != nil || !slices.Equal(killed, []string{"node1"}) {
		t.Errorf("killed %v, %v; want node1", killed, err)
	}
}

// A PID that another program has now is no node of ours.
func TestStalePID(t *testing.T) {
	n := create(t, 1)
	err := n.update(func(s *State) error {
		s.Nodes[0].PID, s.Stopped = os.Getpid(), false
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Kill("node1"); !errors.Is(err, ErrDown) {
		t.Errorf("kill of a stale pid, which is ours: %v, want ErrDown", err)
	}
	if rows, err := n.Status(t.Context()); err != nil || rows[0].State != "down" {
		t.Errorf("status %+v, %v", rows, err)
	}
	if _, err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := n.Purge(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the purge: %v", err)
	}
}

func TestLoadCounts(t *testing.T) {
	n := start(t, 1)
	var shown atomic.Int64
	load, err := n.Load(t.Context(), LoadOptions{Size: 256, Records: 40, Rate: 60}, func(Load) { shown.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	if load.Sent != 40 || load.Committed != 39 || load.Failed != 1 || load.Pushed != 5 || load.Missing != "" || shown.Load() == 0 {
		t.Errorf("load %+v, shown %d times", load, shown.Load())
	}
	if !strings.Contains(load.LastError, "no such luck") {
		t.Errorf("last error %q", load.LastError)
	}
	if load.RecordsPS <= 0 || load.RecordsPS > 66 || load.P99MS < load.P50MS || load.MaxMS < load.P99MS {
		t.Errorf("figures %+v: the pace was 60/s", load)
	}
}

func TestPartitionGroups(t *testing.T) {
	n := start(t, 3)
	all, down, err := n.Partition(t.Context(), [][]string{{"n3"}})
	if err != nil || len(down) > 0 || len(all) != 2 || !slices.Equal(all[0], []string{"node3"}) || !slices.Equal(all[1], []string{"node1", "node2"}) {
		t.Errorf("groups %v, down %v, %v", all, down, err)
	}
	for _, groups := range [][][]string{{{"n1", "n2", "n3"}}, {{"n1"}, {"n1", "n2"}}, {{"n9"}}} {
		if _, _, err := n.Partition(t.Context(), groups); err == nil {
			t.Errorf("%v was accepted", groups)
		}
	}
}

// During a partition each side is expected to agree with itself, and only the
// side that can commit is asked to.
func TestPartitionGoesOn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	n := start(t, 3)
	if _, _, err := n.Partition(ctx, [][]string{{"n1"}}); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"n1"}, {"n3"}, nil} {
		if err := n.Restart(ctx, names, nil); err != nil {
			t.Fatalf("restart %v: %v", names, err)
		}
		rows, err := n.Status(ctx)
		if err != nil || rows[0].Peers != 0 || rows[2].Peers != 1 {
			t.Fatalf("after the restart of %v: %+v, %v; want the same groups", names, rows, err)
		}
	}
	load, err := n.Load(ctx, LoadOptions{Size: 256, Records: 4}, nil)
	if err != nil || load.Committed != 4 || load.Missing != "" || !slices.Equal(load.Cut, []string{"node1"}) {
		t.Errorf("load %+v, %v", load, err)
	}
	if rows, err := n.Status(ctx); err != nil || rows[0].Records != 0 || Missing(rows) == "" {
		t.Errorf("after the load: %+v, %v; want no record at node1", rows, err)
	}
	if _, err := n.Add(ctx, "", nil); err == nil || !strings.Contains(err.Error(), "parley devnet heal") {
		t.Errorf("add during a partition: %v", err)
	}
	if _, _, err := n.Partition(ctx, [][]string{{"n1"}, {"n2"}, {"n3"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Load(ctx, LoadOptions{Size: 256, Records: 4}, nil); err == nil || !strings.Contains(err.Error(), "parley devnet heal") {
		t.Errorf("load where no side can commit: %v", err)
	}
	if _, err := n.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if s := state(t, n); s.Partition != nil {
		t.Errorf("healed, and the partition is still on: %v", s.Partition)
	}
	if err := n.Agree(ctx, nil); err != nil {
		t.Error(err)
	}
}
