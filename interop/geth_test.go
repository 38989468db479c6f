package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/console"
	"github.com/ethereum/go-ethereum/console/prompt"
	"github.com/ethereum/go-ethereum/rpc"
)

// parley builds the node once for all tests of this module.
func parley(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "parley")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", bin, "./cmd/parley")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// node is a process of parley.
type node struct {
	dir, api string // its data directory, and host:port
}

// start runs a node, and ends it with the test.
func start(t *testing.T, bin, name, peers string) node {
	t.Helper()
	n := node{dir: filepath.Join(t.TempDir(), name)}
	c := exec.Command(bin, "run", "--data-dir", n.dir, "--api-listen", "127.0.0.1:0", "--set", "profile=devnet", "--set", "node.name="+name, //nolint:noctx // it ends by a signal
		"--set", "ops.listen=", "--set", "log.format=json", "--peers", peers)
	c.Env = append(os.Environ(), "HOME="+t.TempDir())
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		<-drained
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	api := make(chan string, 1)
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var line struct{ Msg, Addr, Name string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" && strings.HasPrefix(line.Addr, "127.0.0.1:") {
				select {
				case api <- line.Addr:
				default:
				}
			}
		}
	}()
	select {
	case n.api = <-api:
	case <-drained:
		t.Fatalf("%s did not start", name)
	case <-time.After(time.Minute):
		t.Fatalf("%s does not listen", name)
	}
	return n
}

// attach does what geth attach does, and then what is typed.
func attach(t *testing.T, url string, typed ...string) string {
	t.Helper()
	client, err := rpc.DialContext(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	out := &bytes.Buffer{}
	c, err := console.New(console.Config{DataDir: t.TempDir(), Client: client, Printer: out, Prompter: typist{}})
	if err != nil {
		t.Fatal(err)
	}
	c.Welcome()
	for _, line := range typed {
		c.Evaluate(line)
	}
	if err := c.Stop(false); err != nil {
		t.Error(err)
	}
	return out.String()
}

// typist is a user who has nothing to say when asked.
type typist struct{}

func (typist) PromptInput(string) (string, error)    { return "", io.EOF }
func (typist) PromptPassword(string) (string, error) { return "", errors.New("no password") }
func (typist) PromptConfirm(string) (bool, error)    { return false, nil }
func (typist) SetHistory([]string)                   {}
func (typist) AppendHistory(string)                  {}
func (typist) ClearHistory()                         {}
func (typist) SetWordCompleter(prompt.WordCompleter) {}

// TestGethAttach is the seed's row: geth attach http://…, net.peerCount, exit;
// and the same by WebSocket and by the local socket, which is admin.
func TestGethAttach(t *testing.T) {
	bin := parley(t)
	a := start(t, bin, "a", "")
	start(t, bin, "b", a.api)
	for _, c := range []struct {
		url   string
		admin bool
	}{{"http://" + a.api, false}, {"ws://" + a.api, false}, {filepath.Join(a.dir, "parley.ipc"), true}} {
		t.Run(c.url[:4], func(t *testing.T) {
			var out string
			for deadline := time.Now().Add(time.Minute); ; {
				out = attach(t, c.url, "net.peerCount", "net.version == eth.chainId() ? 'odd' : 'numbers ' + (parseInt(net.version) == parseInt(eth.chainId()))",
					"eth.blockNumber", "eth.syncing", "eth.getBlock(0).hash.length", "eth.getBlock(1000000)", "typeof admin", "net.listening")
				if strings.Contains(out, "\n1\n") || time.Now().After(deadline) {
					break
				}
				time.Sleep(100 * time.Millisecond) // two processes find each other
			}
			for _, want := range []string{
				`instance: parley/`, `at block: \d+ \(`, `modules: .*eth:1\.0 .*net:1\.0 parley:1\.0 rpc:1\.0 web3:1\.0`, `(?m)^1$`, `numbers true`, `(?m)^66$`, `(?m)^null$`, `(?m)^false$`, `(?m)^true$`,
			} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no %s in\n%s", want, out)
				}
			}
			if !c.admin {
				if strings.Contains(out, "admin:1.0") || strings.Contains(out, "datadir") {
					t.Errorf("admin is shown to everybody:\n%s", out)
				}
				return
			}
			if !strings.Contains(out, "admin:1.0") || !strings.Contains(out, "datadir: "+a.dir) {
				t.Errorf("no admin on the local socket:\n%s", out)
			}
			out = attach(t, c.url, "admin.peers.length", "admin.peers[0].name", "admin.nodeInfo.name", "admin.datadir",
				"admin.addPeer('/ip4/127.0.0.1/tcp/1')", "admin.removePeer('/ip4/127.0.0.1/tcp/1')", "admin.addPeer('enode://00@127.0.0.1:1')")
			for _, want := range []string{`(?m)^1$`, `(?m)^"parley/.*"$`, regexp.QuoteMeta(a.dir), `(?m)^true\ntrue$`, `enode:// names a node of devp2p`} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no %s in\n%s", want, out)
				}
			}
		})
	}
}
