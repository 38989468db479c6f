package addrbook

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// What is wrong is refused by its error, counted by its reason, and leaves
// nothing behind.
func TestAddRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour) // bubbles begin in 2000: records of our time would be of the future
		reg := prometheus.NewRegistry()
		self, alice, mallory := somebody(t, 1), somebody(t, 2), somebody(t, 3)
		banned := somebody(t, 4)
		b, err := Open(Config{Self: self.id, Banned: func(p peer.ID, ip netip.Addr) bool {
			return p == banned.id || ip == netip.MustParseAddr("20.66.0.1")
		}}, nil, nil, reg)
		if err != nil {
			t.Fatal(err)
		}
		src := Source{Kind: PEX, Peer: mallory.id, IP: ip4(7, 7)}
		const good = "/ip4/20.1.0.1/tcp/9906"
		torn := alice.sign(good)
		torn[len(torn)-1] ^= 1
		now := uint64(time.Now().UnixNano())
		var many []string
		for i := range 200 {
			many = append(many, tcp(ip4(i, 1)))
		}
		long := "/dns4/" + strings.Repeat("x", 250) + ".org/tcp/1"
		for _, c := range []struct {
			name, reason string
			envelope     []byte
			want         error
		}{
			{"torn signature", "forged", torn, ErrForged},
			{"another's id", "forged", mallory.signAs(alice.id, now, good), ErrForged},
			{"no envelope", "forged", []byte("x"), ErrForged},
			{"empty", "forged", nil, ErrForged},
			{"200 addresses", "too_large", alice.sign(many...), ErrTooLarge},
			{"old, in ns", "expired", alice.signAs(alice.id, now-uint64(181*24*time.Hour), good), ErrExpired},
			{"old, in s", "expired", alice.signAs(alice.id, now/1e9-181*24*3600, good), ErrExpired},
			{"self", "self", self.sign(good), ErrSelf},
			{"banned id", "banned", banned.sign(good), ErrBanned},
			{"banned ip", "banned", alice.sign("/ip4/20.66.0.1/tcp/9906"), ErrBanned},
			{"no address", "not_dialable", alice.sign(), ErrNotDialable},
			{"unspecified", "not_dialable", alice.sign("/ip4/0.0.0.0/tcp/9906", "/ip6/::/tcp/9906"), ErrNotDialable},
			{"loopback", "not_dialable", alice.sign("/ip4/127.0.0.1/tcp/9906", "/ip6/::1/tcp/9906", "/dns4/localhost/tcp/1"), ErrNotDialable},
			{"private", "not_dialable", alice.sign("/ip4/10.0.0.1/tcp/1", "/ip4/100.64.1.1/tcp/1", "/ip6/fd00::1/tcp/1", "/dns4/node1/tcp/1"), ErrNotDialable},
			{"mapped private", "not_dialable", alice.sign("/ip6/::ffff:10.0.0.1/tcp/1"), ErrNotDialable},
			{"link-local", "not_dialable", alice.sign("/ip4/169.254.1.1/tcp/1", "/ip6/fe80::1/tcp/1"), ErrNotDialable},
			{"tunnel", "not_dialable", alice.sign("/ip6/2002:1400::1/tcp/1", "/ip6/64:ff9b::1400:1/tcp/1"), ErrNotDialable},
			{"multicast", "not_dialable", alice.sign("/ip4/224.0.0.1/tcp/1", "/ip6/ff02::1/tcp/1"), ErrNotDialable},
			{"documentation", "not_dialable", alice.sign("/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1", "/dns4/a.test/tcp/1"), ErrNotDialable},
			{"port 0", "not_dialable", alice.sign("/ip4/20.1.0.1/tcp/0", "/ip4/20.1.0.1/udp/0/quic-v1"), ErrNotDialable},
			{"other transports", "not_dialable", alice.sign("/ip4/20.1.0.1", "/ip4/20.1.0.1/udp/1", "/ip4/20.1.0.1/sctp/1", "/unix/a"), ErrNotDialable},
			{"another peer's", "not_dialable", alice.sign(good + "/p2p/" + mallory.id.String()), ErrNotDialable},
			{"endless name", "not_dialable", alice.sign(long), ErrNotDialable},
		} {
			time.Sleep(time.Minute) // rate
			before := metric(t, reg, "parley_addrbook_rejected_total", c.reason)
			if err := b.Add(src, c.envelope); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
			if got := metric(t, reg, "parley_addrbook_rejected_total", c.reason); got != before+1 {
				t.Errorf("%s: counted %v times as %s", c.name, got-before, c.reason)
			}
		}
		if n := len(b.Entries()); n != 0 {
			t.Errorf("%d entries", n)
		}
		for _, kind := range []Kind{DHT, PEX, Inbound, "x"} {
			if err := b.AddBare(Source{Kind: kind}, peer.AddrInfo{ID: alice.id, Addrs: []ma.Multiaddr{ma.StringCast(good)}}); !errors.Is(err, ErrBare) {
				t.Errorf("bare address from %s: %v", kind, err)
			}
		}
		if err := b.AddBare(Source{Kind: MDNS}, peer.AddrInfo{ID: alice.id, Addrs: []ma.Multiaddr{ma.StringCast(good)}}); !errors.Is(err, ErrNotDialable) {
			t.Errorf("public address from mDNS: %v", err)
		}
		if err := b.AddBare(Source{Kind: Static}, peer.AddrInfo{Addrs: []ma.Multiaddr{ma.StringCast(good)}}); !errors.Is(err, ErrNotDialable) {
			t.Errorf("nobody's address: %v", err)
		}
		b.check(t)
	})
}

// One entry holds what can be dialled of a record, at most 8 addresses, and
// follows the newest record.
func TestAddTakes(t *testing.T) {
	b := opened(t, Config{})
	alice := somebody(t, 1)
	src := Source{Kind: DHT, Peer: fakeID(9), IP: ip4(9, 9)}
	var ten []string
	for i := range 10 {
		ten = append(ten, fmt.Sprintf("/ip4/20.1.0.1/tcp/%d", i+1))
	}
	first := alice.sign(append([]string{"/ip4/10.0.0.1/tcp/1"}, ten...)...)
	if err := b.Add(src, first); err != nil {
		t.Fatal(err)
	}
	e, ok := b.Get(alice.id)
	if !ok || len(e.Addrs) != 8 || e.Group != "4:20.1" || e.Table != New || e.Record == nil || string(e.Record.Envelope) != string(first) || e.Sources[0] != src {
		t.Fatalf("entry %+v", e)
	}
	second := alice.sign("/ip4/30.2.0.1/udp/9/quic-v1/p2p/"+alice.id.String(), "/dns4/a.example.org/tcp/443/tls/ws")
	if err := b.Add(src, second); err != nil {
		t.Fatal(err)
	}
	if e, _ := b.Get(alice.id); e.Group != "4:30.2" || len(e.Addrs) != 2 || e.Addrs[0].String() != "/ip4/30.2.0.1/udp/9/quic-v1" {
		t.Errorf("after a newer record: %+v", e)
	}
	if err := b.Add(src, first); !errors.Is(err, ErrStale) {
		t.Errorf("older record: %v", err)
	}
	if err := b.Add(src, second); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if kind, anchor := b.Origin(alice.id); kind != DHT || anchor || !b.Has(alice.id) {
		t.Errorf("told of by %q, anchor %v, known %v", kind, anchor, b.Has(alice.id))
	}
	b.Good(alice.id, nil)
	b.SetAnchors([]peer.ID{alice.id})
	if kind, anchor := b.Origin(alice.id); kind != DHT || !anchor {
		t.Errorf("as an anchor told of by %q, anchor %v", kind, anchor)
	}
	if kind, anchor := b.Origin(fakeID(8)); kind != "" || anchor || b.Has(fakeID(8)) {
		t.Errorf("a stranger is told of by %q, anchor %v", kind, anchor)
	}
	b.check(t)
}

// A private book takes a LAN, and loopback only from this machine.
func TestPrivate(t *testing.T) {
	b := opened(t, Config{Private: true})
	lan, here := netip.MustParseAddr("192.168.1.9"), netip.MustParseAddr("127.0.0.1")
	for i, c := range []struct {
		ip   netip.Addr
		addr string
		ok   bool
	}{
		{lan, "/ip4/192.168.1.10/tcp/1", true}, {lan, "/ip4/127.0.0.1/tcp/1", false}, {here, "/ip4/127.0.0.1/tcp/1", true},
		{lan, "/dns4/node1/tcp/1", true}, {lan, "/ip4/0.0.0.0/tcp/1", false}, {lan, "/ip6/fd00::1/tcp/1", true}, {lan, "/ip4/20.1.1.1/tcp/1", true},
	} {
		p := somebody(t, uint64(i))
		err := b.Add(Source{Kind: PEX, Peer: fakeID(1), IP: c.ip}, p.sign(c.addr))
		if (err == nil) != c.ok {
			t.Errorf("%s from %s: %v", c.addr, c.ip, err)
		}
	}
	n := 0
	for i := range uint64(40) { // containers of one machine
		if b.tell(t, Source{Kind: Inbound, Peer: fakeID(i), IP: lan}, fakeID(i), fmt.Sprintf("/ip4/192.168.1.77/tcp/%d", 9000+i)) == nil {
			n++
		}
	}
	if n == 0 || n > perSharing {
		t.Errorf("%d peers at one private address", n)
	}
	b.check(t)
}

func TestGroups(t *testing.T) {
	b := opened(t, Config{})
	for in, want := range map[string]string{
		"20.1.2.3": "4:20.1", "::ffff:20.1.2.3": "4:20.1", "2a00:1450:1::9": "6:2a00:1450", "10.1.2.3": "4:10.1.2",
		"192.168.1.9": "4:192.168.1", "fd00:1:2:3::4": "6:fd00:1:2:3", "127.0.0.1": "4:127.0.0", "::1": "6:0:0:0:0",
	} {
		if got := b.GroupOf(netip.MustParseAddr(in)); got != want {
			t.Errorf("group of %s is %s, want %s", in, got, want)
		}
	}
	relay := "/ip4/20.1.2.3/tcp/1/p2p/" + fakeID(1).String() + "/p2p-circuit"
	for in, want := range map[string]string{relay: "4:20.1", "/dns4/a.example.org/tcp/1": "dns", "/ip6/2a00:1450::1/udp/1/quic-v1": "6:2a00:1450", "/unix/a": ""} {
		if got := b.Group(ma.StringCast(in)); got != want {
			t.Errorf("group of %s is %q, want %q", in, got, want)
		}
	}
	if b.GroupOf(netip.Addr{}) != "" || b.Group(nil) != "" {
		t.Error("nothing has a group")
	}
}

func TestASMap(t *testing.T) {
	m, err := readASMap(strings.NewReader("# comment\n20.0.0.0/8 AS64500\n\n20.1.0.0/16 64501 # inner\n2a00:1450::/32\tas64500\n"))
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"20.9.1.1": "as:64500", "20.1.1.1": "as:64501", "2a00:1450::1": "as:64500", "30.1.1.1": "4:30.1", "10.0.0.1": "4:10.0.0",
	} {
		if got := m.group(netip.MustParseAddr(in)); got != want {
			t.Errorf("group of %s is %s, want %s", in, got, want)
		}
	}
	for text, want := range map[string]string{
		"20.0.0.0/8": "line 1", "\nx AS1": "line 2", "20.0.0.0/8 ASx": "number", "20.0.0.0/8 4294967296": "number", "20.0.0.0/33 1": "prefix",
		"20.0.0.0/8 1\n20.0.0.0/8 2": "twice", "20.0.0.0/8 1\n20.9.0.0/8 2": "twice", strings.Repeat("x", 300): "line 1", "::ffff:20.0.0.0/104 1": "prefix",
	} {
		if _, err := readASMap(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := LoadASMap(t.TempDir() + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing map: %v", err)
	}
}

// Two peers an IP, whoever comes; who shows itself from there takes the place
// of one that another only told of, and never of one that we reached.
func TestPerIP(t *testing.T) {
	b := opened(t, Config{})
	addr := tcp(ip4(1, 1))
	for i := range uint64(2) { // an attacker claims an honest address
		if err := b.tell(t, from(3, i), fakeID(i), addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.tell(t, from(4, 5), fakeID(5), addr); !errors.Is(err, ErrFull) {
		t.Errorf("third peer of one IP: %v", err)
	}
	if err := b.tell(t, Source{Kind: Inbound, Peer: fakeID(5), IP: ip4(1, 1)}, fakeID(5), addr); err != nil {
		t.Errorf("who is there itself: %v", err)
	}
	if _, ok := b.Get(fakeID(5)); !ok || len(b.Entries()) != 2 {
		t.Errorf("%d entries, its own %v", len(b.Entries()), ok)
	}
	b.check(t)
	for _, e := range b.Entries() {
		b.Good(e.ID, ma.StringCast(addr))
	}
	if err := b.tell(t, Source{Kind: Inbound, Peer: fakeID(6), IP: ip4(1, 1)}, fakeID(6), addr); !errors.Is(err, ErrFull) {
		t.Errorf("beside two that we reached: %v", err)
	}
	// a /64 is one address
	six := func(n int) string { return fmt.Sprintf("/ip6/2a00:1450::%x/tcp/1", n) }
	var errs []error
	for i := range 4 {
		errs = append(errs, b.tell(t, from(5, uint64(i)), fakeID(uint64(100+i)), six(i+1)))
	}
	if errs[0] != nil || errs[1] != nil || errs[2] == nil || errs[3] == nil {
		t.Errorf("peers of one /64: %v", errs)
	}
	b.check(t)
}

// 100,000 peers from one: the rate lets through 10 and one each 10 s, an
// answer that we asked for 250 more, and 64 places are all they ever get.
func TestFloodFromOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{})
		src := from(1, 1)
		took, refused := 0, 0
		envelope := somebody(t, 1).sign(tcp(ip4(5, 5)))
		for range 100_000 {
			if err := b.Add(src, envelope); errors.Is(err, ErrRate) {
				refused++
			} else {
				took++
			}
		}
		if took != burst || refused != 100_000-burst {
			t.Errorf("%d came through at once", took)
		}
		took = 0
		for range 1000 {
			time.Sleep(time.Second)
			if !errors.Is(b.Add(src, envelope), ErrRate) {
				took++
			}
		}
		if took < 99 || took > 101 {
			t.Errorf("%d came through in 1000 s", took)
		}
		b.Asked(src.Peer)
		b.Asked(src.Peer)
		for took = 0; !errors.Is(b.Add(src, envelope), ErrRate); took++ {
		}
		if took < answer || took > answer+burst {
			t.Errorf("%d came through after our question", took)
		}
		b.Asked(src.Peer)
		time.Sleep(time.Hour)
		for took = 0; !errors.Is(b.Add(src, envelope), ErrRate); took++ {
		}
		if took != burst {
			t.Errorf("%d came through an hour after our question", took)
		}
		n := 0
		for i := range 100_000 {
			if b.tell(t, src, fakeID(uint64(i)), tcp(ip4(i%5000, i/5000+1))) == nil {
				n++
			}
		}
		if n < maxLive-1 || n > maxLive || len(b.Entries()) > maxLive+1 { // one more: its record above
			t.Errorf("%d entries of one source", n)
		}
		b.check(t)
	})
}

// Ids are free: the rates of very many sources stay bounded, and the next
// honest one still has its own.
func TestRatesBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{})
		for i := range uint64(3 * maxRates) {
			b.allow(from(1, i), time.Now())
		}
		if len(b.rates) > maxRates {
			t.Errorf("%d rates", len(b.rates))
		}
		if !b.allow(from(2, 1<<30), time.Now()) {
			t.Error("an honest source is shut out")
		}
		time.Sleep(time.Hour)
		b.expire(time.Now())
		if len(b.rates) != 0 {
			t.Errorf("%d rates an hour later", len(b.rates))
		}
	})
}

// No kind brings more than half of an hour's newcomers once each brought a
// first answer; the operator's sources are not counted against anybody.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t, Config{Sources: 3})
		tell := func(kind Kind, from, n int) (took int) {
			for i := from; i < from+n; i++ {
				src := Source{Kind: kind, Peer: fakeID(uint64(1<<41 + i)), IP: ip4(i%3000, 9)}
				if err := b.tell(t, src, fakeID(uint64(i)), tcp(ip4(i%3000, i/3000+1))); err == nil {
					took++
				} else if !errors.Is(err, ErrQuota) && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
			}
			return took
		}
		liar := tell(PEX, 0, 2000)
		if liar != quotaFloor {
			t.Errorf("one kind alone brought %d", liar)
		}
		other := tell(DHT, 2000, 400)
		liar += tell(PEX, 2400, 3000)
		if other < 245 || liar > other+quotaFloor || 2*liar > liar+other+2 {
			t.Errorf("%d of one kind, %d of the other", liar, other)
		}
		time.Sleep(time.Hour)
		if n := tell(PEX, 6000, 100); n < 90 {
			t.Errorf("%d in the next hour", n)
		}
		one := opened(t, Config{Sources: 1})
		b = one
		if n := tell(PEX, 0, 1000); n < 900 {
			t.Errorf("%d while only one kind is enabled", n)
		}
	})
}

// A peer that many tell of has several places, at most 8 and one a group.
func TestReferences(t *testing.T) {
	b := opened(t, Config{})
	for i := range 3000 {
		if err := b.tell(t, from(i%600, uint64(i)), fakeID(1), tcp(ip4(1, 1))); err != nil {
			t.Fatal(err)
		}
	}
	e, _ := b.Get(fakeID(1))
	if len(e.Sources) < 4 || len(e.Sources) > maxRefs {
		t.Errorf("%d sources", len(e.Sources))
	}
	var groups []string
	for _, s := range e.Sources {
		groups = append(groups, b.GroupOf(s.IP))
	}
	slices.Sort(groups)
	if len(slices.Compact(groups)) != len(e.Sources) {
		t.Errorf("groups %v", groups)
	}
	b.check(t)
}

// mDNS is heard by everybody and signed by nobody: it adds what it says behind
// what is known, and nothing to a peer that has signed where it is.
func TestMDNS(t *testing.T) {
	b := opened(t, Config{Private: true})
	say := func(id peer.ID, addr string) error {
		return b.AddBare(Source{Kind: MDNS, Peer: id, IP: netip.MustParseAddr("10.0.0.9")}, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast(addr)}})
	}
	alice := somebody(t, 1)
	if err := b.Add(Source{Kind: Inbound, Peer: alice.id, IP: ip4(1, 1)}, alice.sign(tcp(ip4(1, 1)))); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"/ip4/10.0.0.1/tcp/1", "/ip4/10.0.1.1/tcp/1"} {
		for _, id := range []peer.ID{alice.id, fakeID(2)} {
			if err := say(id, addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	if e, _ := b.Get(alice.id); len(e.Addrs) != 1 || e.Group != "4:20.1" {
		t.Errorf("a peer that signed: %+v", e)
	}
	if e, _ := b.Get(fakeID(2)); len(e.Addrs) != 2 || e.Group != "4:10.0.0" {
		t.Errorf("a peer that did not: %+v", e)
	}
	b.check(t)
}
