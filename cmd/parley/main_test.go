package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"parley": main, "printenv": main, "envfile": envfile})
}

// TestScript runs the binary as people do: each file of testdata is a story.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true,
		Deadline: time.Now().Add(10 * time.Minute), // a command that hangs is told with its dump
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ports": ports, "waitfor": waitfor, "until": until, "bigfile": bigfile, "exits": exits,
		},
	})
}

// ports NAME… puts a free TCP port into each variable.
func ports(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		_, port, err := net.SplitHostPort(freeAddr())
		ts.Check(err)
		ts.Setenv(name, port)
	}
}

var nextPort atomic.Int32 // after portBase

const (
	portBase  = 21_000
	portCount = 11_000 // to 32,000: below those that the kernel gives to who asks for any
)

// freeAddr is of a port that nobody has, and that no other test of this program
// and no outgoing connection gets until a node listens there.
func freeAddr() string {
	for {
		port := portBase + (int(nextPort.Add(1))+os.Getpid()*61)%portCount
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = l.Close()
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		_ = u.Close()
		return addr
	}
}

const patience = 30 * time.Second

// waitfor URL waits until it answers with 200.
func waitfor(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	poll(ctx, ts, args[0], func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
		ts.Check(err)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// until WANT COMMAND… runs a command until its output holds WANT.
func until(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	poll(ctx, ts, strings.Join(args, " "), func() bool {
		err := ts.Exec(args[1], args[2:]...)
		return err == nil && strings.Contains(ts.ReadFile("stdout"), args[0])
	})
}

func poll(ctx context.Context, ts *testscript.TestScript, what string, ok func() bool) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			ts.Fatalf("%s: not within %s", what, patience)
		case <-tick.C:
		}
	}
}

// bigfile NAME SIZE writes so many bytes of x.
func bigfile(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat("x", n)), 0o600))
}

// exits CODE COMMAND… runs a command that must end with that code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s: exit code %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}
