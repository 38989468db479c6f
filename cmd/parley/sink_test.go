package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/devnet"
)

// TestSinkOverRestart: a service behind a node reads all that happened from
// Kafka, over a clean restart without a gap, and after a crash with word of it,
// and with each block at least once.
func TestSinkOverRestart(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "parley.anna"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := filepath.Join(t.TempDir(), "d")
	sink := `sink=[{ kind = "kafka", url = "kafka://` + c.ListenAddrs()[0] + `", subject = "parley.{node}", types = ["node.*", "block.*"] }]`
	run := func(end os.Signal) {
		t.Helper()
		addr := freeAddr()
		cmd := parleyCommand(context.Background(), "run", "--data-dir", dir, "--api-listen", addr,
			"--set", "p2p.port=0", "--set", "profile=devnet", "--set", "ops.listen=", "--set", "node.name=anna", "--set", sink)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := &fleetNode{t: t, dir: dir, api: devnet.NewClient(dir)}
		defer n.api.HTTP.CloseIdleConnections()
		var v parley.Status
		n.until("it answers", patience, func() bool { return n.get("status", &v) == nil })
		submit(n, "hello")
		_ = cmd.Process.Signal(end)
		if err := cmd.Wait(); err != nil && end == os.Interrupt {
			t.Fatalf("%v\n%s", err, said.String())
		}
	}
	run(os.Interrupt)
	run(os.Kill)
	run(os.Interrupt)

	types, seqs := consume(t, c.ListenAddrs()[0], "parley.anna", 2)
	got := strings.Join(types, " ")
	const clean = "node.started block.stored node.stopping"
	want := regexp.MustCompile("^" + clean + "( node.started( block.stored)?)? lagged( block.stored)? " + clean + "$") // the kill cuts off, the ledger has the block once more
	seqs = slices.DeleteFunc(seqs, func(seq uint64) bool { return seq == 0 })
	if !want.MatchString(got) || strings.Count(got, "block.stored") < 3 || !slices.IsSorted(seqs) {
		t.Errorf("%s\nnumbers %v", got, seqs)
	}
}

// consume reads the events of a topic until a node has stopped so many times.
func consume(t *testing.T, addr, topic string, stops int) (types []string, seqs []uint64) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for stops > 0 {
		fetched := client.PollFetches(ctx)
		if err := fetched.Err0(); err != nil {
			t.Fatalf("after %s: %v", strings.Join(types, " "), err)
		}
		for _, r := range fetched.Records() {
			var e struct {
				Seq  uint64 `json:"seq"`
				Type string `json:"type"`
			}
			if err := json.Unmarshal(r.Value, &e); err != nil || string(r.Key) != "anna" {
				t.Fatalf("%s %s: %v", r.Key, r.Value, err)
			}
			if e.Type == "node.stopping" {
				stops--
			}
			types, seqs = append(types, e.Type), append(seqs, e.Seq)
		}
	}
	return types, seqs
}

// TestSinksAreReadAgain: a sink that is there goes on without a gap and without
// a repetition, one that is new begins, and a wrong one changes nothing.
func TestSinksAreReadAgain(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "first.anna", "second.anna"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	file := filepath.Join(t.TempDir(), "parley.toml")
	write := func(subjects ...string) {
		t.Helper()
		var b strings.Builder
		for _, s := range subjects {
			b.WriteString("[[sink]]\nkind = \"kafka\"\nurl = \"kafka://" + c.ListenAddrs()[0] + "\"\nsubject = \"" + s + ".{node}\"\ntypes = [\"node.*\", \"block.*\"]\n")
			if s == "wrong" {
				b.WriteString("credentials_file = \"none\"\n")
			}
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	dir := filepath.Join(t.TempDir(), "d")
	addr := freeAddr()
	cmd := parleyCommand(context.Background(), "run", "--config", file, "--data-dir", dir, "--api-listen", addr,
		"--set", "p2p.port=0", "--set", "profile=devnet", "--set", "ops.listen=", "--set", "node.name=anna")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := &fleetNode{t: t, dir: dir, api: devnet.NewClient(dir)}
	defer n.api.HTTP.CloseIdleConnections()
	var v parley.Status
	n.until("it answers", patience, func() bool { return n.get("status", &v) == nil })
	reload := func() (r parley.Reloaded, err error) {
		_, err = n.api.Do(t.Context(), "POST", "config/reload", nil, &r)
		return r, err
	}
	submit(n, "one")
	write("first", "wrong")
	if _, err := reload(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a sink without its credentials: %v", err)
	}
	submit(n, "two")
	write("second", "first")
	if r, err := reload(); err != nil || !slices.Equal(r.Changed, []string{"sink"}) || len(r.NeedsRestart) > 0 {
		t.Errorf("%+v %v", r, err)
	}
	n.until("the new sinks", patience, func() bool {
		page, err := os.ReadFile(filepath.Join(dir, "sinks.json"))
		return err == nil && bytes.Contains(page, []byte("second.{node}"))
	})
	submit(n, "three")
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	types, seqs := consume(t, c.ListenAddrs()[0], "first.anna", 1)
	if got := strings.Join(types, " "); got != "node.started block.stored block.stored block.stored node.stopping" || !slices.IsSorted(seqs) {
		t.Errorf("the first sink got %s\nnumbers %v", got, seqs)
	}
	if types, _ = consume(t, c.ListenAddrs()[0], "second.anna", 1); strings.Join(types, " ") != "block.stored node.stopping" {
		t.Errorf("the second sink got %v", types)
	}
}
