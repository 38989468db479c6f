package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/wal"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

type noLog struct{}

func (noLog) Debugf(string, ...any)        {}
func (noLog) Infof(string, ...any)         {}
func (noLog) Warnf(string, ...any)         {}
func (noLog) Errorf(string, ...any)        {}
func (noLog) Panicf(text string, a ...any) { panic(fmt.Sprintf(text, a...)) }

// poisonLog ends a write-ahead log with a vote without its proposal, at which
// the library panics when it starts.
func poisonLog(t *testing.T, dir string, genesis chain.Hash, height uint64) {
	t.Helper()
	w, err := wal.Open(noLog{}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadAll(); err != nil {
		t.Fatal(err)
	}
	entry, err := proto.Marshal(&smartbftprotos.SavedMessage{Content: &smartbftprotos.SavedMessage_Commit{Commit: &smartbftprotos.Message{
		Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{Seq: height,
			Signature: &smartbftprotos.Signature{Msg: consortium.VoteMessage(genesis, chain.Hash{}, height, 0)}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(entry, true); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCrashes: a panic of the engine ends the process with one line and exit
// code 1, a restart is safe, and after three of them the node runs on without
// its engine: it serves reads, and says what is wrong.
func TestCrashes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "n")
	run := func(ctx context.Context) (*exec.Cmd, *bytes.Buffer) {
		c := parleyCommand(ctx, "run", "--data-dir", data, "--api-listen", "127.0.0.1:0", "--set", "p2p.port=0", "--set", "profile=devnet", "--set", "ops.listen=")
		var text bytes.Buffer
		c.Stderr = &text
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c, &text
	}
	ask := func(stdin string, args ...string) (string, error) {
		c := parleyCommand(t.Context(), args...)
		c.Env = append(c.Environ(), "PARLEY_NODE=unix:"+filepath.Join(data, "parley.sock"))
		c.Stdin = strings.NewReader(stdin)
		b, err := c.CombinedOutput()
		return string(b), err
	}
	status := func(want string) string {
		for end := time.Now().Add(patience); ; { // each look is a process
			text, err := ask("", "status")
			if err == nil && strings.Contains(text, want) {
				return text
			}
			if time.Now().After(end) {
				t.Fatalf("never %q: %v %s", want, err, text)
			}
		}
	}
	stop := func(c *exec.Cmd) {
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	node, _ := run(t.Context())
	status("healthy")
	if text, err := ask(`{"subject":"kept","body":"x"}`, "tx", "submit", "-"); err != nil {
		t.Fatal(text)
	}
	text, err := ask("", "chain", "status", "-o", "template={{.genesis_hash}}")
	if err != nil {
		t.Fatal(text)
	}
	genesis, err := chain.ParseHash(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	stop(node)

	poisonLog(t, filepath.Join(data, "wal"), genesis, 2)
	for i := range 3 {
		node, text := run(t.Context())
		if err := node.Wait(); node.ProcessState.ExitCode() != 1 {
			t.Fatalf("start %d: %v\n%s", i+1, err, text)
		}
		if n := strings.Count(text.String(), "consensus stopped the process"); n != 1 || strings.Contains(text.String(), "goroutine ") {
			t.Fatalf("start %d: %d lines\n%s", i+1, n, text)
		}
	}
	node, _ = run(t.Context())
	if text := status("engine_held_back"); !strings.Contains(text, "PLY-606") || !strings.Contains(text, "Failed restoring view") {
		t.Errorf("status:\n%s", text)
	}
	if text, err := ask("", "health"); err == nil || !strings.Contains(text, "engine_held_back") {
		t.Errorf("health: %s", text)
	}
	if text, err := ask("", "tx", "history", "kept"); err != nil || !strings.Contains(text, "\"x\"") {
		t.Errorf("reads: %v %s", err, text)
	}
	stop(node)
}
