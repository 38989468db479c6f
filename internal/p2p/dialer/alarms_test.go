package dialer

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// upIn makes so many outbound peers that are up, spread over groups.
func upIn(s *Slots, n, groups int) {
	clear(s.held)
	for i := range n {
		id := peer.ID(fmt.Sprint("up", i))
		s.held[id] = &hold{id: id, slot: SlotOutbound, up: true, public: true, group: fmt.Sprint("4:", i%groups)}
	}
}

// A node with many outbound peers in very few groups may see what one hand wants
// it to see; after ten minutes of that it says so, until they are spread again.
func TestFewGroups(t *testing.T) {
	s := doors(t, 8, nil)
	now := time.Now()
	look := func() bool {
		s.diversity(now)
		s.eclipse(chain.Head{}, nil, now)
		return s.fns.Alarms.On(alarmEclipse)
	}
	s.watch.begin(chain.Head{}, now)
	upIn(s, 8, 3)
	look()
	if now = now.Add(10*time.Minute - time.Second); look() {
		t.Error("8 peers in 3 groups: alarm within ten minutes")
	}
	if now = now.Add(time.Second); !look() {
		t.Error("8 peers in 3 groups for ten minutes: no alarm")
	}
	if upIn(s, 8, 4); look() {
		t.Error("8 peers in 4 groups: the alarm stands")
	}
	upIn(s, 7, 3)
	look()
	if now = now.Add(time.Hour); look() {
		t.Error("7 peers in 3 groups: alarm")
	}
}

// Outbound peers that share a group are told of as long as they do.
func TestSharedGroups(t *testing.T) {
	s := doors(t, 8, nil)
	for _, c := range []struct {
		peers, groups int
		want          bool
	}{{3, 3, false}, {3, 2, true}, {2, 2, false}, {0, 1, false}} {
		upIn(s, c.peers, c.groups)
		if s.diversity(time.Now()); s.fns.Alarms.On(alarmDiversity) != c.want {
			t.Errorf("%d peers in %d groups: alarm %v", c.peers, c.groups, !c.want)
		}
	}
}

// fill puts n peers into the book, proven where good is set.
func fill(t *testing.T, b *addrbook.Book, n int, good bool) (ids []peer.ID) {
	t.Helper()
	for i := range n {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		id, err := peer.IDFromPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		a := ma.StringCast(fmt.Sprintf("/ip4/%d.%d.0.1/udp/9906/quic-v1", 20+i/250, i%250))
		src := addrbook.Source{Kind: addrbook.Operator, IP: netip.AddrFrom4([4]byte{byte(20 + i%100), byte(i), 0, 1})}
		if b.AddBare(src, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{a}}) != nil {
			continue // its place is taken
		}
		if good {
			b.Good(id, a)
		}
		ids = append(ids, id)
	}
	return ids
}

// Fewer than half of the slots filled for five minutes, though the book knows of
// more peers, is told until there are enough.
func TestLowPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := doors(t, 8, nil)
		s.cfg.Outbound = 8
		on := func() bool {
			s.diversity(time.Now())
			return s.fns.Alarms.On(alarmLowPeers)
		}
		upIn(s, 3, 3)
		s.fill.noKind = time.Now() // nobody fits
		if on(); s.book.Stats().New != 0 || on() {
			t.Error("a book of nobody")
		}
		fill(t, s.book, 20, false)
		on()
		if time.Sleep(5*time.Minute - time.Second); on() {
			t.Error("alarm within five minutes")
		}
		if time.Sleep(time.Second); !on() {
			t.Error("3 of 8 for five minutes: no alarm")
		}
		if upIn(s, 4, 4); on() {
			t.Error("4 of 8: the alarm stands")
		}
	})
}

// More than twenty evictions a minute are a flood, and a minute later none.
func TestEvictionsAreAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := map[peer.ID]Peer{}
		s := doors(t, 30, table)
		come := func(n int) {
			for range n {
				p := inboundFrom(peer.ID(fmt.Sprint(len(s.inbound.losers), len(table), time.Now())), fmt.Sprintf("%d.%d.1.1", 20+len(s.inbound.losers), len(table)))
				table[p.ID] = p
				evict, err := s.Admit(p.ID)
				if err != nil {
					t.Fatal(err)
				}
				delete(table, evict)
				p.Ready = true
				table[p.ID] = p
				time.Sleep(time.Second)
			}
			s.flood(time.Now())
		}
		if come(30 + 20); s.fns.Alarms.On(alarmFlood) {
			t.Error("20 evictions a minute are a flood")
		}
		if come(1); !s.fns.Alarms.On(alarmFlood) {
			t.Error("21 evictions a minute are no flood")
		}
		time.Sleep(time.Minute)
		if s.flood(time.Now()); s.fns.Alarms.On(alarmFlood) {
			t.Error("the flood does not end")
		}
	})
}

// Where more than three of ten proven peers are not there any more when the book
// has them tested, newcomers press for the places of a book that was made so. It
// is over when they are there again, or nothing more was seen for an hour; what
// fails while nobody is connected is our own line.
func TestBookOfTheGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := doors(t, 8, nil)
		ids := fill(t, s.book, 40, true)
		tried := s.book.Stats().Tried
		most := tried * 3 / 10 // no alarm yet
		if most < deadFrom {
			t.Fatalf("%d tried peers: this proves nothing", tried)
		}
		on := func() bool {
			s.poisoned(time.Now())
			return s.fns.Alarms.On(alarmPoisoned)
		}
		test := func(class Class, alone bool, ids ...peer.ID) {
			for _, id := range ids {
				s.tested(&hold{id: id, slot: SlotFeeler, test: true, alone: alone}, class, time.Now())
			}
		}
		for _, id := range ids {
			s.tested(&hold{id: id, slot: SlotFeeler}, ClassTimeout, time.Now()) // new ones are looked at too
		}
		if test(ClassTimeout, true, ids...); on() {
			t.Error("our own line")
		}
		for range 3 {
			test(ClassTimeout, false, ids[:most]...)
		}
		if on() {
			t.Errorf("%d of %d are gone: alarm", most, tried)
		}
		if test(ClassRefused, false, ids[most]); !on() {
			t.Errorf("%d of %d are gone: no alarm", most+1, tried)
		}
		if test("", false, ids[most]); on() {
			t.Error("one is there again: the alarm stands")
		}
		test(ClassRefused, false, ids[most])
		on()
		if time.Sleep(time.Hour - time.Second); !on() {
			t.Error("over within an hour")
		}
		if time.Sleep(time.Second); on() || len(s.dead) != 0 {
			t.Error("an hour later the alarm stands")
		}
	})
}

// What slots there are of 100 and of fewer places.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		target, most                 int
		outbound, blockOnly, inbound int
	}{{8, 100, 8, 2, 64}, {8, 16, 8, 2, 1}, {8, 50, 8, 2, 26}, {40, 130, 40, 2, 62}, {1, 1, 1, 0, 1}} {
		if got := Places(c.target, c.most); got.Outbound != c.outbound || got.BlockOnly != c.blockOnly || got.Inbound != c.inbound {
			t.Errorf("of %d with %d outbound: %+v, want %+v", c.most, c.target, got, c)
		}
	}
}
