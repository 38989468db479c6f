package dialer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// Outbound peers that brought blocks for half an hour are anchors; those that
// brought none and are on another head are not.
func TestAnchorsBringBlocks(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 6}, know: func(b *addrbook.Book) {
			for i := range 6 {
				ip := fmt.Sprintf("2.%d.0.1", i)
				servers = append(servers, w.node(options{ip: ip}))
				tell(t, b, addrbook.Operator, servers[i].host.ID(), ip)
			}
		}})
		time.Sleep(10 * time.Second)
		if n := len(p.inSlot("outbound")); n != 6 {
			t.Fatalf("%d outbound peers, want 6", n)
		}
		for i := range 40 {
			p.store(uint64(2+i), servers[i%3].host.ID())
			time.Sleep(time.Minute)
			if n := len(p.book.Anchors()); i < 28 && n > 0 {
				t.Fatalf("%d anchors after %d min", n, i)
			}
		}
		is := map[peer.ID]bool{}
		for _, e := range p.book.Anchors() {
			is[e.ID] = true
		}
		for i, s := range servers {
			if is[s.host.ID()] != (i < 3) {
				t.Errorf("peer %d is an anchor: %v", i, is[s.host.ID()])
			}
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}

// agree makes all peers of p say that they are on its head.
func (p *picker) agree() {
	for _, v := range p.Peers() {
		p.Validated(v.ID, p.headNow())
	}
}

func TestAnchorsComeFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir, key := t.TempDir(), newKey(t)
		var keys []crypto.PrivKey
		var servers []*node
		know := func(b *addrbook.Book) {
			for i := range 6 {
				keys = append(keys, newKey(t))
				ip := fmt.Sprintf("2.%d.0.1", i)
				tell(t, b, addrbook.Operator, idOf(t, keys[i]), ip)
				servers = append(servers, w.node(options{ip: ip, key: keys[i]}))
			}
		}
		o := pickerOptions{ip: "1.1.0.1", key: key, dir: dir, slots: dialer.SlotsConfig{Outbound: 6}, know: know}
		p := w.picker(o)
		time.Sleep(10 * time.Second)
		for range 35 {
			p.agree()
			time.Sleep(time.Minute)
		}
		titles := map[peer.ID]bool{}
		for _, e := range p.book.Anchors() {
			titles[e.ID] = true
		}
		if len(titles) != 4 {
			t.Fatalf("%d anchors after 35 min on one head, want 4", len(titles))
		}

		// One of them goes to a head that is not ours.
		var lost peer.ID
		for id := range titles {
			lost = id
			break
		}
		head := chain.Head{Height: 99, Hash: chain.Hash{9}}
		p.mu.Lock()
		p.head = head
		p.mu.Unlock()
		for range 15 {
			for _, v := range p.Peers() {
				if v.ID != lost {
					p.Validated(v.ID, head)
				}
			}
			time.Sleep(time.Minute)
		}
		delete(titles, lost)
		got := p.book.Anchors()
		for _, e := range got {
			if e.ID == lost {
				t.Error("who is not on our head is still an anchor")
			}
		}
		if len(got) != 4 {
			t.Errorf("%d anchors, want 4: another one took the title", len(got))
		}

		// Killed: nothing but the file is left. Two others are in the book too.
		p.stop()
		if err := rmBook(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		o.know = nil
		p = w.picker(o)
		time.Sleep(4 * time.Second)
		first := 0
		for _, v := range p.inSlot("outbound") {
			if v.Source == "anchor" {
				first++
			}
		}
		if first != 3 {
			t.Errorf("%d anchors are up 4 s after the start, want 3: half of the slots\n%s", first, p.log.tail(20))
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}

// Who was good first has the titles, not who has been connected the longest: an
// attacker's connections last for ever.
func TestAnchorsWereGoodFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		var away [2]crypto.PrivKey // and good before all others
		early := map[peer.ID]bool{}
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 8}, know: func(b *addrbook.Book) {
			for i := range 8 {
				key, ip := newKey(t), fmt.Sprintf("2.%d.0.1", i)
				tell(t, b, addrbook.Operator, idOf(t, key), ip)
				if i >= len(away) {
					servers = append(servers, w.node(options{ip: ip, key: key}))
					continue
				}
				away[i] = key
				early[idOf(t, key)] = true
				b.Good(idOf(t, key), addrOf(t, ip))
			}
		}})
		titled := func(after time.Duration) (all, first int) {
			for range int(after / time.Minute) {
				p.agree()
				time.Sleep(time.Minute)
			}
			for _, e := range p.book.Anchors() {
				all++
				if early[e.ID] {
					first++
				}
			}
			return all, first
		}
		if all, first := titled(50 * time.Minute); all != 4 || first != 0 {
			t.Errorf("%d anchors, %d of the first, want 4 and 0: they are away", all, first)
		}
		for i, key := range away {
			servers = append(servers, w.node(options{ip: fmt.Sprintf("2.%d.0.1", i), key: key}))
		}
		if all, first := titled(150 * time.Minute); all != 4 || first != 2 {
			t.Errorf("%d anchors, %d of the first, want 4 and 2\n%s", all, first, p.log.tail(10))
		}
		p.stop()
		for _, s := range servers {
			s.stop()
		}
	})
}
