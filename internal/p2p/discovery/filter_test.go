package discovery

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p-kbucket/peerdiversity"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Of one public address group three peers enter a table, whatever bucket they
// are for; of one LAN all do.
func TestTableDiversity(t *testing.T) {
	for _, tt := range []struct {
		ip      string
		private bool
		want    int
	}{{"44.1.0.%d", false, 3}, {"10.1.0.%d", true, 8}} {
		bubble(t, func(t *testing.T, l *lab) {
			cfg := onlyDHT
			cfg.Private = tt.private
			n := l.node(options{cfg: cfg, ip: fmt.Sprintf(tt.ip, 200)})
			for i := range 8 {
				n.meet(l.node(options{cfg: cfg, ip: fmt.Sprintf(tt.ip, i+1)}))
			}
			time.Sleep(5 * time.Minute)
			if got := n.Status().Peers; got > tt.want || got < min(tt.want, 2) || tt.private && got != tt.want {
				t.Errorf("%d peers of %s are in the table, want %d", got, tt.ip, tt.want)
			}
			table, err := n.Table()
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range table {
				if !tt.private && len(b.Peers) > groupInBucket {
					t.Errorf("%d peers of one group share a bucket", len(b.Peers))
				}
				for _, p := range b.Peers {
					if (p.Group == "") != tt.private {
						t.Errorf("group of %s: %q", p.ID, p.Group)
					}
				}
			}
		})
	}
}

// What was counted in is counted out again.
func TestDiversityCounts(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: onlyDHT})
		var ids []peer.ID
		for i := range 3 {
			o := l.node(options{cfg: onlyDHT, ip: fmt.Sprintf("45.1.0.%d", i+1)})
			n.meet(o)
			ids = append(ids, o.host.ID())
		}
		f := newDiversity(n.Discovery)
		for i, p := range ids {
			g := peerdiversity.PeerGroupInfo{Id: p, Cpl: i}
			if !f.Allow(g) || len(f.PeerAddresses(p)) != 1 {
				t.Fatalf("peer %d of a group is not allowed", i)
			}
			f.Increment(g)
			f.Increment(g) // a second address is none
		}
		if f.Allow(peerdiversity.PeerGroupInfo{Id: ids[0], Cpl: 9}) {
			t.Error("a fourth one of a group is allowed")
		}
		for _, p := range ids {
			f.Decrement(peerdiversity.PeerGroupInfo{Id: p})
		}
		if len(f.members)+len(f.inTable)+len(f.inBucket) != 0 {
			t.Errorf("left over: %v %v %v", f.members, f.inTable, f.inBucket)
		}
	})
}

// A banned peer leaves the table within a minute and is not answered.
func TestBannedPeers(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		var banned atomic.Pointer[peer.ID]
		n := l.node(options{cfg: publicDHT, fns: func(f *Functions) {
			f.Connect = nil
			f.Banned = func(p peer.ID, _ netip.Addr) bool { b := banned.Load(); return b != nil && *b == p }
		}})
		bad := l.node(options{cfg: publicDHT})
		n.meet(bad)
		time.Sleep(time.Minute)
		if !n.tableHas(bad.host.ID()) {
			t.Fatal("it is not in the table")
		}
		id := bad.host.ID()
		banned.Store(&id)
		time.Sleep(2 * time.Minute)
		if n.tableHas(id) {
			t.Error("a banned peer is in the table")
		}
		if _, err := say(t, bad.host, n.host.ID(), []byte{0x20, 0x04}); err == nil {
			t.Error("a banned peer is answered")
		}
	})
}
