package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/devnet"
)

// startNATS starts a nats-server with a stream of what nodes send there.
func startNATS(t *testing.T, addr, dir string) jetstream.Stream {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	server := exec.CommandContext(context.Background(), "nats-server", "-js", "-sd", dir, "-a", host, "-p", port)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	conn, err := nats.Connect(addr, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "events", Subjects: []string{"parley.>"}, Duplicates: time.Hour})
		if err == nil {
			return stream
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestRecordsOverOutage: what a node stored while NATS was down and it was
// killed, twice, comes to a consumer from the ledger: every record at least
// once and in order. What it sent before a crash and sends again NATS drops.
func TestRecordsOverOutage(t *testing.T) {
	if _, err := exec.LookPath("nats-server"); err != nil {
		t.Skip("nats-server is not installed: as root, apt-get install nats-server")
	}
	server, dir := freeAddr(), filepath.Join(t.TempDir(), "d")
	sink := `sink=[{ kind = "nats", url = "nats://` + server + `", types = ["block.stored", "record.committed"] }]`
	var n *fleetNode
	start := func() {
		t.Helper()
		cmd := parleyCommand(context.Background(), "run", "--data-dir", dir, "--api-listen", freeAddr(),
			"--set", "p2p.port=0", "--set", "profile=devnet", "--set", "ops.listen=", "--set", "node.name=anna", "--set", sink)
		n = &fleetNode{t: t, dir: dir, cmd: cmd, said: new(bytes.Buffer), api: devnet.NewClient(dir)}
		cmd.Stderr = n.said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		var v parley.Status
		n.until("it answers", patience, func() bool { return n.get("status", &v) == nil })
		n.until("its sink has begun", patience, func() bool { _, err := os.Stat(filepath.Join(dir, "sinks.json")); return err == nil })
	}
	end := func(how os.Signal) {
		n.api.HTTP.CloseIdleConnections()
		_ = n.cmd.Process.Signal(how)
		if err := n.cmd.Wait(); err != nil && how != os.Kill {
			t.Fatalf("%v\n%s", err, n.said)
		}
	}
	var ids []string
	write := func(records int) {
		t.Helper()
		for i := range records {
			var answer struct{ ID string }
			if _, err := n.api.Do(t.Context(), http.MethodPost, "records", map[string]any{"subject": fmt.Sprint("thing ", i), "body": len(ids)}, &answer); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, answer.ID)
		}
	}
	start()
	write(30)
	end(os.Kill)
	start()
	write(20)
	end(os.Kill)
	start()
	stream := startNATS(t, server, t.TempDir())
	n.until("the sink has all", 2*patience, func() bool { return len(committed(t, stream)) >= len(ids) })
	write(10)
	n.until("the sink has all", patience, func() bool { return len(committed(t, stream)) >= len(ids) })
	end(os.Kill) // what it sent within the last seconds is not noted in sinks.json
	start()
	write(1)
	end(os.Interrupt)
	if got := committed(t, stream); !slices.Equal(got, ids) {
		t.Errorf("%d records came, in order and once: %d were written\n%v\n%v\n%s", len(got), len(ids), got, ids, n.said)
	}
}

// committed are the ids of the records that a consumer of the stream reads.
func committed(t *testing.T, stream jetstream.Stream) (ids []string) {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= info.State.LastSeq; i++ {
		m, err := stream.GetMsg(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Type string
			Data struct{ ID string }
		}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == "record.committed" {
			ids = append(ids, e.Data.ID)
		}
	}
	return ids
}
