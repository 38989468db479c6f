package dialer_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// A book of which one part of the network told most is told to the operator.
func TestBookPoisoned(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 1}})
		defer p.stop()
		told := 0
		tellOf := func(n int, from func(i int) string) {
			for range n {
				key := newKey(t)
				id := idOf(t, key)
				ip := netip.AddrFrom4([4]byte{20, byte(told), byte(told >> 8), 1}).String()
				rec := &peer.PeerRecord{PeerID: id, Addrs: []ma.Multiaddr{addrOf(t, ip)}, Seq: uint64(time.Now().UnixNano())}
				env, err := record.Seal(rec, key)
				if err != nil {
					t.Fatal(err)
				}
				b, err := env.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				src := addrbook.Source{Kind: addrbook.PEX, Peer: idOf(t, newKey(t)), IP: netip.MustParseAddr(from(told))}
				_ = p.book.Add(src, b) // some find their place taken
				told++
			}
		}
		tellOf(250, func(i int) string { return fmt.Sprintf("30.%d.0.1", i%100) })
		time.Sleep(20 * time.Second)
		if a := p.alarms(); a["book_poisoned"] != 0 {
			t.Errorf("told of by a hundred groups: alarms %v", a)
		}
		tellOf(500, func(i int) string { return fmt.Sprintf("40.1.%d.1", i%200) })
		time.Sleep(20 * time.Second)
		if a := p.alarms(); a["book_poisoned"] != 1 {
			t.Errorf("told of by one group for the most part: alarms %v, book %+v", a, p.book.Stats())
		}
		tellOf(1500, func(i int) string { return fmt.Sprintf("31.%d.0.1", i%250) })
		time.Sleep(20 * time.Second)
		if a := p.alarms(); a["book_poisoned cleared"] != 1 {
			t.Errorf("told of by many again: alarms %v, book %+v", a, p.book.Stats())
		}
	})
}
