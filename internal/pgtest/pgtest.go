// Package pgtest owns a PostgreSQL of a test's own.
package pgtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Database is one. Its methods fail the test themselves.
type Database struct {
	t    *testing.T
	bin  string
	dir  string
	cred *syscall.Credential // it does not run as root
	port int
}

// New starts one, from Debian's packages; scripts/setup installs them.
func New(t *testing.T) *Database {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: as root, apt-get install postgresql")
	}
	d := &Database{t: t, bin: filepath.Dir(found[len(found)-1])}
	d.dir, err = os.MkdirTemp("", "parley-pg-") //nolint:usetesting // another user goes in, and the path of its socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(d.dir) })
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skipf("PostgreSQL does not run as root, and there is no user postgres: %v", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		d.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(d.dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	d.run("initdb", "-D", d.dir+"/data", "-U", "parley", "-A", "trust", "--no-sync")
	d.Start()
	t.Cleanup(func() { d.Stop("immediate") })
	return d
}

func (d *Database) run(name string, args ...string) string {
	d.t.Helper()
	cmd := exec.CommandContext(context.Background(), filepath.Join(d.bin, name), args...)
	cmd.Dir = d.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.cred}
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// Start starts it again, on what it held.
func (d *Database) Start() {
	d.t.Helper()
	d.run("pg_ctl", "-D", d.dir+"/data", "-w", "-t", "60", "-l", d.dir+"/log", "-o",
		fmt.Sprintf("-c listen_addresses=127.0.0.1 -p %d -k %s -c fsync=off", d.port, d.dir), "start")
}

// Stop stops it; mode is that of pg_ctl: smart, fast or immediate.
func (d *Database) Stop(mode string) {
	d.t.Helper()
	d.run("pg_ctl", "-D", d.dir+"/data", "-w", "-m", mode, "stop")
}

// Addr is where it listens.
func (d *Database) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port)) }

// SQL runs a statement and returns the bare values that it gives.
func (d *Database) SQL(statement string) string {
	d.t.Helper()
	return strings.TrimSpace(d.run("psql", "-At", "-d", d.URL(), "-c", statement))
}

// URL is its connection string.
func (d *Database) URL() string {
	return fmt.Sprintf("postgres://parley@127.0.0.1:%d/postgres?sslmode=disable", d.port)
}
