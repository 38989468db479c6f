package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/internal/devnet"
	"github.com/parley-p2p/parley/internal/pgtest"
)

// fleetNode is a process of a fleet.
type fleetNode struct {
	t    *testing.T
	dir  string
	addr string // of API and peers
	id   string
	cmd  *exec.Cmd
	said *bytes.Buffer // after its end
	api  *devnet.Client
}

func startFleetNode(t *testing.T, name string, settings ...string) *fleetNode {
	t.Helper()
	addr := freeAddr()
	n := &fleetNode{t: t, addr: addr, dir: filepath.Join(t.TempDir(), name), said: &bytes.Buffer{}}
	args := []string{"run", "--data-dir", n.dir, "--api-listen", n.addr, "--set", "p2p.port=0", "--set", "profile=devnet", "--set", "ops.listen=", "--set", "discovery.dht=off", "--set", "discovery.pex=false"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	n.cmd = parleyCommand(context.Background(), args...)
	n.cmd.Stderr = n.said
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.api = devnet.NewClient(n.dir)
	t.Cleanup(func() {
		_ = n.cmd.Process.Signal(os.Interrupt)
		if err := n.cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%s ended with %v:\n%s", name, err, n.said)
		}
		n.api.HTTP.CloseIdleConnections()
	})
	var v parley.Status
	n.until("it answers", patience, func() bool { return n.get("status", &v) == nil })
	n.id = v.PeerID.String()
	return n
}

func (n *fleetNode) get(path string, out any) error {
	_, err := n.api.Do(n.t.Context(), http.MethodGet, path, nil, out)
	return err
}

// until waits for ok, and tells how long that took.
func (n *fleetNode) until(what string, most time.Duration, ok func() bool) time.Duration {
	n.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > most {
			n.t.Fatalf("not within %s: %s", most, what)
		}
		select {
		case <-n.t.Context().Done():
			n.t.Fatal(n.t.Context().Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return time.Since(began)
}

// parley runs a command against the node.
func (n *fleetNode) parley(args ...string) string {
	n.t.Helper()
	c := parleyCommand(n.t.Context(), args...)
	c.Env = append(c.Environ(), "PARLEY_NODE=unix:"+filepath.Join(n.dir, "parley.sock"))
	b, err := c.CombinedOutput()
	if err != nil {
		n.t.Fatalf("parley %s: %v\n%s", strings.Join(args, " "), err, b)
	}
	return string(b)
}

func (n *fleetNode) bans(target string) bool {
	var v struct{ Banned bool }
	return n.get("bans/check?target="+target, &v) == nil && v.Banned
}

// has reports whether o is a ready peer.
func (n *fleetNode) has(o *fleetNode) bool {
	var v parley.Peer
	return n.get("peers/"+o.id, &v) == nil && v.Ready
}

// bansNote is what health says of the store of bans.
func (n *fleetNode) bansNote() (ok bool, note string) {
	var h parley.Health
	if err := n.get("health", &h); err != nil {
		if _, ok := errors.AsType[*devnet.Refusal](err); !ok {
			n.t.Fatal(err)
		}
	}
	for _, c := range h.Checks {
		if c.Name == "bans" {
			return c.OK, c.Note
		}
	}
	return false, "no such check"
}

// deaf is a way to a PostgreSQL on which notifications are lost.
func deaf(t *testing.T, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			all.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
			all.Go(func() { _ = dropNotices(client, server); _ = client.Close() })
		}
	})
	return l.Addr().String()
}

// dropNotices passes on what a server says, but for its notifications.
func dropNotices(client io.Writer, server io.Reader) error {
	for {
		var head [5]byte // kind, and the length with itself
		if _, err := io.ReadFull(server, head[:]); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return err
		}
		if head[0] == 'A' {
			continue
		}
		if _, err := client.Write(append(head[:], body...)); err != nil {
			return err
		}
	}
}

// TestFleetOfProcesses is the story of a ban list that nodes share: what an
// operator bans on one is refused by all at once, by the one that no
// notification reaches within 30 s, and after an outage of the database, during
// which they work from memory, by all again. Nothing of it is shortened: the
// 30 s are those of a real poll.
func TestFleetOfProcesses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shared := "bans.store=" + db.URL()
	a := startFleetNode(t, "a", shared)
	b := startFleetNode(t, "b", shared, "p2p.static_peers="+a.addr)
	d := startFleetNode(t, "d", "bans.store="+strings.Replace(db.URL(), db.Addr(), deaf(t, db.Addr()), 1), "p2p.static_peers="+a.addr)
	guest := startFleetNode(t, "guest", "p2p.static_peers="+a.addr)
	guest.parley("peers", "add", b.addr)
	guest.parley("peers", "add", d.addr)
	fleet := []*fleetNode{a, b, d}
	all := func() bool { return a.has(guest) && b.has(guest) && d.has(guest) }
	guest.until("it has the whole fleet", 2*patience, all)

	// An operator bans on one.
	a.parley("bans", "add", guest.id, "--forever", "--note", "fleet")
	took := b.until("the other node parts with it too", 10*time.Second, func() bool { return !b.has(guest) })
	t.Logf("the other node parted with it %v after the ban", took)
	if took > time.Second {
		t.Errorf("the other node took %v to part with it, want at most a second", took)
	}
	late := d.until("the deaf node parts with it too", 35*time.Second, func() bool { return !d.has(guest) })
	t.Logf("the deaf node parted with it %v later", late)
	if late < 2*time.Second {
		t.Error("the deaf node heard of it: this proves nothing")
	}
	for _, n := range fleet {
		c := parleyCommand(t.Context(), "peers", "connect", n.addr, "--node", "unix:"+filepath.Join(guest.dir, "parley.sock"))
		if out, err := c.CombinedOutput(); err == nil {
			t.Errorf("it is let in: %s", out)
		}
	}
	b.parley("bans", "remove", guest.id)
	guest.until("it is let in again by the one that lifted it, and by the first", 2*patience, func() bool {
		for _, n := range []*fleetNode{a, b} {
			c := parleyCommand(t.Context(), "peers", "connect", n.addr, "--node", "unix:"+filepath.Join(guest.dir, "parley.sock"))
			_ = c.Run() // may be too soon
		}
		return a.has(guest) && b.has(guest)
	})

	// All connections are cut, those on which they listen too.
	if cut := db.SQL("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"); cut != "6" {
		t.Errorf("%s connections were cut, want two of each node", cut)
	}
	a.parley("bans", "add", "203.0.113.1")
	if _, note := a.bansNote(); note != "" {
		t.Errorf("a connection that was cut is no outage: %s", note)
	}
	t.Logf("after its connection was cut the other node knew a ban in %v", b.until("it knows a ban", 35*time.Second, func() bool { return b.bans("203.0.113.1") }))

	// The database is away while they run.
	db.Stop("fast")
	a.parley("bans", "add", "203.0.113.2", "--note", "meanwhile")
	b.parley("bans", "add", "203.0.113.3", "--note", "meanwhile")
	if !a.bans("203.0.113.2") || a.bans("203.0.113.3") {
		t.Error("a ban without the database holds not here, or there")
	}
	if ok, note := a.bansNote(); !ok || !strings.Contains(note, "working from memory: 1 changes wait") {
		t.Errorf("health of bans: %v %q", ok, note)
	}
	pending := filepath.Join(a.dir, "bans.pending.jsonl")
	if text, err := os.ReadFile(pending); err != nil || !strings.Contains(string(text), "203.0.113.2") {
		t.Errorf("journal: %v %s", err, text)
	}
	lonely := parleyCommand(t.Context(), "run", "--data-dir", filepath.Join(t.TempDir(), "lonely"), "--api-listen", "127.0.0.1:0", "--set", "p2p.port=0", "--set", "profile=devnet", "--set", "ops.listen=", "--set", shared)
	if out, err := lonely.CombinedOutput(); lonely.ProcessState.ExitCode() < 1 || !strings.Contains(string(out), "bans.store: open the ban list in PostgreSQL at 127.0.0.1") || !strings.Contains(string(out), "a node does not start without its bans") {
		t.Errorf("a start without the database: %v\n%s", err, out)
	}
	db.Start()
	t.Logf("all had what was banned meanwhile %v after the database was back", a.until("all know what was banned meanwhile", 70*time.Second, func() bool {
		return a.bans("203.0.113.3") && b.bans("203.0.113.2") && d.bans("203.0.113.2") && d.bans("203.0.113.3")
	}))
	a.until("nothing waits", 35*time.Second, func() bool {
		_, note := a.bansNote()
		_, err := os.Stat(pending)
		return note == "" && errors.Is(err, os.ErrNotExist)
	})
}
