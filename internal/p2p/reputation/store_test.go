package reputation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// A file ends up with the same rows as the model after the same changes.
func TestSQLiteAgrees(t *testing.T) {
	s, err := openSQLite(t.Context(), filepath.Join(t.TempDir(), "bans.db"))
	if err != nil {
		t.Fatal(err)
	}
	storesAgree(t, s)
}

// storesAgree makes many random changes in real and in memory, and compares.
func storesAgree(t *testing.T, real store) {
	t.Helper()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	model := &memory{}
	defer func() {
		if err := real.close(); err != nil {
			t.Error(err)
		}
	}()
	now := time.UnixMilli(1_795_165_200_000)
	for range 300 {
		var ops []op
		for range 1 + rng.IntN(3) {
			target, err := ParseTarget(fmt.Sprintf("192.0.2.%d", rng.IntN(8)))
			if err != nil {
				t.Fatal(err)
			}
			r := row{target: target, scope: []string{"", "me", "you"}[rng.IntN(3)], reason: fmt.Sprint(rng.IntN(5)), origin: OriginAuto, actor: "a", created: now}
			if rng.IntN(4) > 0 {
				r.until = now.Add(time.Duration(1+rng.IntN(100)) * time.Minute)
			}
			o := op{row: r, lift: rng.IntN(4) == 0}
			if o.lift {
				o.row.lifted = now
				if rng.IntN(2) == 0 {
					o.row.scope = anyScope
				}
			}
			ops = append(ops, o)
		}
		for _, s := range []store{model, real} {
			if err := s.write(t.Context(), ops); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(time.Duration(rng.IntN(20)) * time.Minute)
	}
	after := rng.Int64N(300)
	want, err := model.since(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	got, err := real.since(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	// Rows of one op on all scopes may change in another order.
	for _, list := range [][]row{want, got} {
		slices.SortFunc(list, func(a, b row) int {
			return cmp.Or(cmp.Compare(a.target.String(), b.target.String()), cmp.Compare(a.scope, b.scope))
		})
		for i := range list {
			list[i].rev = 0
		}
	}
	if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(row{}, netip.Prefix{}, netip.Addr{}), gocmp.Comparer(func(a, b Target) bool { return a == b })); diff != "" {
		t.Errorf("seed %d:\n%s", seed, diff)
	}
	if err := real.purge(t.Context(), now.Add(1000*time.Hour)); err != nil {
		t.Fatal(err)
	}
	left, err := real.since(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range left {
		if !r.until.IsZero() || !r.lifted.IsZero() {
			t.Errorf("%+v is left after a purge", r)
		}
	}
}

// broken is a store that can be away.
type broken struct {
	store
	away bool
}

var errAway = errors.New("away")

func (b *broken) write(ctx context.Context, ops []op) error {
	if b.away {
		return errAway
	}
	return b.store.write(ctx, ops)
}

func (b *broken) since(ctx context.Context, rev int64) ([]row, error) {
	if b.away {
		return nil, errAway
	}
	return b.store.since(ctx, rev)
}

// A store that is away is stood in for: bans hold at once, and it is told when
// it is back, or at the next start; a torn line harms nothing.
func TestStoreAway(t *testing.T) {
	dir := t.TempDir()
	cfg := BansConfig{File: filepath.Join(dir, "bans.db"), Dir: dir}
	b, _ := openBans(t, cfg)
	s := &broken{store: b.store}
	b.store = s
	add := func(target string) {
		t.Helper()
		if _, _, err := b.Add(t.Context(), BanRequest{Target: target, Forever: true}); err != nil {
			t.Fatal(err)
		}
	}
	add("192.0.2.1")
	s.away = true
	add("192.0.2.2")
	first := Target{Prefix: netip.MustParsePrefix("192.0.2.1/32")}
	if err := b.Remove(t.Context(), first, "me"); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Pending(); n != 2 || err != nil || !b.Banned("", netip.MustParseAddr("192.0.2.2")) || b.Banned("", first.Prefix.Addr()) {
		t.Errorf("%d wait, %v: %+v", n, err, b.List(true, nil))
	}
	b.sync(t.Context()) // still away
	s.away = false
	b.sync(t.Context())
	if n, _ := b.Pending(); n != 0 {
		t.Errorf("%d wait", n)
	}
	s.away = true
	add("192.0.2.3")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "bans.pending.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(`{"target":"192.0.2.9","un`)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	b, _ = openBans(t, cfg)
	defer b.Close()
	var got []string
	for _, v := range b.List(false, nil) {
		got = append(got, v.Target)
	}
	slices.Sort(got)
	if want := []string{"192.0.2.2", "192.0.2.3"}; !slices.Equal(got, want) {
		t.Errorf("after a restart %v, want %v", got, want)
	}
	if n, _ := b.Pending(); n != 0 {
		t.Errorf("%d wait", n)
	}
	// Neither store nor journal: nothing is said to hold.
	b.store = &broken{store: b.store, away: true}
	b.journal.path = filepath.Join(dir, "none", "journal")
	if _, _, err := b.Add(t.Context(), BanRequest{Target: "192.0.2.4"}); err == nil || b.Banned("", netip.MustParseAddr("192.0.2.4")) {
		t.Errorf("a ban that is nowhere: %v", err)
	}
	if _, err := b.Pending(); err == nil {
		t.Error("the journal that fails is not told")
	}
}

// A damaged file keeps the node from starting, with the file and the mend named.
func TestDamagedBans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBans(t.Context(), BansConfig{File: path}, nil, nil); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a damaged list: %v", err)
	}
}
