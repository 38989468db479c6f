package devnet

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
)

// freePorts finds a base port with n free ports from it on, below those that
// systems give out by themselves.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	base := freeBase(DefaultBind, 20000+10*rand.IntN(1000), n)
	if base == 0 {
		t.Fatal("no free ports")
	}
	return base
}

func occupy(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func create(t *testing.T, nodes int) *Net {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n, err := Create(Options{Dir: t.TempDir(), Binary: binary, Nodes: nodes, BasePort: freePorts(t, nodes+2)})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func state(t *testing.T, n *Net) *State {
	t.Helper()
	s, err := n.State()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreateMakesOneGenesis(t *testing.T) {
	n := create(t, 4)
	b, err := os.ReadFile(filepath.Join(n.dir, genesisFile))
	if err != nil {
		t.Fatal(err)
	}
	g, err := consortium.ParseGenesisJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	s := state(t, n)
	if len(g.Config.Validators) != 4 || len(g.Config.Admins) != 4 || len(s.Nodes) != 4 {
		t.Fatalf("validators %d, admins %d, nodes %d: want 4 each", len(g.Config.Validators), len(g.Config.Admins), len(s.Nodes))
	}
	for i, v := range g.Config.Validators {
		id, err := v.Key.PeerID()
		if err != nil || id != s.Nodes[i].PeerID || v.Name != s.Nodes[i].Name {
			t.Errorf("validator %d is %s %s, the node is %s %s (%v)", i, v.Name, id, s.Nodes[i].Name, s.Nodes[i].PeerID, err)
		}
		if want := "/p2p/" + id.String(); !strings.HasSuffix(v.Addresses[0], want) {
			t.Errorf("address %s has no %s", v.Addresses[0], want)
		}
		info, err := os.Stat(filepath.Join(n.NodeDir(v.Name), "node.key"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("key of %s: %v, %v", v.Name, info.Mode(), err)
		}
	}

	again, err := Create(Options{Dir: n.dir})
	if err != nil {
		t.Fatal(err)
	}
	if now := state(t, again); !slices.Equal(now.Nodes, s.Nodes) {
		t.Errorf("second start has nodes %v, the first %v", now.Nodes, s.Nodes)
	}
	if after, err := os.ReadFile(filepath.Join(n.dir, genesisFile)); err != nil || string(after) != string(b) {
		t.Errorf("the genesis was made anew: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := create(t, 2)
	damaged := create(t, 1)
	if err := os.WriteFile(filepath.Join(damaged.dir, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	escape := create(t, 1)
	if err := escape.save(&State{Version: 1, Nodes: []Node{{Name: "../x", Role: RoleValidator}}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		o          Options
	}{
		{"foreign directory", "thesis.tex", Options{Dir: foreign}},
		{"other number of nodes", "2 nodes in its genesis, not 3", Options{Dir: made.dir, Nodes: 3}},
		{"too many nodes", "want 1 to 31", Options{Dir: t.TempDir(), Nodes: 32}},
		{"port too high", "base port 65534", Options{Dir: t.TempDir(), BasePort: 65534}},
		{"bind to a name", `"example.org" is no IP address`, Options{Dir: t.TempDir(), Bind: "example.org"}},
		{"bind to a foreign address", "choose one of this machine", Options{Dir: t.TempDir(), Bind: "192.0.2.1"}},
		{"damaged state", "damaged", Options{Dir: damaged.dir}},
		{"name that leaves the directory", "node name", Options{Dir: escape.dir}},
	} {
		if _, err := Create(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	if _, err := Open(t.TempDir(), ""); !errors.Is(err, ErrNone) {
		t.Errorf("open an empty directory: %v, want ErrNone", err)
	}
}

func TestTakenPort(t *testing.T) {
	base := freePorts(t, 3)
	l := occupy(t, net.JoinHostPort(DefaultBind, itoa(base+1)))
	dir := filepath.Join(t.TempDir(), "new")
	_, err := Create(Options{Dir: dir, Nodes: 3, BasePort: base})
	var taken *PortError
	if !errors.As(err, &taken) {
		t.Fatalf("error %v, want a *PortError", err)
	}
	if taken.Port != base+1 || taken.Base < base+portStep {
		t.Errorf("taken %d, offered %d; want %d and one from %d on", taken.Port, taken.Base, base+1, base+portStep)
	}
	if _, err := os.Stat("/proc/net/tcp"); err == nil && !strings.Contains(taken.Holder, itoa(os.Getpid())) {
		t.Errorf("holder %q, want our pid %d", taken.Holder, os.Getpid())
	}
	if !strings.Contains(err.Error(), "parley devnet --base-port "+itoa(taken.Base)) {
		t.Errorf("error %q does not name the command that mends it", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
	_ = l.Close()
	if _, err := Create(Options{Dir: dir, Nodes: 3, BasePort: base}); err != nil {
		t.Errorf("once the port is free: %v", err)
	}
}

// TestPortsOfNodes: no port of a node's metrics is one that another node needs
// for its API, no two APIs have one, and none is above all ports.
func TestPortsOfNodes(t *testing.T) {
	const ops = DefaultBasePort + opsAbove
	if ops != 9090 {
		t.Errorf("the metrics of the default devnet begin at %d", ops)
	}
	s := &State{Bind: DefaultBind, Nodes: []Node{{Name: "node1", APIPort: DefaultBasePort}, {Name: "node2", APIPort: ops + 2}, {Name: "node3", APIPort: ops}}}
	for name, want := range map[string]string{"node1": "port 9090 is the API's of node3", "node3": "port 9092 is the API's of node2"} {
		if port, off := s.opsPort(name); port != 0 || off != want {
			t.Errorf("%s has metrics at %d, %q: want none, for %s", name, port, off, want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := l.Addr().(*net.TCPAddr).Port
	moved := &State{Bind: DefaultBind, Nodes: []Node{{Name: "node1", APIPort: taken - opsAbove - 1}, {Name: "node2", APIPort: taken - opsAbove}}}
	if port, off := moved.opsPort("node2"); port != 0 || !strings.HasPrefix(off, "port "+itoa(taken)+" is taken by pid "+itoa(os.Getpid())) {
		t.Errorf("a taken port: %d, %q", port, off)
	}
	_ = l.Close()
	if port, off := moved.opsPort("node2"); port != taken || off != "" {
		t.Errorf("a base port of %d: metrics of the second node at %d, %q; want %d", taken-opsAbove-1, port, off, taken)
	}
	high := &State{Bind: DefaultBind, Nodes: []Node{{Name: "node1", APIPort: 65000}}}
	if port, off := high.opsPort("node1"); port != 0 || !strings.Contains(off, "--base-port of at most 64525") {
		t.Errorf("a port above all: %d, %q", port, off)
	}
	s.Nodes[1].APIPort = 1 << 16
	if err := s.checkPorts(""); err == nil || !strings.Contains(err.Error(), "--base-port of at most 65533") {
		t.Errorf("a port above all: %v", err)
	}
	s.Nodes[1].APIPort = s.Nodes[0].APIPort
	if err := s.checkPorts(""); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Errorf("one port for two: %v", err)
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestConfigIsComplete(t *testing.T) {
	n := create(t, 3)
	s := state(t, n)
	s.Nodes = append(s.Nodes, Node{Name: "late", Role: RoleFollower, APIPort: s.Nodes[0].APIPort + 3})
	if err := os.MkdirAll(n.NodeDir("late"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, node := range s.Nodes {
		node.OpsPort = 9090
		if err := n.writeConfig(s, node); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.LoadArgs{File: n.configPath(node.Name), Environ: environ([]string{"PEERS=evil:1", "PARLEY_NODE=x", "HOME=/root"})})
		if err != nil {
			t.Fatalf("%s: %v", node.Name, err)
		}
		want := []string{s.API(s.Nodes[0])}
		if node.Role == RoleValidator {
			want = []string{s.API(s.Nodes[0]), s.API(s.Nodes[1]), s.API(s.Nodes[2])}
			want = slices.Delete(want, i, i+1)
		}
		if !slices.Equal(c.P2P.StaticPeers, want) {
			t.Errorf("%s has peers %v, want %v", node.Name, c.P2P.StaticPeers, want)
		}
		if pinned := c.Consortium.GenesisFile != ""; pinned != (node.Role == RoleValidator) {
			t.Errorf("%s has genesis file %q", node.Name, c.Consortium.GenesisFile)
		}
		if c.DataDir != n.NodeDir(node.Name) || c.Profile != config.ProfileDevnet || c.P2P.Port != 0 || c.Node.Name != node.Name {
			t.Errorf("%s: data dir %s, profile %s, p2p port %d, name %s", node.Name, c.DataDir, c.Profile, c.P2P.Port, c.Node.Name)
		}
	}
	// with the chain it may have become a validator, and the ports may have moved
	if err := os.Mkdir(filepath.Join(n.NodeDir("late"), "ledger"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, want := n.peers(s, s.Nodes[3]), []string{s.API(s.Nodes[0]), s.API(s.Nodes[1]), s.API(s.Nodes[2])}; !slices.Equal(got, want) {
		t.Errorf("late is told %v once it has the chain, want %v", got, want)
	}
}

func TestNames(t *testing.T) {
	s := &State{Nodes: []Node{{Name: "node1"}, {Name: "node2"}, {Name: "late"}}}
	for name, want := range map[string]string{"node2": "node2", "n1": "node1", "late": "late"} {
		if node, err := s.node(name); err != nil || node.Name != want {
			t.Errorf("%s is %v, %v; want %s", name, node, err, want)
		}
	}
	for _, name := range []string{"n3", "", "node", "../node1"} {
		if _, err := s.node(name); !errors.Is(err, ErrNoNode) {
			t.Errorf("%q: %v, want ErrNoNode", name, err)
		}
	}
	if name := s.nextName(); name != "node4" {
		t.Errorf("next name %s, want node4", name)
	}
	if api := (&State{Bind: "0.0.0.0"}).API(Node{APIPort: 8080}); api != "127.0.0.1:8080" {
		t.Errorf("API on all interfaces is reached at %s", api)
	}
	if api := (&State{Bind: "::1"}).API(Node{APIPort: 8080}); api != "[::1]:8080" {
		t.Errorf("API on ::1 is reached at %s", api)
	}
}

func TestMissing(t *testing.T) {
	a, b := chain.Hash{1}, chain.Hash{2}
	row := func(name string, height uint64, head *chain.Hash, peers int) Row {
		return Row{Name: name, Role: RoleValidator, PID: 1, Height: height, Head: head, Peers: peers, State: "synced"}
	}
	late := row("late", 3, &a, 1)
	late.Role = RoleFollower
	waits, alone := row("node2", 3, &a, 1), row("node1", 3, &a, 0)
	waits.State, alone.State = "waiting", "waiting"
	for _, c := range []struct {
		want string
		rows []Row
	}{
		{"", []Row{row("node1", 3, &a, 2), row("node2", 3, &a, 3), row("node3", 3, &a, 2), late}},
		{"", []Row{row("node1", 3, &a, 0)}},
		{"", []Row{row("node1", 3, &a, 1), row("node2", 3, &a, 1), {Name: "node3", State: "down"}}},
		{"", []Row{alone}},
		{"node2 is waiting", []Row{row("node1", 3, &a, 1), waits}},
		{"node2 is at height 2 of 3", []Row{row("node1", 3, &a, 1), row("node2", 2, &b, 1)}},
		{"different blocks at height 3", []Row{row("node1", 3, &a, 1), row("node2", 3, &b, 1)}},
		{"node1 sees 0 of 1 peers", []Row{row("node1", 3, &a, 0), row("node2", 3, &a, 1)}},
		{"node2 is waiting", []Row{row("node1", 3, &a, 1), {Name: "node2", PID: 2, State: "waiting"}}},
	} {
		have := Missing(c.rows)
		if have != c.want && (c.want == "" || !strings.Contains(have, c.want)) {
			t.Errorf("%v: missing %q, want %q", c.rows, have, c.want)
		}
	}
	ahead := []Row{row("node1", 9, &b, 1), row("node2", 5, &a, 1)}
	if m := missing(ahead, 5); m != "" {
		t.Errorf("both have reached 5: %s", m)
	}
	if m := missing(ahead, 6); m == "" {
		t.Error("node2 has not reached 6")
	}
}

func TestSampler(t *testing.T) {
	var s Sampler
	h := chain.Hash{1}
	start := time.Unix(1000, 0)
	rows := []Row{{Name: "node1", Head: &h, Records: 100}, {Name: "node2"}}
	s.Rate(rows, start)
	if rows[0].RecordsPS != 0 {
		t.Errorf("rate %v of one sample", rows[0].RecordsPS)
	}
	rows = []Row{{Name: "node1", Head: &h, Records: 150}, {Name: "node2", Head: &h, Records: 150}}
	s.Rate(rows, start.Add(2*time.Second))
	if rows[0].RecordsPS != 25 || rows[1].RecordsPS != 0 {
		t.Errorf("rates %v and %v, want 25 and 0: node2 was away", rows[0].RecordsPS, rows[1].RecordsPS)
	}
	rows = []Row{{Name: "node1", Head: &h, Records: 10}}
	s.Rate(rows, start.Add(3*time.Second))
	if rows[0].RecordsPS != 0 {
		t.Errorf("rate %v after a fall", rows[0].RecordsPS)
	}
}
