package reputation

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// database is a PostgreSQL of the test's own.
type database struct {
	t    *testing.T
	bin  string
	dir  string
	cred *syscall.Credential // it does not run as root
	port int
}

// newDatabase starts one, from Debian's packages; scripts/setup installs them.
func newDatabase(t *testing.T) *database {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: as root, apt-get install postgresql")
	}
	d := &database{t: t, bin: filepath.Dir(found[len(found)-1])}
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	d.run("initdb", "-D", d.dir+"/data", "-U", "parley", "-A", "trust", "--no-sync")
	d.start()
	t.Cleanup(func() { d.stop("immediate") })
	return d
}

func (d *database) run(name string, args ...string) {
	d.t.Helper()
	cmd := exec.CommandContext(context.Background(), filepath.Join(d.bin, name), args...)
	cmd.Dir = d.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (d *database) start() {
	d.t.Helper()
	d.run("pg_ctl", "-D", d.dir+"/data", "-w", "-t", "60", "-l", d.dir+"/log", "-o",
		fmt.Sprintf("-c listen_addresses=127.0.0.1 -p %d -k %s -c fsync=off", d.port, d.dir), "start")
}

func (d *database) stop(mode string) {
	d.t.Helper()
	d.run("pg_ctl", "-D", d.dir+"/data", "-w", "-m", mode, "stop")
}

func (d *database) url() string {
	return fmt.Sprintf("postgres://parley@127.0.0.1:%d/postgres?sslmode=disable", d.port)
}

// member is a node's ban list in a fleet.
func (d *database) member(t *testing.T, self peer.ID) *Bans {
	t.Helper()
	b, err := OpenBans(t.Context(), BansConfig{Postgres: d.url(), Dir: t.TempDir(), Self: self}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func until(t *testing.T, what string, within time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// Nodes on one PostgreSQL share what operators ban, at once; after an outage of
// the database, during which each works from memory, they agree again.
func TestFleetOnPostgres(t *testing.T) {
	d := newDatabase(t)
	t.Run("agree", func(t *testing.T) { // with the model of all stores
		s, err := openPostgres(t.Context(), d.url(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		storesAgree(t, s)
	})
	a, b := d.member(t, newID(t)), d.member(t, newID(t))
	ip := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	add := func(on *Bans, target string) {
		t.Helper()
		if _, _, err := on.Add(t.Context(), BanRequest{Target: target, Forever: true}); err != nil {
			t.Fatal(err)
		}
	}
	add(a, "203.0.113.1")
	took := until(t, "the other node bans it too", 10*time.Second, func() bool { return b.Banned("", ip("203.0.113.1")) })
	t.Logf("a ban reached the other node in %v", took)
	if err := b.Remove(t.Context(), Target{Prefix: netip.MustParsePrefix("203.0.113.1/32")}, "b"); err != nil {
		t.Fatal(err)
	}
	until(t, "it is lifted there too", 10*time.Second, func() bool { return !a.Banned("", ip("203.0.113.1")) })

	// Many at once, from both: none is missed.
	var wg sync.WaitGroup
	for i, on := range []*Bans{a, b} {
		wg.Go(func() {
			for n := range 50 {
				if _, _, err := on.Add(t.Context(), BanRequest{Target: fmt.Sprintf("198.51.%d.%d", 100+i, n), Forever: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	all := func(on *Bans) bool {
		return len(on.List(false, func(v *Ban) bool { return strings.HasPrefix(v.Target, "198.51.") })) == 100
	}
	until(t, "both have all", 10*time.Second, func() bool { return all(a) && all(b) })

	d.stop("fast")
	add(a, "192.0.2.7")
	add(b, "192.0.2.8")
	if n, err := a.Pending(); n != 1 || err != nil || !a.Banned("", ip("192.0.2.7")) {
		t.Errorf("while the database is away: %d wait, %v", n, err)
	}
	if _, err := OpenBans(t.Context(), BansConfig{Postgres: d.url(), Dir: t.TempDir()}, nil, nil); err == nil || !strings.Contains(err.Error(), "does not start without its bans") {
		t.Errorf("a start without the database: %v", err)
	}
	d.start()
	until(t, "both have what the other one banned meanwhile", 40*time.Second, func() bool {
		return a.Banned("", ip("192.0.2.8")) && b.Banned("", ip("192.0.2.7"))
	})
	for _, on := range []*Bans{a, b} {
		if n, _ := on.Pending(); n != 0 {
			t.Errorf("%d wait", n)
		}
	}
}
