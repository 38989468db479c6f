package reputation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"

	"github.com/parley-p2p/parley/event"
)

func newID(t testing.TB) peer.ID {
	t.Helper()
	id, err := test.RandPeerID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func openBans(t testing.TB, cfg BansConfig) (*Bans, *event.Subscription) {
	t.Helper()
	bus := event.NewBus(1024)
	sub := bus.Subscribe()
	b, err := OpenBans(t.Context(), cfg, bus, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b, sub
}

// banEvents are the events that came, with their targets.
func banEvents(sub *event.Subscription) (list []string) {
	all, _ := sub.Take(1000)
	for _, e := range all {
		switch v := e.Data.(type) {
		case event.PeerBanned:
			list = append(list, "+"+v.Target)
		case event.PeerUnbanned:
			list = append(list, "-"+v.Target+" "+v.By)
		}
	}
	return list
}

func TestParseTarget(t *testing.T) {
	id := newID(t).String()
	for in, want := range map[string]string{
		id: id, " 203.0.113.7 ": "203.0.113.7", "203.0.113.7/32": "203.0.113.7", "203.0.113.7/24": "203.0.113.0/24",
		"::ffff:203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7/120": "203.0.113.0/24", "203.0.113.7:9906": "203.0.113.7",
		"[2001:db8::1]:9906": "2001:db8::1", "2001:db8::1/32": "2001:db8::/32", "fe80::1%eth0": "fe80::1",
		"/ip4/203.0.113.7/tcp/9906/p2p/" + id: "203.0.113.7", "/p2p/" + id: id, "/ip6/2001:db8::1/udp/9906/quic-v1": "2001:db8::1",
		"0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0",
	} {
		got, err := ParseTarget(in)
		if err != nil || got.String() != want {
			t.Errorf("%q is %q, %v; want %q", in, got, err, want)
			continue
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%q read back is %q, %v", got, again, err)
		}
	}
	for _, in := range []string{"", "host.example.org", "203.0.113.7/33", "203.0.113.300", "/dns4/host/tcp/1", "::/0/1", "::ffff:0:0/8", strings.Repeat("1", 600)} {
		if got, err := ParseTarget(in); err == nil {
			t.Errorf("%q was taken as %q", in, got)
		}
	}
	for in, want := range map[string]string{"203.0.113.0/33": "a prefix over 32: want 203.0.113.0/0 to /32", "2001:db8::/129": "a prefix over 128", "203.0.113.0/x": "no prefix that can be read"} {
		if _, err := ParseTarget(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"203.0.113.7/24", "::ffff:1.2.3.4", "/ip4/1.2.3.4/tcp/1", "12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj", "[::1]:1", "fe80::1%a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			return
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%q is %q, read back %q, %v", s, got, again, err)
		}
	})
}

// What is banned stays so over a restart, ends at its time, and a short ban
// under a long one does not end it.
func TestBansHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, id := t.TempDir(), newID(t)
		cfg := BansConfig{File: filepath.Join(dir, "bans.db"), Dir: dir, Self: newID(t)}
		b, sub := openBans(t, cfg)
		add := func(r BanRequest) {
			t.Helper()
			if _, _, err := b.Add(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		add(BanRequest{Target: id.String(), For: time.Hour})
		add(BanRequest{Target: "203.0.0.0/16", Forever: true})
		add(BanRequest{Target: "203.0.113.7", For: time.Minute, Reason: "spam"})
		add(BanRequest{Target: "203.0.0.0/16", For: time.Minute}) // no shorter
		if got, want := banEvents(sub), []string{"+" + id.String(), "+203.0.0.0/16", "+203.0.113.7"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b, sub = openBans(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		is := func(p peer.ID, a string, want bool) {
			t.Helper()
			addr, _ := netip.ParseAddr(a)
			if got := b.Banned(p, addr); got != want {
				t.Errorf("%s at %q banned: %v, want %v", p, a, got, want)
			}
		}
		is(id, "", true)
		is("", "203.0.113.7", true)
		is("", "::ffff:203.0.1.1", true)
		is("", "203.1.0.1", false)
		is(newID(t), "9.9.9.9", false)
		time.Sleep(2 * time.Minute)
		is("", "203.0.113.7", true) // by the /16
		time.Sleep(time.Hour)
		is(id, "", false)
		if got, want := banEvents(sub), []string{"-203.0.113.7 time", "-" + id.String() + " time"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		wide, err := ParseTarget("203.0.0.0/16")
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := b.Check(wide); !ok || v.Until != nil {
			t.Errorf("the /16 is %+v, %v", v, ok)
		}
		if err := b.Remove(t.Context(), wide, "token:ops"); err != nil {
			t.Fatal(err)
		}
		is("", "203.0.113.7", false)
		if err := b.Remove(t.Context(), wide, "token:ops"); !errors.Is(err, ErrNotBanned) {
			t.Errorf("lifted twice: %v", err)
		}
		if got, want := banEvents(sub), []string{"-203.0.0.0/16 token:ops"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		if n := len(b.List(true, nil)); n != 3 || b.Count() != 0 {
			t.Errorf("%d in the history and %d that hold", n, b.Count())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A net that ends leaves the one inside of it, and the other way round.
func TestNestedNets(t *testing.T) {
	b, _ := openBans(t, BansConfig{})
	for _, s := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.1"} {
		if _, _, err := b.Add(t.Context(), BanRequest{Target: s, Forever: true}); err != nil {
			t.Fatal(err)
		}
	}
	at, near := netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.1.1.2")
	for _, step := range []struct {
		lift string
		find string
	}{{"", "10.0.0.0/8"}, {"10.0.0.0/8", "10.1.0.0/16"}, {"10.1.0.0/16", ""}} {
		if step.lift != "" {
			target, err := ParseTarget(step.lift)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Remove(t.Context(), target, "me"); err != nil {
				t.Fatal(err)
			}
		}
		v, ok := b.Check(Target{Prefix: netip.PrefixFrom(near, 32)})
		if ok != (step.find != "") || ok && v.Target != step.find || b.Banned("", near) != ok || !b.Banned("", at) {
			t.Errorf("without %q: %v by %+v, want %q", step.lift, ok, v, step.find)
		}
	}
}

func TestMistakes(t *testing.T) {
	self, friend := newID(t), newID(t)
	b, _ := openBans(t, BansConfig{Self: self})
	b.Protect(func() Protected {
		return Protected{Self: self, Peers: []peer.ID{friend}, Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.7")}}
	})
	for name, r := range map[string]BanRequest{
		"itself": {Target: self.String()}, "friend": {Target: friend.String()}, "its address": {Target: "198.51.100.7"},
		"its net": {Target: "198.51.100.0/24"}, "wide": {Target: "12.0.0.0/7"}, "wide v6": {Target: "2000::/15"},
	} {
		var conflict *ConflictError
		if _, _, err := b.Add(t.Context(), r); !errors.As(err, &conflict) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := b.Plan(r); !errors.As(err, &conflict) {
			t.Errorf("%s, planned: %v", name, err)
		}
		r.Force = true
		if _, _, err := b.Add(t.Context(), r); err != nil {
			t.Errorf("%s, with force: %v", name, err)
		}
	}
	for name, r := range map[string]BanRequest{
		"past": {Target: "1.2.3.4", Until: time.Now().Add(-time.Second)}, "no year": {Target: "1.2.3.4", Until: time.Unix(1<<50, 0)}, "two ends": {Target: "1.2.3.4", For: time.Hour, Forever: true},
		"negative": {Target: "1.2.3.4", For: -1}, "name": {Target: "example.org"}, "long": {Target: "1.2.3.4", Note: strings.Repeat("x", 300)},
	} {
		if _, _, err := b.Add(t.Context(), r); err == nil || b.Banned("", netip.MustParseAddr("1.2.3.4")) {
			t.Errorf("%s was taken", name)
		}
	}
}

// A full list gives up the automatic ban that ends first, and never one of an
// operator.
func TestFullList(t *testing.T) {
	b, sub := openBans(t, BansConfig{Max: 3, Self: newID(t)})
	add := func(target, origin string, d time.Duration) error {
		_, _, err := b.Add(t.Context(), BanRequest{Target: target, Origin: origin, For: d})
		return err
	}
	for i, err := range []error{add("1.0.0.1", OriginAuto, 2*time.Hour), add("1.0.0.2", OriginAuto, time.Hour), add("1.0.0.3", OriginOperator, time.Minute)} {
		if err != nil {
			t.Fatal(i, err)
		}
	}
	banEvents(sub)
	if err := errors.Join(add("1.0.0.4", OriginOperator, time.Hour), add("1.0.0.5", OriginOperator, time.Hour), add("1.0.0.5", OriginOperator, 2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	want := []string{"+1.0.0.4", "-1.0.0.2 the list was full", "+1.0.0.5", "-1.0.0.1 the list was full", "+1.0.0.5"}
	if got := banEvents(sub); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if err := add("1.0.0.6", OriginOperator, time.Hour); !errors.Is(err, ErrBansFull) {
		t.Errorf("a fourth: %v", err)
	}
	if b.Count() != 3 {
		t.Errorf("%d hold", b.Count())
	}
}

// Bans of other nodes of the fleet are ours only where they are trusted or an
// operator's.
func TestFleetScopes(t *testing.T) {
	shared := &memory{}
	open := func(trust bool) *Bans {
		b, _ := openBans(t, BansConfig{Self: newID(t), TrustFleet: trust})
		b.store = shared
		return b
	}
	warned := 0
	a, wary, trusting := open(false), open(false), open(true)
	for target, origin := range map[string]string{"192.0.2.1": OriginAuto, "192.0.2.2": OriginOperator} {
		if _, _, err := a.Add(t.Context(), BanRequest{Target: target, Origin: origin}); err != nil {
			t.Fatal(err)
		}
	}
	p := newID(t)
	if _, _, err := a.Add(t.Context(), BanRequest{Target: p.String(), Origin: OriginAuto, Reason: "spam"}); err != nil {
		t.Fatal(err)
	}
	wary.foreign = func(q peer.ID, why string) {
		if warned++; q != p || why != "spam" {
			t.Errorf("warned of %s for %s", q, why)
		}
	}
	auto, operator := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for b, want := range map[*Bans]bool{wary: false, trusting: true} {
		b.sync(t.Context())
		if b.Banned("", auto) != want || !b.Banned("", operator) {
			t.Errorf("trusting %v: auto %v, operator %v", want, b.Banned("", auto), b.Banned("", operator))
		}
	}
	if warned != 1 || wary.Banned(p, netip.Addr{}) || !trusting.Banned(p, netip.Addr{}) {
		t.Errorf("warned %d times", warned)
	}
	if err := trusting.Remove(t.Context(), Target{Prefix: netip.PrefixFrom(auto, 32)}, "me"); err != nil {
		t.Fatal(err)
	}
	if a.sync(t.Context()); a.Banned("", auto) {
		t.Error("lifted elsewhere, and still held here")
	}
}

func BenchmarkBanned(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		l := newBanlist()
		rng := rand.New(rand.NewPCG(1, 2))
		rows := make([]row, 0, n)
		for range n {
			a := netip.AddrFrom4([4]byte{byte(1 + rng.IntN(220)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})
			p, err := a.Prefix(16 + rng.IntN(17))
			if err != nil {
				b.Fatal(err)
			}
			rows = append(rows, row{target: Target{Prefix: p.Masked()}, origin: OriginOperator})
		}
		l.put(rows, time.Now())
		addrs := make([]netip.Addr, 4096)
		for i := range addrs {
			addrs[i] = netip.AddrFrom4([4]byte{byte(1 + rng.IntN(220)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			hits := 0
			for i := 0; b.Loop(); i++ {
				hits += boolInt(l.addr(addrs[i%len(addrs)]))
			}
			_ = hits
		})
	}
}
