package host

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	bconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	ma "github.com/multiformats/go-multiaddr"
)

// burst opens and closes connections until one is refused, and tells how many
// came.
func (d *door) burst(addr func(i int) string) (n int) {
	d.t.Helper()
	for ; n < 1000; n++ {
		s, err := d.OpenConnection(network.DirInbound, true, ma.StringCast(addr(n)+"/tcp/1"))
		if err != nil {
			return n
		}
		s.Done()
	}
	return n
}

// How many connections may come at once though each is closed again, and how
// many more after a time.
func TestArrivalRates(t *testing.T) {
	for name, x := range map[string]struct {
		addr  func(i int) string
		most  int           // at once
		wait  time.Duration // then
		again int
	}{
		"one address":             {func(int) string { return "/ip4/20.1.1.1" }, 16, 10 * time.Second, 2},
		"one /56":                 {func(i int) string { return fmt.Sprintf("/ip6/2606::%x", i+1) }, 16, 10 * time.Second, 2},
		"one /16":                 {func(i int) string { return fmt.Sprintf("/ip4/20.1.%d.%d", i/250, 1+i%250) }, 32, 3 * time.Second, 3},
		"one /32 of IPv6":         {func(i int) string { return fmt.Sprintf("/ip6/2606:0:%x::1", i+1) }, 32, 3 * time.Second, 3},
		"all public addresses":    {far, 200 + 100, 500 * time.Millisecond, 50}, // their parts are fresh once
		"one private address":     {func(int) string { return "/ip4/10.1.1.1" }, 1000, 0, 1000},
		"one address of loopback": {func(int) string { return "/ip4/127.0.0.1" }, 1000, 0, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDoor(t, 100)
				defer d.Close()
				if n := d.burst(x.addr); n != x.most {
					t.Errorf("%d at once, want %d", n, x.most)
				}
				time.Sleep(x.wait)
				if n := d.burst(x.addr); n != x.again {
					t.Errorf("%d after %s, want %d", n, x.wait, x.again)
				}
			})
		})
	}
}

// The library's connection manager would close honest peers first: it stands
// above all that our own limits let in.
func TestNothingIsTrimmed(t *testing.T) {
	h := newHost(t, Options{MaxPeers: 10})
	m, ok := h.ConnManager().(*bconnmgr.BasicConnMgr)
	if !ok {
		t.Fatalf("%T", h.ConnManager())
	}
	if i := m.GetInfo(); i.LowWater <= hardCap(10) || i.HighWater <= i.LowWater {
		t.Errorf("it trims from %d on, to %d; %d may come", i.HighWater, i.LowWater, hardCap(10))
	}
}
