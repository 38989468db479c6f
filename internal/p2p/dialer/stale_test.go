package dialer_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
)

// know starts n servers, each in a group of its own, and tells a book of them.
func (w *world) know(n int, servers *[]*node) func(*addrbook.Book) {
	return w.knowBy(addrbook.Operator, n, servers)
}

func (w *world) knowBy(kind addrbook.Kind, n int, servers *[]*node) func(*addrbook.Book) {
	return func(b *addrbook.Book) {
		for i := range n {
			ip := fmt.Sprintf("2.%d.0.1", i)
			s := w.node(options{ip: ip})
			*servers = append(*servers, s)
			tell(w.t, b, kind, s.host.ID(), ip)
		}
	}
}

func ids(list []handshake.Peer) (ids []peer.ID) {
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return ids
}

// When no block comes for three times the interval, one more outbound peer is
// dialled; it brings the chain, and then the worst of all leaves.
func TestStaleHead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", every: 10 * time.Second, slots: dialer.SlotsConfig{Outbound: 3}, know: w.know(4, &servers)})
		height := uint64(1)
		grow := func(d time.Duration, from peer.ID, agree ...peer.ID) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				height++
				p.store(height, from)
				for _, id := range agree {
					p.Validated(id, p.headNow())
				}
				time.Sleep(10 * time.Second)
			}
		}
		time.Sleep(2 * time.Second)
		first := ids(p.inSlot("outbound"))
		if len(first) != 3 {
			t.Fatalf("%d outbound peers, want 3", len(first))
		}
		grow(2*time.Minute, first[0], first[0])
		if a := p.alarms(); len(a) > 0 || len(p.inSlot("outbound")) != 3 {
			t.Fatalf("with blocks: alarms %v, %d outbound peers", a, len(p.inSlot("outbound")))
		}
		time.Sleep(45 * time.Second)
		if a := p.alarms(); a["possible_eclipse"] != 1 {
			t.Errorf("45 s without a block: alarms %v", a)
		}
		all := ids(p.inSlot("outbound"))
		if len(all) != 4 {
			t.Fatalf("%d outbound peers, want an extra one\n%s", len(all), p.log.tail(20))
		}
		extra := slices.DeleteFunc(all, func(id peer.ID) bool { return slices.Contains(first, id) })[0]
		grow(2*time.Minute, extra, extra)
		if a := p.alarms(); a["possible_eclipse cleared"] != 1 {
			t.Errorf("blocks come again: alarms %v", a)
		}
		left := ids(p.inSlot("outbound"))
		if len(left) != 3 || !slices.Contains(left, extra) || !slices.Contains(left, first[0]) {
			t.Errorf("left are %v, want 3 with %s, which brought the head, and %s, which had", left, extra, first[0])
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}

// Where blocks have no clock nothing is stale, but two peers that have proved a
// higher block are a sign too.
func TestBetterHeads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3}, know: w.know(4, &servers)})
		time.Sleep(20 * time.Minute)
		if a := p.alarms(); len(a) > 0 {
			t.Errorf("an idle network: alarms %v", a)
		}
		for _, v := range p.inSlot("outbound")[:2] {
			p.Validated(v.ID, chain.Head{Height: 7, Hash: chain.Hash{7}})
		}
		time.Sleep(90 * time.Second)
		if a := p.alarms(); a["possible_eclipse"] != 1 || len(p.inSlot("outbound")) != 4 {
			t.Errorf("alarms %v, %d outbound peers, want 4", a, len(p.inSlot("outbound")))
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}

// Where one kind of source told of our peers and others could have, one of them
// that has proved a higher block is sign enough.
func TestOneKindOfSource(t *testing.T) {
	for name, tt := range map[string]struct {
		kind addrbook.Kind
		want int
	}{
		"of a name":       {addrbook.DNS, 1},
		"by the operator": {addrbook.Operator, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var servers []*node
				p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3, Kinds: 3}, know: w.knowBy(tt.kind, 4, &servers)})
				time.Sleep(20 * time.Minute)
				list := p.inSlot("outbound")
				if a := p.alarms(); len(a) > 0 || len(list) != 3 {
					t.Fatalf("an idle network: alarms %v, %d outbound peers", a, len(list))
				}
				p.Validated(list[0].ID, chain.Head{Height: 7, Hash: chain.Hash{7}})
				time.Sleep(90 * time.Second)
				if a := p.alarms(); a["possible_eclipse"] != tt.want {
					t.Errorf("alarms %v, want possible_eclipse %d times", a, tt.want)
				}
				p.store(7, list[0].ID)
				time.Sleep(20 * time.Second)
				if a := p.alarms(); a["possible_eclipse cleared"] != tt.want {
					t.Errorf("the head has moved: alarms %v", a)
				}
				p.stop()
				for _, s := range servers {
					s.stop()
				}
			})
		})
	}
}

// Nobody dials a node that could be reached, and that many know of.
func TestNoInbound(t *testing.T) {
	for name, tt := range map[string]struct {
		reachable bool
		known     int
		want      int
	}{
		"reachable":       {true, 8, 1},
		"behind a NAT":    {false, 8, 0},
		"a small network": {true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var servers []*node
				p := w.picker(pickerOptions{
					ip: "1.1.0.1", reachable: tt.reachable, slots: dialer.SlotsConfig{Outbound: 1, Inbound: 4}, know: w.know(tt.known, &servers),
				})
				time.Sleep(9 * time.Minute)
				if a := p.alarms(); a["no_inbound"] != 0 {
					t.Error("alarm after 9 minutes")
				}
				time.Sleep(2 * time.Minute)
				if a := p.alarms(); a["no_inbound"] != tt.want {
					t.Errorf("after 11 minutes: alarms %v, want no_inbound %d times", a, tt.want)
				}
				guest := w.node(options{ip: "3.1.0.1", cfg: items(addrOf(t, "1.1.0.1").String() + "/p2p/" + p.host.ID().String())})
				time.Sleep(20 * time.Second)
				if a := p.alarms(); a["no_inbound cleared"] != tt.want {
					t.Errorf("somebody came: alarms %v", a)
				}
				guest.stop()
				time.Sleep(50 * time.Minute)
				if a := p.alarms(); a["no_inbound"] != 0 {
					t.Error("alarm within an hour of the last one")
				}
				time.Sleep(12 * time.Minute)
				if a := p.alarms(); a["no_inbound"] != tt.want {
					t.Errorf("an hour after the last one: alarms %v", a)
				}
				p.stop()
				for _, s := range servers {
					s.stop()
				}
			})
		})
	}
}

// Every five minutes one more block-only peer comes: it replaces one that knows
// less, or leaves.
func TestExtraBlockOnly(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 1, BlockOnly: 1}, know: w.know(4, &servers)})
		time.Sleep(4 * time.Minute)
		old := ids(p.inSlot("block_only"))
		if len(old) != 1 {
			t.Fatalf("%d block-only peers, want 1", len(old))
		}
		time.Sleep(75 * time.Second)
		two := ids(p.inSlot("block_only"))
		if len(two) != 2 {
			t.Fatalf("%d block-only peers after 5 min, want an extra one\n%s", len(two), p.log.tail(20))
		}
		time.Sleep(45 * time.Second) // it knows no more
		if now := ids(p.inSlot("block_only")); !slices.Equal(now, old) {
			t.Errorf("block-only are %v, want %v alone", now, old)
		}
		time.Sleep(4*time.Minute + 15*time.Second)
		two = ids(p.inSlot("block_only"))
		if len(two) != 2 {
			t.Fatalf("%d block-only peers after 10 min, want an extra one\n%s", len(two), p.log.tail(20))
		}
		extra := slices.DeleteFunc(two, func(id peer.ID) bool { return id == old[0] })
		p.Validated(extra[0], chain.Head{Height: 9, Hash: chain.Hash{9}})
		time.Sleep(45 * time.Second)
		if now := ids(p.inSlot("block_only")); !slices.Equal(now, extra) {
			t.Errorf("block-only are %v, want %v, which knows a higher block", now, extra)
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}

// An aged slot waits for somebody who was good a week ago, for ten minutes and
// only where there is anybody who has not just failed three times.
func TestAgedSlots(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		gone := newKey(t)
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 8}, know: func(b *addrbook.Book) {
			tell(t, b, addrbook.Operator, idOf(t, gone), "9.9.0.1")
			b.Good(idOf(t, gone), addrOf(t, "9.9.0.1"))
			time.Sleep(8 * 24 * time.Hour)
			w.know(10, &servers)(b)
		}})
		for s := range 11 * 60 {
			time.Sleep(time.Second)
			e, _ := p.book.Get(idOf(t, gone))
			if n := len(p.inSlot("outbound")); s < 9*60 && e.Fails < 3 && e.Table == addrbook.Tried && n > 6 {
				t.Fatalf("%d outbound peers, want 6: two slots wait for the one who was good a week ago, which failed %d times", n, e.Fails)
			}
		}
		if n := len(p.inSlot("outbound")); n != 8 {
			t.Errorf("%d outbound peers after 11 min, want 8", n)
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}
