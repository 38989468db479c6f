package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/devnet"
)

// world is a network whose addresses look public, so that the limits of groups,
// from which loopback and private networks are free, bear on it. Its last space
// is that of a crowd: one program with many addresses.
type world struct {
	t       *testing.T
	dir     string
	binary  string
	net     *network
	nodes   []*node
	genesis *consortium.Genesis
	crowd   *crowd
}

// placeOf is the address of node i: each is in a group of its own.
func placeOf(i int) string { return fmt.Sprintf("52.%d.0.1", i) }

var binaryOnce struct {
	sync.Mutex
	path string
}

// parleyBinary builds the program once for all tests.
func parleyBinary(t *testing.T) string {
	t.Helper()
	binaryOnce.Lock()
	defer binaryOnce.Unlock()
	if binaryOnce.path != "" {
		return binaryOnce.path
	}
	dir, err := os.MkdirTemp("", "parley-world") //nolint:usetesting // TestMain removes it after all of them
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "parley")
	if err := build(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	binaryOnce.path = path
	return path
}

// newWorld makes n nodes, of which the first is the only validator, and a crowd
// at the addresses. settings are merged into the configuration of each node.
func newWorld(t *testing.T, n int, addresses []string, settings func(i int, genesis string, c map[string]any)) *world {
	t.Helper()
	needsLab(t)
	ctx := t.Context()
	w := &world{t: t, dir: t.TempDir(), binary: parleyBinary(t)}
	w.net = &network{prefix: fmt.Sprintf("ply%dx%d", os.Getpid(), networks.Add(1)), nodes: n + 1}
	t.Cleanup(func() {
		if w.crowd != nil {
			w.crowd.end()
		}
		for _, n := range w.nodes {
			n.kill()
			n.api.HTTP.CloseIdleConnections()
			if t.Failed() {
				t.Logf("%s: %s", n.name, n.lastWords())
			}
		}
		if err := w.net.remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := w.cables(ctx, addresses); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		w.add(i)
	}
	w.found(settings)
	if len(addresses) > 0 {
		w.crowd = newCrowd(t, w.net.space(n+1))
	}
	return w
}

// cables lays one switch. A node has its address alone and thinks everybody
// else to be at the other end of its cable.
func (w *world) cables(ctx context.Context, crowd []string) error {
	n := w.net.nodes
	spaces := []string{"netns add " + w.net.hub()}
	hub := []string{"link add switch type bridge", "link set switch up"}
	for i := 1; i <= n; i++ {
		spaces = append(spaces, "netns add "+w.net.space(i))
		hub = append(hub, fmt.Sprintf("link add c%d type veth peer name eth0 netns %s", i, w.net.space(i)),
			fmt.Sprintf("link set c%d master switch", i), fmt.Sprintf("link set c%d up", i))
	}
	err := errors.Join(ip(ctx, "", spaces...), ip(ctx, w.net.hub(), hub...))
	for i := 1; i <= n && err == nil; i++ {
		addrs := []string{placeOf(i)}
		if i == n {
			addrs = append(crowd, addrs...)
		}
		lines := []string{"link set lo up"}
		for _, a := range addrs {
			lines = append(lines, fmt.Sprintf("addr add %s/32 dev eth0", a))
		}
		err = ip(ctx, w.net.space(i), append(lines, "link set eth0 up", "route add default dev eth0")...)
	}
	return err
}

func (w *world) add(i int) {
	name := fmt.Sprintf("n%d", i)
	n := &node{index: i, name: name, validator: i == 1, admin: i == 1, space: w.net.space(i), binary: w.binary,
		dir: filepath.Join(w.dir, name), config: filepath.Join(w.dir, name+".toml"), log: filepath.Join(w.dir, name+".log"),
		answered: func(time.Duration) {}}
	n.ended = func(n *node, code int) { w.t.Errorf("%s ended by itself with %d: %s", n.name, code, n.lastWords()) }
	n.api = devnet.NewClient(n.dir)
	w.nodes = append(w.nodes, n)
}

func (w *world) found(settings func(i int, genesis string, c map[string]any)) {
	w.t.Helper()
	for _, n := range w.nodes {
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
		key, err := n.makeKey()
		if err != nil {
			w.t.Fatal(err)
		}
		n.key = key
	}
	first := w.nodes[0]
	g, err := consortium.NewGenesis("", []consortium.Validator{{Key: first.key, Name: first.name}}, []consortium.PublicKey{first.key}, consortium.DefaultParams(), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.genesis = g
	b, err := json.Marshal(g)
	if err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.dir, "genesis.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.nodes {
		at := placeOf(n.index)
		c := map[string]any{
			"data_dir": n.dir, "node": map[string]any{"name": n.name}, "log": map[string]any{"format": "text"},
			"ops": map[string]any{"listen": at + ":9090"}, "api": map[string]any{"listen": []string{at + ":8080"}},
			"p2p":       map[string]any{"listen": []string{at}, "port": p2pPort, "addresses": "public"},
			"discovery": map[string]any{}, "consortium": map[string]any{"genesis_hash": g.Hash().String()},
		}
		if n.validator {
			c["consortium"] = map[string]any{"genesis_file": file, "genesis_hash": g.Hash().String(), "sole_validator": true}
		}
		if settings != nil {
			settings(n.index, file, c)
		}
		b, err := toml.Marshal(c)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(n.config, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// full is the address of a node with its id.
func (w *world) full(n *node, transport string) string {
	w.t.Helper()
	id, err := n.key.PeerID()
	if err != nil {
		w.t.Fatal(err)
	}
	if transport == "quic" {
		return fmt.Sprintf("/ip4/%s/udp/%d/quic-v1/p2p/%s", placeOf(n.index), p2pPort, id)
	}
	return fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", placeOf(n.index), p2pPort, id)
}

// start starts nodes and waits until each answers.
func (w *world) start(nodes ...*node) {
	w.t.Helper()
	for _, n := range nodes {
		if err := n.start(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, n := range nodes {
		w.wait(soon, n.name+" answers", func() (bool, string) {
			var v parley.Status
			_, err := n.get(w.t.Context(), "status", &v)
			return err == nil, fmt.Sprint(err)
		})
	}
}

// soon is how long a wait lasts at most that is for something to come, and not
// for how fast: what it takes is the CPU of a machine that has others to serve.
const soon = 90 * time.Second

// wait asks until ok, and fails with the last answer when the time is over.
func (w *world) wait(most time.Duration, what string, ok func() (bool, string)) {
	w.t.Helper()
	for end := time.Now().Add(most); ; {
		yes, why := ok()
		if yes {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not within %s: %s: %s", most, what, why)
		}
		select {
		case <-w.t.Context().Done():
			w.t.Fatal(w.t.Context().Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *world) peers(n *node) []parley.Peer {
	w.t.Helper()
	var page struct{ Items []parley.Peer }
	if _, err := n.get(w.t.Context(), "peers?limit=1000", &page); err != nil {
		w.t.Fatal(err)
	}
	return page.Items
}

func (w *world) history(n *node) []parley.HistoryEntry {
	w.t.Helper()
	var page struct{ Items []parley.HistoryEntry }
	if _, err := n.get(w.t.Context(), "peers/history?limit=1000", &page); err != nil {
		w.t.Fatal(err)
	}
	return page.Items
}

// metric reads one line of a node's metrics, as it is written there before the
// number.
func (w *world) metric(n *node, line string) float64 {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "ip", "netns", "exec", n.space, os.Args[0], "http://"+placeOf(n.index)+":9090/metrics")
	cmd.Env = append(os.Environ(), "SOAK_TEST_ROLE=fetch")
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("metrics of %s: %v", n.name, err)
	}
	for text := range strings.Lines(string(out)) {
		if number, ok := strings.CutPrefix(strings.TrimSpace(text), line+" "); ok {
			v, err := strconv.ParseFloat(number, 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return v
		}
	}
	w.t.Fatalf("%s has no metric %s", n.name, line)
	return 0
}

// rss is the memory of a node's process in bytes.
func (w *world) rss(n *node) int64 {
	w.t.Helper()
	n.mu.Lock()
	pid := n.child.cmd.Process.Pid
	n.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return kb << 10
		}
	}
	w.t.Fatal("no VmRSS")
	return 0
}

// said counts the lines of a node's log that hold all words.
func (w *world) said(n *node, words ...string) (count int) {
	w.t.Helper()
	f, err := os.Open(n.log)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		all := true
		for _, word := range words {
			all = all && strings.Contains(lines.Text(), word)
		}
		if all {
			count++
		}
	}
	if err := lines.Err(); err != nil {
		w.t.Fatal(err)
	}
	return count
}

// status is what one of the crowd says of its chain.
func (w *world) status() chain.Status {
	return chain.Status{Network: "consortium", ChainID: w.genesis.ChainID, Genesis: w.genesis.Hash(), Head: chain.Head{Hash: w.genesis.Hash()}}
}

func fetch(url string) error {
	r, err := http.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}
