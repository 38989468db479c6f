package reputation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/pgtest"
)

// member is a node's ban list in a fleet.
func member(t *testing.T, d *pgtest.Database, self peer.ID) *Bans {
	t.Helper()
	b, err := OpenBans(t.Context(), BansConfig{Postgres: d.URL(), Dir: t.TempDir(), Self: self}, nil, nil)
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
	d := pgtest.New(t)
	t.Run("agree", func(t *testing.T) { // with the model of all stores
		s, err := openPostgres(t.Context(), d.URL(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		storesAgree(t, s)
	})
	a, b := member(t, d, newID(t)), member(t, d, newID(t))
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

	d.Stop("fast")
	add(a, "192.0.2.7")
	add(b, "192.0.2.8")
	if n, err := a.Pending(); n != 1 || err != nil || !a.Banned("", ip("192.0.2.7")) {
		t.Errorf("while the database is away: %d wait, %v", n, err)
	}
	if _, err := OpenBans(t.Context(), BansConfig{Postgres: d.URL(), Dir: t.TempDir()}, nil, nil); err == nil || !strings.Contains(err.Error(), "does not start without its bans") {
		t.Errorf("a start without the database: %v", err)
	}
	d.Start()
	until(t, "both have what the other one banned meanwhile", 40*time.Second, func() bool {
		return a.Banned("", ip("192.0.2.8")) && b.Banned("", ip("192.0.2.7"))
	})
	for _, on := range []*Bans{a, b} {
		if n, _ := on.Pending(); n != 0 {
			t.Errorf("%d wait", n)
		}
	}
}

// What the driver says in three lines is told in one, and is still its error.
func TestPostgresFaultIsOneLine(t *testing.T) {
	_, err := openPostgres(t.Context(), "postgres://u:secret@127.0.0.1:1/db", slog.New(slog.DiscardHandler))
	text := fmt.Sprint(err)
	if strings.ContainsAny(text, "\n`") || strings.Count(text, "connection refused") != 1 || strings.Contains(text, "secret") {
		t.Errorf("%q", text)
	}
	if _, is := errors.AsType[*pgconn.ConnectError](err); !is {
		t.Errorf("%T", err)
	}
}
