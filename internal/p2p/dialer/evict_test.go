package dialer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

var evictStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// crowd makes n guests in as many groups, the first one the oldest.
func crowd(n int) []guest {
	var list []guest
	for i := range n {
		list = append(list, guest{
			id: peer.ID(fmt.Sprintf("p%d", i)), ip: netip.AddrFrom4([4]byte{byte(1 + i/200), byte(i % 200), 0, 1}), group: fmt.Sprintf("4:%d", i),
			since: evictStart.Add(time.Duration(i) * time.Second),
		})
	}
	return list
}

// hit evicts many times and says who went how often.
func hit(list []guest, key [32]byte) map[peer.ID]int {
	went := map[peer.ID]int{}
	for range 400 {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		went[victim(list, key)]++
	}
	return went
}

func TestEvictionOrder(t *testing.T) {
	key := [32]byte{1}
	set := func(edit func(i int, g *guest)) []guest {
		list := crowd(64)
		for i := range list {
			edit(i, &list[i])
		}
		return list
	}
	for _, c := range []struct {
		name   string
		list   []guest
		never  []int // of the crowd
		always int   // -1 = one of several
	}{
		{"the discouraged one with the lowest score", set(func(i int, g *guest) { g.bad, g.score, g.credit = i == 3 || i == 4, -40-i, 9 }), nil, 4},
		{"the eight nearest stay", set(func(i int, g *guest) { g.rtt = time.Duration(100-i) * time.Millisecond }), []int{63, 62, 61, 60, 59, 58, 57, 56}, -1},
		{"the newest givers of a tx stay", set(func(i int, g *guest) {
			if i >= 50 {
				g.tx = evictStart.Add(time.Duration(i) * time.Hour)
			}
		}), []int{63, 62, 61, 60}, -1},
		{"the newest givers of a block stay", set(func(i int, g *guest) {
			if i >= 50 {
				g.block = evictStart.Add(time.Duration(i) * time.Hour)
			}
		}), []int{63, 62, 61, 60}, -1},
		{"the praised stay, and more than 20 is 20", set(func(i int, g *guest) {
			switch {
			case i == 63:
				g.credit = 100
			case i >= 60:
				g.credit = 20
			case i >= 50:
				g.credit = 19
			}
		}), []int{63, 62, 61, 60}, -1},
		{"the older half stays", set(func(int, *guest) {}), []int{0, 1, 2, 10, 20, 25}, -1},
		{"the youngest of the largest group", set(func(i int, g *guest) {
			if i%8 == 0 {
				g.group = "4:flood"
			}
		}), nil, 56},
		{"members of the largest group count though they are spared", set(func(i int, g *guest) {
			switch {
			case i == 63 || i < 20: // all but one of it are spared for their age
				g.group = "4:flood"
			case i >= 40 && i < 60:
				g.group = fmt.Sprintf("4:pair%d", i/2)
			}
		}), nil, 63},
	} {
		ids := make([]peer.ID, len(c.list))
		for i, g := range c.list {
			ids[i] = g.id
		}
		went := hit(c.list, key)
		if went[""] > 0 {
			t.Errorf("%s: nobody went", c.name)
		}
		for _, i := range c.never {
			if n := went[ids[i]]; n > 0 {
				t.Errorf("%s: %d went %d times", c.name, i, n)
			}
		}
		if c.always >= 0 && went[ids[c.always]] != 400 {
			t.Errorf("%s: want %s always, have %v", c.name, ids[c.always], went)
		}
		if c.always < 0 && len(went) < 5 {
			t.Errorf("%s: always the same went: %v", c.name, went)
		}
	}
}

func TestEvictionSparesSecretGroups(t *testing.T) {
	spared := func(key [32]byte) (ids []peer.ID) {
		list := crowd(64)
		went := hit(list, key)
		for i := 40; i < 64; i++ { // the young half
			if id := peer.ID(fmt.Sprintf("p%d", i)); went[id] == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	differ := false
	first := spared([32]byte{1})
	for i := range byte(5) {
		differ = differ || !slices.Equal(first, spared([32]byte{2 + i}))
	}
	if !differ {
		t.Error("which groups are spared does not depend on the key")
	}
}

func TestEvictionOfFew(t *testing.T) {
	for n := range 5 {
		if id := victim(crowd(n), [32]byte{}); id != "" {
			t.Errorf("of %d guests %s goes: all of them have a group that is spared", n, id)
		}
	}
}

func TestHeld(t *testing.T) {
	from := func(ips ...string) (list []guest) {
		for i, s := range ips {
			ip := netip.MustParseAddr(s)
			group := "4:" + strings.Join(strings.Split(s, ".")[:min(2, strings.Count(s, ".")+1)], ".")
			list = append(list, guest{id: peer.ID(fmt.Sprintf("g%d", i)), ip: ip, group: group})
		}
		return list
	}
	times := func(n int, format string) (ips []string) {
		for i := range n {
			s := format
			if strings.Contains(format, "%d") {
				s = fmt.Sprintf(format, i+1)
			}
			ips = append(ips, s)
		}
		return ips
	}
	for _, c := range []struct {
		here []string
		came string
		want string
	}{
		{times(3, "9.1.1.1"), "9.1.1.1", ""},
		{times(4, "9.1.1.1"), "9.1.1.1", "9.1.1.1/32"},
		{times(4, "9.1.1.1"), "9.1.1.2", ""},
		{times(7, "9.1.1.%d"), "9.1.1.99", ""},
		{times(8, "9.1.1.%d"), "9.1.1.99", "9.1.1.0/24"},
		{times(15, "9.1.%d.1"), "9.1.99.1", ""},
		{times(16, "9.1.%d.1"), "9.1.99.1", "part of the network"},
		{times(16, "9.1.%d.1"), "9.2.99.1", ""},
		{times(31, "10.0.0.1"), "10.0.0.1", ""},
		{times(32, "10.0.0.1"), "10.0.0.1", "10.0.0.1"},
		{times(60, "10.0.0.%d"), "10.0.0.99", ""},
		{times(32, "127.0.0.1"), "127.0.0.1", "127.0.0.1"},
		{times(20, "100.64.0.%d"), "100.64.0.99", ""},
		{times(4, "2001:db9::%d"), "2001:db9::99", "2001:db9::/64"},
		{times(8, "2001:db9:0:%d::1"), "2001:db9:0:99::1", "2001:db9::/56"},
	} {
		came := from(c.came)[0]
		came.id = "came"
		if got := held(from(c.here...), came); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%d like %s, %s comes: %q, want %q", len(c.here), c.here[0], c.came, got, c.want)
		}
	}
}

func TestExcessOfHandshakes(t *testing.T) {
	list := crowd(16)
	now := evictStart.Add(time.Second)
	none := func(string) int { return 0 }
	for i := range list {
		list[i].since = evictStart
	}
	if id := excess(list, none, now); id != "" {
		t.Errorf("%s goes though there is room", id)
	}
	list = append(list, guest{id: "late", group: "4:late", since: evictStart.Add(-5 * time.Second)})
	for range 100 {
		if id := excess(list, none, now); id != "late" {
			t.Fatalf("%s goes, want the one that dawdles", id)
		}
	}
	list = append(list, guest{id: "a", group: "4:flood", since: evictStart}, guest{id: "b", group: "4:flood", since: evictStart})
	for range 100 {
		if id := excess(list, none, now); id != "a" && id != "b" {
			t.Fatalf("%s goes, want one of the largest group", id)
		}
	}
}
