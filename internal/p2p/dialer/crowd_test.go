package dialer_test

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// strangerID is the id of nobody.
func strangerID(t testing.TB) peer.ID {
	t.Helper()
	b := append([]byte{0, 36, 8, 1, 18, 32}, make([]byte, 32)...)
	_, _ = rand.Read(b[6:]) // never fails
	id, err := peer.IDFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// crowd tells a book of n peers, who are all in one address group, from sources
// in many.
func crowd(t testing.TB, b *addrbook.Book, n int) {
	t.Helper()
	for i := range n {
		src := addrbook.Source{Kind: addrbook.Operator, IP: netip.AddrFrom4([4]byte{byte(20 + i%100), byte(i / 100 % 256), 0, 1})}
		a, err := ma.NewMultiaddr(fmt.Sprintf("/ip4/50.50.%d.%d/udp/9906/quic-v1", i/2/250%250, 1+i/2%250))
		if err != nil {
			t.Fatal(err)
		}
		_ = b.AddBare(src, peer.AddrInfo{ID: strangerID(t), Addrs: []ma.Multiaddr{a}}) // some find no place
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Where nobody of a large book fits, it is not gone through again and again: not
// at each look, and not for each of a stream of new peers.
func TestNobodyFits(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var asked atomic.Int64
		p := w.picker(pickerOptions{
			ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 8, BlockOnly: 2, Kinds: 4}, know: func(b *addrbook.Book) { crowd(t, b, 20_000) },
			banned: func(peer.ID, netip.Addr) bool { // it is asked for each entry that is looked at
				asked.Add(1)
				return true
			},
		})
		defer p.stop()
		s := p.book.Stats()
		time.Sleep(time.Minute)
		measure := func(minutes int, during func()) (looked int64) {
			before, work := asked.Load(), cpuTime()
			during()
			looked = (asked.Load() - before) / int64(minutes)
			t.Logf("a book of %d: %d entries are looked at, and %s of CPU, a minute", s.New+s.Tried, looked, (cpuTime()-work)/time.Duration(minutes))
			return looked
		}
		if n := measure(10, func() { time.Sleep(10 * time.Minute) }); n < 1000 || n > 20_000 {
			t.Errorf("%d entries a minute", n)
		}
		n := measure(1, func() {
			for range 600 {
				p.slots.Found()
				time.Sleep(100 * time.Millisecond)
			}
		})
		if n < 5000 || n > 40_000 {
			t.Errorf("%d entries in a minute of news", n)
		}
	})
}
