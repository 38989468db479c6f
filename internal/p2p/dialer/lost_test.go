package dialer_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// Who went without a word has its slot back within two minutes of being there
// again, and who came in its place leaves; who said goodbye has none.
func TestLostPeerHasItsSlotBack(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*node)
		back bool
	}{
		"without a word": {func(n *node) { n.host.Close() }, true},
		"with a goodbye": {func(n *node) { n.stop() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				keys, servers := map[peer.ID]crypto.PrivKey{}, map[peer.ID]*node{}
				ip := map[peer.ID]string{}
				p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3}, know: func(b *addrbook.Book) {
					for i := range 5 {
						key := newKey(t)
						id := idOf(t, key)
						keys[id], ip[id] = key, fmt.Sprintf("2.%d.0.1", i)
						servers[id] = w.node(options{ip: ip[id], key: key})
						tell(t, b, addrbook.Operator, id, ip[id])
					}
				}})
				defer p.stop()
				time.Sleep(5 * time.Minute)
				first := ids(p.inSlot("outbound"))
				if len(first) != 3 {
					t.Fatalf("%d outbound peers, want 3", len(first))
				}
				gone := first[0]
				tt.end(servers[gone])
				time.Sleep(10 * time.Minute)
				meanwhile := ids(p.inSlot("outbound"))
				if len(meanwhile) != 3 || slices.Contains(meanwhile, gone) {
					t.Fatalf("%v in its place, want 3 others\n%s", meanwhile, p.log.tail(20))
				}
				servers[gone].stop()
				servers[gone] = w.node(options{ip: ip[gone], key: keys[gone]})
				time.Sleep(2*time.Minute + 20*time.Second)
				now := ids(p.inSlot("outbound"))
				if slices.Contains(now, gone) != tt.back || len(now) != 3 {
					t.Errorf("outbound are %v, want 3, and %s of them: %v\n%s", now, gone, tt.back, p.log.tail(20))
				}
				for _, id := range first[1:] {
					if !slices.Contains(now, id) {
						t.Errorf("%s left, which was there all the time", id)
					}
				}
				for _, s := range servers {
					s.stop()
				}
			})
		})
	}
}

// Who never comes back is tried for two hours, and then is a peer of the book
// like others.
func TestLostPeerIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 2}, know: w.know(4, &servers)})
		defer p.stop()
		time.Sleep(5 * time.Minute)
		for _, s := range servers {
			if s.host.ID() == ids(p.inSlot("outbound"))[0] {
				s.host.Close()
				break
			}
		}
		tries := func(d time.Duration) int {
			before := p.log.count("outbound dial failed")
			time.Sleep(d)
			return p.log.count("outbound dial failed") - before
		}
		if n := tries(2 * time.Hour); n < 50 || n > 80 {
			t.Errorf("%d dials in two hours, want about one in two minutes", n)
		}
		tries(5 * time.Minute)
		if n := tries(2 * time.Hour); n > 12 {
			t.Errorf("%d dials in the next two hours", n)
		}
		for _, s := range servers {
			s.stop()
		}
	})
}
