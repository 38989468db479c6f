package sidecarnode

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tools finds node and npm, or says what to install.
func tools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: run scripts/setup, or install the packages nodejs and npm", tool)
		}
	}
}

// example is the example as a user has it after npm ci, with a parley binary.
type example struct {
	t           *testing.T
	dir, parley string
	authorities string
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func setUp(t *testing.T) *example {
	t.Helper()
	tools(t)
	tmp := t.TempDir()
	x := &example{t: t, dir: filepath.Join(tmp, "examples", "sidecar-node"), parley: filepath.Join(tmp, "parley")}
	for from, to := range map[string]string{".": x.dir, "../../api/proto": filepath.Join(tmp, "api", "proto")} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, x.dir, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	run(t, "../..", "go", "build", "-buildvcs=false", "-o", x.parley, "./cmd/parley")
	return x
}

// member is a parley node with the program beside it.
type member struct {
	x       *example
	name    string
	data    string
	seed    string
	client  *http.Client
	program *exec.Cmd
	stdin   io.WriteCloser

	mu   sync.Mutex // guards below
	head head       // as the program printed it last
	said strings.Builder
}

type head struct {
	Height int    `json:"height"`
	Hash   string `json:"hash"`
	Text   string `json:"text"`
}

// member makes one with a seed of its own.
func (x *example) member(name string) *member {
	x.t.Helper()
	m := &member{x: x, name: name, data: filepath.Join(x.t.TempDir(), name), seed: filepath.Join(x.dir, name+".seed")}
	seed := make([]byte, 32)
	copy(seed, name)
	if err := os.WriteFile(m.seed, []byte(hex.EncodeToString(seed)), 0o600); err != nil {
		x.t.Fatal(err)
	}
	m.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", m.socket())
		},
	}}
	return m
}

func (m *member) socket() string { return filepath.Join(m.data, "parley.sock") }

func (m *member) publicKey() string {
	return run(m.x.t, m.x.dir, "node", "main.js", "--seed", m.seed, "--print-key")
}

// start starts the node and the program.
func (m *member) start(peers ...string) {
	t := m.x.t
	t.Helper()
	node := exec.CommandContext(t.Context(), m.x.parley, "run", "--data-dir", m.data, "--api-listen", "127.0.0.1:0", "--peers", strings.Join(peers, ","),
		"--set", "profile=devnet", "--set", "network=sidecar", "--set", "network_name=text", "--set", "node.name="+m.name, "--set", "ops.listen=",
		"--set", "p2p.listen=/ip4/127.0.0.1/tcp/0", "--set", "sidecar.validate_timeout=5s", "--set", "log.format=text")
	node.Stderr = m
	m.spawn(node)
	m.until("its node answers", func() bool { return m.get("node") != nil })
	m.attach()
}

// attach starts the program.
func (m *member) attach() {
	t := m.x.t
	t.Helper()
	m.program = exec.CommandContext(t.Context(), "node", "main.js", "--node", "unix:"+m.socket(), "--seed", m.seed, "--authorities", m.x.authorities)
	m.program.Dir, m.program.Stderr = m.x.dir, m
	var err error
	if m.stdin, err = m.program.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.spawn(m.program)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var h head
			if json.Unmarshal(lines.Bytes(), &h) == nil {
				m.mu.Lock()
				m.head = h
				m.mu.Unlock()
			}
		}
	}()
	m.until("its program is attached", func() bool { return m.get("status")["role"] == "attached" })
}

// spawn starts a process that ends with the test.
func (m *member) spawn(cmd *exec.Cmd) {
	m.x.t.Helper()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		m.x.t.Fatal(err)
	}
	m.x.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		_ = cmd.Wait()                          // ended by a signal
	})
}

// Write keeps what the processes say.
func (m *member) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.Write(p)
}

// get asks the node; nil = it does not answer.
func (m *member) get(path string) map[string]any {
	r, err := http.NewRequestWithContext(m.x.t.Context(), http.MethodGet, "http://parley/api/v1/"+path, http.NoBody)
	if err != nil {
		m.x.t.Fatal(err)
	}
	res, err := m.client.Do(r)
	if err != nil {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	var v map[string]any
	if json.NewDecoder(res.Body).Decode(&v) != nil {
		return nil
	}
	return v
}

// address is where others dial the node.
func (m *member) address() string {
	for _, a := range m.get("node")["listen"].([]any) {
		if text := a.(string); strings.Contains(text, "/tcp/") {
			return text
		}
	}
	m.x.t.Fatalf("%s listens nowhere", m.name)
	return ""
}

func (m *member) until(what string, ok func() bool) {
	m.x.t.Helper()
	end := time.NewTimer(time.Minute)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			m.mu.Lock()
			defer m.mu.Unlock()
			m.x.t.Fatalf("%s: in vain waited until %s; it said\n%s", m.name, what, m.said.String())
		case <-tick.C:
		}
	}
}

func (m *member) write(text string) {
	m.x.t.Helper()
	if _, err := fmt.Fprintln(m.stdin, text); err != nil {
		m.x.t.Fatal(err)
	}
}

func (m *member) at() head {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head
}

// agree waits until all programs have one head of that height, and their nodes
// show it.
func agree(height int, members ...*member) {
	for _, m := range members {
		m.x.t.Helper()
		m.until(fmt.Sprintf("all are at height %d with one head", height), func() bool {
			h, _ := m.get("status")["head"].(map[string]any)
			return m.at().Height == height && m.at().Hash == members[0].at().Hash && h != nil && h["hash"] == m.at().Hash
		})
	}
}

// charged is how many points a has given to b.
func charged(a, b *member) float64 {
	d := a.get("peers/" + b.get("node")["peer_id"].(string))
	points, _ := d["points"].(float64)
	return points
}

// Several nodes with their programs have one chain: blocks by gossip, what was
// missed by request, forks by height, and who is no authority is charged.
func TestSidecarNode(t *testing.T) {
	x := setUp(t)
	a, b, c, thief := x.member("ada"), x.member("ben"), x.member("cai"), x.member("thief")
	x.authorities = strings.Join([]string{a.publicKey(), b.publicKey(), c.publicKey()}, ",")
	a.start()
	b.start(a.address())
	b.until("it has a peer", func() bool { return b.get("peers/count")["connected"] == 1. })
	for i, m := range []*member{a, b, a} { // one after the other
		m.write(fmt.Sprint("block ", i+1))
		agree(i+1, a, b)
	}
	c.start(a.address(), b.address())
	agree(3, a, b, c) // by request: gossip of the past is over

	// The program of one is away, and the others go on without it.
	_ = c.stdin.Close() // its end of input ends it
	c.until("its program is gone", func() bool { return c.get("status")["role"] == "detached" })
	b.write("without cai")
	agree(4, a, b)
	c.attach()
	agree(4, a, b, c)
	if got := c.at().Text; got != "without cai" {
		t.Errorf("the newest block is %q", got)
	}

	// Two make a block at once: all take the same of both, and go on from it.
	a.write("fork")
	b.write("fork, too")
	agree(5, a, b, c)
	c.write("after the fork")
	agree(6, a, b, c)

	thief.start(a.address())
	agree(6, a, thief)
	thief.write("not by an authority")
	a.until("the thief is charged", func() bool { return charged(a, thief) >= 100 || a.get("peers/count")["connected"] == 2. })
	agree(6, a, b, c)
	for _, m := range []*member{b, c} {
		if points := charged(a, m); points != 0 {
			t.Errorf("ada charges %s %v", m.name, points)
		}
	}
	names := []string{}
	for _, p := range a.get("peers")["items"].([]any) {
		names = append(names, p.(map[string]any)["name"].(string))
	}
	if slices.Contains(names, "thief") {
		t.Errorf("ada keeps %v", names)
	}
}

// Whoever calls the program wrongly reads what it wants, and no stack.
func TestUsage(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed: run scripts/setup, or install the package nodejs")
	}
	seed := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(seed, []byte(strings.Repeat("5e", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "--node and --seed and --authorities must be given"},
		{[]string{"--help"}, 0, "usage: node main.js"},
		{[]string{"--sed", seed}, 2, "Unknown option '--sed'"},
		{[]string{"--print-key"}, 2, "--seed must be given"},
		{[]string{"--print-key", "--seed", seed + "2"}, 1, "openssl rand -hex 32 > " + seed + "2"},
		{[]string{"--print-key", "--seed", "main.js"}, 1, "want a file of 64 hex digits"},
		{[]string{"--seed", seed, "--node", "unix:x", "--authorities", "abc"}, 2, `--authorities has "abc"`},
		{[]string{"--print-key", "--seed", seed}, 0, ""},
	} {
		cmd := exec.CommandContext(t.Context(), "node", append([]string{"main.js"}, test.args...)...)
		out, _ := cmd.CombinedOutput() // the code tells
		text := string(out)
		if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(text, test.says) || strings.Contains(text, "    at ") {
			t.Errorf("node main.js %s: exit code %d, want %d; it says\n%s", strings.Join(test.args, " "), code, test.code, text)
		}
		if test.code == 2 && !strings.Contains(text, "usage: node main.js") {
			t.Errorf("node main.js %s tells no usage:\n%s", strings.Join(test.args, " "), text)
		}
	}
}
