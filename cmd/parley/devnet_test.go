package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const seedScript = "../../internal/devnet/testdata/verify-network.sh"

// needs skips where a program of the seed's guide is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			lacking(t, p+" is not installed: run scripts/setup")
		}
	}
}

// lacking skips a test that this machine cannot run. Root in CI has what it
// needs: there the test must not vanish.
func lacking(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestDevnet drives real processes as people do.
func TestDevnet(t *testing.T) {
	needs(t, "bash", "curl", "jq")
	script, err := os.ReadFile(seedScript)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/devnet", RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"until": until, "exits": exits, "baseport": baseport,
			// devnet stops what a failed script leaves in net.
			"devnet": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Defer(func() {
					if _, err := os.Stat(ts.MkAbs("net/devnet.json")); err == nil {
						_ = ts.Exec("parley", "devnet", "down", "--purge", "--dir", "net")
					}
				})
			},
			"opsports": func(ts *testscript.TestScript, _ bool, args []string) { // BASE OPS puts the ops ports of a base port into OPS, OPS1 …
				base, err := strconv.Atoi(ts.Getenv(args[0]))
				ts.Check(err)
				ts.Setenv(args[1], strconv.Itoa(base+1010))
				for i := 1; i < 10; i++ {
					ts.Setenv(args[1]+strconv.Itoa(i), strconv.Itoa(base+1010+i))
				}
			},
			// taken PORT holds it until the script ends.
			"taken": func(ts *testscript.TestScript, _ bool, args []string) {
				l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
				ts.Check(err)
				ts.Defer(func() { _ = l.Close() })
			},
			// verify PORT PORT PORT runs the seed's script on three ports.
			"verify": func(ts *testscript.TestScript, _ bool, ports []string) {
				text := string(script)
				for i, port := range ports {
					text = strings.Replace(text, fmt.Sprintf("192.168.1.%d:8080", 10+i), "127.0.0.1:"+port, 1)
				}
				path := ts.MkAbs("verify-network.sh")
				ts.Check(os.WriteFile(path, []byte(text), 0o700))
				ts.Check(ts.Exec("bash", path))
			},
		},
	})
}

// baseport NAME puts a port with nine free ones after it into NAME, and those
// into NAME1, NAME2 …
func baseport(ts *testscript.TestScript, _ bool, args []string) {
	base := freeBasePort(ts.Fatalf)
	ts.Setenv(args[0], strconv.Itoa(base))
	for i := 1; i < 10; i++ {
		ts.Setenv(args[0]+strconv.Itoa(i), strconv.Itoa(base+i))
	}
}

// freeBasePort looks below the ports that systems give out by themselves. The
// ops ports, 1010 above, are no others' base port.
func freeBasePort(fatalf func(string, ...any)) int {
	for range 100 {
		base := 20000 + 20*rand.IntN(500)
		free := 0
		for ; free < 10; free++ {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+free))
			if err != nil {
				break
			}
			_ = l.Close()
		}
		if free == 10 {
			return base
		}
	}
	fatalf("no ten free ports in a row")
	return 0
}

// output is what a process has written, as it grows.
type output struct {
	lines chan string
	all   bytes.Buffer // for its own goroutine
}

func (o *output) Write(b []byte) (int, error) {
	o.all.Write(b)
	for {
		line, err := o.all.ReadString('\n')
		if err != nil {
			o.all.WriteString(line)
			return len(b), nil
		}
		o.lines <- line
	}
}

// expect reads lines until one matches.
func (o *output) expect(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	var seen strings.Builder
	for {
		select {
		case line := <-o.lines:
			if re.MatchString(line) {
				return line
			}
			seen.WriteString(line)
		case <-timeout:
			t.Fatalf("no line matches %s in:\n%s", pattern, seen.String())
		}
	}
}

// parleyCommand is the binary under test, as testscript put it into PATH.
func parleyCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "parley", args...)
}

// TestDevnetInTheForeground: a node killed from another terminal stays down,
// and a signal stops the others and the whole command cleanly.
func TestDevnetInTheForeground(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "net")
			base := freeBasePort(t.Fatalf)
			up := parleyCommand(t.Context(), "devnet", "--dir", dir, "--base-port", strconv.Itoa(base), "--nodes", "2")
			out := &output{lines: make(chan string, 1000)}
			up.Stdout, up.Stderr = out, out
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = parleyCommand(context.Background(), "devnet", "down", "--dir", dir).Run() })
			out.expect(t, `Ctrl-C stops all nodes`)
			out.expect(t, `2 of 2 up  height 0 .* all agree`)
			pids := nodePIDs(t, dir)
			if len(pids) != 2 {
				t.Fatalf("%d nodes run, want 2", len(pids))
			}
			if b, err := parleyCommand(t.Context(), "devnet", "kill", "n2", "--dir", dir).CombinedOutput(); err != nil {
				t.Fatalf("kill: %v: %s", err, b)
			}
			out.expect(t, `1 of 2 up .* down: node2`)
			if err := up.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := up.Wait(); err != nil {
				t.Errorf("devnet ended with %v, want exit code 0", err)
			}
			if left := nodePIDs(t, dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// nodePIDs finds the processes of a devnet by their command lines.
func nodePIDs(t *testing.T, dir string) []string {
	t.Helper()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("there is no /proc to look for processes in")
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.Contains(b, []byte("\x00--config\x00"+dir+"/")) {
			pids = append(pids, strings.Split(f, "/")[2])
		}
	}
	return pids
}

// TestSignals: SIGHUP makes a node read its configuration again, SIGTERM is a clean stop.
func TestSignals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := parleyCommand(t.Context(), "run", "--data-dir", filepath.Join(dir, "d"), "--set", "profile=devnet", "--set", "ops.listen=",
		"--api-listen", "127.0.0.1:0")
	out := &output{lines: make(chan string, 1000)}
	node.Stderr = out
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	out.expect(t, `"node started"`)
	for sig, want := range map[syscall.Signal]string{syscall.SIGHUP: "configuration read again", syscall.SIGUSR1: `"goroutines"`} {
		if err := node.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		out.expect(t, want)
	}
	if err := node.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := node.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v, want exit code 0", err)
	}
}
