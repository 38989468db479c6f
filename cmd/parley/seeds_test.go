package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"
)

// seedSpace names the script that a process runs in a space of its own.
const seedSpace = "PARLEY_SEED_SCRIPT"

// TestSeeds types what the guides of other systems type, to the letter: their
// addresses, ports, files and names. So each script has machines of its own, in
// network namespaces with a switch between them, and its own /etc and /run.
func TestSeeds(t *testing.T) {
	needs(t, "bash", "curl", "jq", "ip", "unshare", "mount", "nft", "nginx", "telnet", "openssl", "python3")
	if out, err := exec.CommandContext(t.Context(), "unshare", "-n", "-m", "true").CombinedOutput(); err != nil {
		lacking(t, fmt.Sprintf("network namespaces need root: unshare -n -m: %v %s", err, out))
	}
	scripts, err := filepath.Glob("testdata/seeds/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts")
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
				os.Args[0], "-test.run=^TestInSpace$", "-test.v", "-test.timeout=2m30s")
			cmd.Env = append(os.Environ(), seedSpace+"="+script)
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestInSpace")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestInSpace is the part of TestSeeds that runs in a space of its own.
func TestInSpace(t *testing.T) {
	script := os.Getenv(seedSpace)
	if script == "" {
		t.Skip("TestSeeds runs it")
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	files := map[string]string{hosts: "127.0.0.1 localhost\n", filepath.Join(filepath.Dir(hosts), "resolv.conf"): ""}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // every program reads them
			t.Fatal(err)
		}
		inSpace(t.Fatalf, "mount", "--bind", path, "/etc/"+filepath.Base(path))
	}
	for _, command := range []string{
		"mount -t tmpfs none /run", "mount -t tmpfs none /etc/nginx", "mkdir -p /run/netns /etc/nginx/ssl",
		"ip link set lo up", "ip link add switch type bridge", "ip addr add 192.168.1.1/24 dev switch", "ip link set switch up",
	} {
		inSpace(t.Fatalf, strings.Fields(command)...)
	}
	testscript.Run(t, testscript.Params{
		Files: []string{script}, RequireExplicitExec: true, Deadline: time.Now().Add(2 * time.Minute),
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			path, err := filepath.Abs(seedScript)
			e.Setenv("VERIFY", path)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"until": until, "exits": exits, "frames": frames,
			// machine IP NAME… plugs in a machine, of the first name, that all know by these names.
			"machine": func(ts *testscript.TestScript, _ bool, args []string) {
				ip, name := args[0], args[1]
				port := "p" + ip[strings.LastIndexByte(ip, '.')+1:]
				for _, command := range []string{
					"ip netns add " + name, "ip link add " + port + " type veth peer name eth0 netns " + name, "ip link set " + port + " master switch up",
					"ip -n " + name + " link set lo up", "ip -n " + name + " addr add " + ip + "/24 dev eth0", "ip -n " + name + " link set eth0 up",
					"ip -n " + name + " route add default via 192.168.1.1",
				} {
					inSpace(ts.Fatalf, strings.Fields(command)...)
				}
				f, err := os.OpenFile(hosts, os.O_APPEND|os.O_WRONLY, 0)
				ts.Check(err)
				_, err = fmt.Fprintln(f, ip, strings.Join(args[1:], " "))
				ts.Check(err)
				ts.Check(f.Close())
				ts.Check(os.MkdirAll(ts.MkAbs(name), 0o700))
			},
		},
	})
}

func inSpace(fatalf func(string, ...any), command ...string) {
	if out, err := exec.CommandContext(context.Background(), command[0], command[1:]...).CombinedOutput(); err != nil {
		fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
}

// frames URL TYPE… COMMAND listens on a WebSocket while the command is run, and
// prints the keys of the first frame of each type, in order.
func frames(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, args[0], nil)
	ts.Check(err)
	defer func() { _ = conn.CloseNow() }()
	ts.Check(ts.Exec("sh", "-c", args[len(args)-1]))
	seen := map[string]string{}
	for _, want := range args[1 : len(args)-1] {
		for seen[want] == "" {
			_, b, err := conn.Read(ctx)
			if err != nil {
				ts.Fatalf("no %s among %v: %v", want, slices.Collect(maps.Keys(seen)), err)
			}
			var m map[string]any
			ts.Check(json.Unmarshal(b, &m))
			kind, _ := m["type"].(string)
			seen[kind] = strings.Join(slices.Sorted(maps.Keys(m)), " ")
		}
		_, err := fmt.Fprintln(ts.Stdout(), want+": "+seen[want])
		ts.Check(err)
	}
}

// envfile FILE COMMAND… is docker run --env-file FILE: each line KEY=VALUE as it
// stands, quotes and what looks like a comment after it too; the last one counts.
func envfile() {
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		key, value, is := strings.Cut(strings.TrimRight(line, "\n"), "=")
		if is && !strings.HasPrefix(line, "#") {
			err = errors.Join(err, os.Setenv(key, value))
		}
	}
	path, err2 := exec.LookPath(os.Args[2])
	if err = errors.Join(err, err2); err == nil {
		err = syscall.Exec(path, os.Args[2:], os.Environ())
	}
	fatal(err)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
