package addrbook

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// rivals gives two peers of one group that have the same slot in tried.
func (b *Book) rivals(t *testing.T, group int) (old, comer peer.ID, addr func(peer.ID) ma.Multiaddr) {
	t.Helper()
	at := map[int32]int{}
	where := map[peer.ID]ma.Multiaddr{}
	name := b.GroupOf(ip4(group, 1))
	for i := 1; i < 60_000; i++ {
		id := fakeID(uint64(group)<<20 + uint64(i))
		slot := b.triedSlot(id, name)
		j, ok := at[slot]
		if !ok {
			at[slot] = i
			continue
		}
		old, comer = fakeID(uint64(group)<<20+uint64(j)), id
		where[old], where[comer] = ma.StringCast(tcp(ip4(group, j))), ma.StringCast(tcp(ip4(group, i)))
		for n, id := range []peer.ID{old, comer} {
			if err := b.tell(t, from(500+n, uint64(n)), id, where[id].String()); err != nil {
				t.Fatal(err)
			}
		}
		return old, comer, func(id peer.ID) ma.Multiaddr { return where[id] }
	}
	t.Fatal("no rivals")
	return
}

func (b *Book) table(t *testing.T, id peer.ID) Table {
	t.Helper()
	e, ok := b.Get(id)
	if !ok {
		t.Fatalf("%s is gone", id)
	}
	return e.Table
}

// Test before evict, with its times (DEFENCE 3).
func TestCollision(t *testing.T) {
	for _, c := range []struct {
		name string
		wait time.Duration // from the old one's success to the newcomer's
		then func(b *Book, old peer.ID, addr ma.Multiaddr)
		wins bool
	}{
		{"good within 4 h stays", stays - time.Minute, func(*Book, peer.ID, ma.Multiaddr) { time.Sleep(time.Hour) }, false},
		{"answers its test", stays, func(b *Book, old peer.ID, addr ma.Multiaddr) {
			if e, ok := b.Test(); !ok || e.ID != old {
				panic("no test of the old one")
			}
			b.Attempt(old)
			time.Sleep(10 * time.Second)
			b.Good(old, addr)
			time.Sleep(time.Hour)
		}, false},
		{"fails its test", stays, func(b *Book, old peer.ID, _ ma.Multiaddr) {
			b.Test()
			b.Attempt(old)
			b.Failed(old, "timeout")
		}, true},
		{"is silent for 60 s", stays, func(b *Book, _ peer.ID, _ ma.Multiaddr) {
			b.Test()
			time.Sleep(testFor)
			b.Test()
		}, true},
		{"is silent for 59 s", stays, func(b *Book, _ peer.ID, _ ma.Multiaddr) {
			b.Test()
			time.Sleep(testFor - time.Second)
			b.Test()
		}, false},
		{"undecided for 39 min", stays, func(b *Book, _ peer.ID, _ ma.Multiaddr) { time.Sleep(39 * time.Minute); b.Good(fakeID(1<<50), nil) }, false},
		{"undecided for 40 min", stays, func(b *Book, _ peer.ID, _ ma.Multiaddr) { time.Sleep(undecided); b.Failed(fakeID(0), ""); b.Test() }, true},
		{"another failure is no test", stays, func(b *Book, old peer.ID, _ ma.Multiaddr) { b.Failed(old, "timeout") }, false},
		{"an anchor stays", stays, func(b *Book, old peer.ID, _ ma.Multiaddr) {
			b.SetAnchors([]peer.ID{old})
			time.Sleep(time.Hour)
			b.Test()
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := opened(t, Config{})
				old, comer, addr := b.rivals(t, 1)
				b.Good(old, addr(old))
				time.Sleep(c.wait)
				b.Good(comer, addr(comer))
				if b.table(t, old) != Tried || b.table(t, comer) != New {
					t.Fatal("the newcomer won at once")
				}
				c.then(b, old, addr(old))
				if won := b.table(t, comer) == Tried; won != c.wins || (b.table(t, old) == Tried) == c.wins {
					t.Errorf("newcomer in %s, old in %s", b.table(t, comer), b.table(t, old))
				}
				b.check(t)
			})
		})
	}
}

// One test in two minutes, ten newcomers that wait.
func TestCollisionLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{})
		var comers []peer.ID
		for g := range 12 {
			old, comer, addr := b.rivals(t, g+1)
			b.Good(old, addr(old))
			time.Sleep(time.Second)
			comers = append(comers, comer)
			defer func() { _ = addr }()
			b.mu.Lock()
			b.entries[old].lastGood = at(time.Now().Add(-stays))
			b.mu.Unlock()
			b.Good(comer, addr(comer))
		}
		if n := b.Stats().Collisions; n != maxCollisions {
			t.Fatalf("%d collisions", n)
		}
		if _, ok := b.Test(); !ok {
			t.Fatal("no test")
		}
		for range 119 {
			time.Sleep(time.Second)
			if e, ok := b.Test(); ok {
				t.Fatalf("test of %s too early", e.ID)
			}
		}
		time.Sleep(time.Second)
		if _, ok := b.Test(); !ok {
			t.Error("no test after two minutes")
		}
		time.Sleep(undecided)
		b.Test()
		if n := b.Stats().Collisions; n != 0 {
			t.Errorf("%d collisions after 40 min", n)
		}
		in := 0
		for _, c := range comers {
			in += b2i(b.table(t, c) == Tried)
		}
		if in != maxCollisions {
			t.Errorf("%d newcomers in tried, want the 10 that waited", in)
		}
		b.check(t)
	})
}

// Only our own dial leads into tried; being seen or told of does not.
func TestOnlyGoodIsTried(t *testing.T) {
	b := opened(t, Config{})
	id := fakeID(1)
	for range 50 {
		if err := b.tell(t, Source{Kind: Inbound, Peer: id, IP: ip4(1, 1)}, id, tcp(ip4(1, 1))); err != nil {
			t.Fatal(err)
		}
		b.Seen(id)
	}
	if b.table(t, id) != New {
		t.Fatal("an inbound peer is in tried")
	}
	b.Good(id, nil)
	if e, _ := b.Get(id); e.Table != Tried || e.FirstGood.IsZero() || e.Fails != 0 {
		t.Errorf("after our dial: %+v", e)
	}
	b.Good(fakeID(2), ma.StringCast(tcp(ip4(2, 2)))) // a static peer, say
	if b.table(t, fakeID(2)) != Tried {
		t.Error("a peer that the book did not know is not kept")
	}
	b.Good(fakeID(3), nil)
	b.Good(fakeID(4), ma.StringCast("/ip4/10.0.0.1/tcp/1"))
	if len(b.Entries()) != 2 {
		t.Error("a peer without a usable address is kept")
	}
	b.check(t)
}

// What tried holds stands under the address that we reached: a record that
// names another one does not carry a peer into another group.
func TestProvedAddressStays(t *testing.T) {
	b := opened(t, Config{})
	id, src := fakeID(1), Source{Kind: Inbound, Peer: fakeID(1), IP: ip4(1, 1)}
	if err := b.tell(t, src, id, tcp(ip4(1, 1))); err != nil {
		t.Fatal(err)
	}
	b.Good(id, ma.StringCast(tcp(ip4(1, 1))))
	if err := b.tell(t, src, id, tcp(ip4(2, 2))); err != nil {
		t.Fatal(err)
	}
	if e, _ := b.Get(id); e.Group != "4:20.1" || len(e.Addrs) != 2 || e.Table != Tried {
		t.Errorf("after a claim: %+v", e)
	}
	b.Good(id, ma.StringCast(tcp(ip4(2, 2))))
	if e, _ := b.Get(id); e.Group != "4:20.2" || e.Table != Tried {
		t.Errorf("after a dial there: %+v", e)
	}
	b.check(t)
}

// Failures of a node that reaches nobody count once; marks double to a day.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{})
		dead, alive := fakeID(1), fakeID(2)
		for i, id := range []peer.ID{dead, alive} {
			if err := b.tell(t, from(9+i, 1), id, tcp(ip4(i, 1))); err != nil {
				t.Fatal(err)
			}
		}
		fails := func() int { e, _ := b.Get(dead); return e.Fails }
		for range 20 { // our line is down
			time.Sleep(time.Minute)
			b.Failed(dead, "timeout")
		}
		if fails() != 1 {
			t.Errorf("%d failures counted while nobody was reached", fails())
		}
		for range 3 {
			time.Sleep(time.Minute)
			b.Good(alive, nil)
			b.Failed(dead, "timeout")
		}
		if fails() != 4 {
			t.Errorf("%d failures", fails())
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 24, 24} {
			b.WrongNetwork(dead)
			e, _ := b.Get(dead)
			if got := time.Until(e.NotBefore).Round(time.Minute); got != want*time.Hour || e.Class != wrongClass {
				t.Errorf("mark %d: %v %s", i, got, e.Class)
			}
			if err := b.tell(t, from(9, 1), dead, tcp(ip4(0, 1))); !errors.Is(err, ErrOtherNetwork) {
				t.Errorf("told of a peer of another network: %v", err)
			}
		}
		if e, ok := b.Pick(PickOptions{Table: New}); ok {
			t.Errorf("picked %+v", e)
		}
		time.Sleep(24 * time.Hour)
		if err := b.tell(t, from(9, 1), dead, tcp(ip4(0, 1))); err != nil {
			t.Error(err)
		}
		b.Good(dead, nil)
		b.WrongNetwork(dead)
		if e, _ := b.Get(dead); time.Until(e.NotBefore).Round(time.Minute) != time.Hour {
			t.Errorf("a success did not clear the marks: %v", time.Until(e.NotBefore))
		}
		b.Failed(alive, "self")
		if _, ok := b.Get(alive); ok {
			t.Error("our own address is kept")
		}
	})
}

// Who may be replaced in new, and that a newcomer is dropped else.
func TestReplaceable(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) stamp { return at(now.Add(-d)) }
	day := 24 * time.Hour
	for _, c := range []struct {
		name string
		e    entry
		want bool
	}{
		{"fresh", entry{lastSeen: ago(day)}, false},
		{"unseen for 29 d", entry{lastSeen: ago(29 * day)}, false},
		{"unseen for 30 d", entry{lastSeen: ago(30 * day)}, true},
		{"2 tries", entry{lastSeen: ago(day), fails: 2}, false},
		{"3 tries", entry{lastSeen: ago(day), fails: 3}, true},
		{"3 tries, this minute", entry{lastSeen: ago(day), fails: 3, lastTry: ago(time.Second)}, false},
		{"3 tries, once good", entry{lastSeen: ago(day), fails: 3, firstGood: 1, lastGood: ago(8 * day)}, false},
		{"10 fails in 7 d", entry{lastSeen: ago(day), fails: 10, firstGood: 1, lastGood: ago(7 * day)}, true},
		{"10 fails in 6 d", entry{lastSeen: ago(day), fails: 10, firstGood: 1, lastGood: ago(6 * day)}, false},
		{"anchor", entry{anchor: true}, false},
	} {
		if got := c.e.replaceable(now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
