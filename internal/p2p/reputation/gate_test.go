package reputation

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

type addrs struct{ remote ma.Multiaddr } // nil = 10.0.0.2

func (addrs) LocalMultiaddr() ma.Multiaddr { return ma.StringCast("/ip4/10.0.0.1/tcp/1") }
func (a addrs) RemoteMultiaddr() ma.Multiaddr {
	if a.remote != nil {
		return a.remote
	}
	return ma.StringCast("/ip4/10.0.0.2/tcp/2")
}

// upgraded is an inbound connection.
type upgraded struct {
	network.Conn
	addrs
	p peer.ID
}

func (u upgraded) RemotePeer() peer.ID           { return u.p }
func (u upgraded) LocalMultiaddr() ma.Multiaddr  { return u.addrs.LocalMultiaddr() }
func (u upgraded) RemoteMultiaddr() ma.Multiaddr { return u.addrs.RemoteMultiaddr() }
func (upgraded) Stat() network.ConnStats {
	return network.ConnStats{Stats: network.Stats{Direction: network.DirInbound}}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, nil, nil)
		g := NewGate(b)
		want := func(p peer.ID, allow bool) {
			t.Helper()
			if got := g.InterceptPeerDial(p); got != allow {
				t.Errorf("dial of %s: allow %v", p, got)
			}
			if got := g.InterceptSecured(network.DirInbound, p, addrs{}); got != allow {
				t.Errorf("connection from %s: allow %v", p, got)
			}
			if why := g.Why(p); (why == "") != allow {
				t.Errorf("%s is refused for %q", p, why)
			}
		}
		if !g.InterceptAccept(addrs{}) || !g.InterceptAddrDial("p", nil) {
			t.Error("a check that knows no peer refuses")
		}
		want("p", true)
		b.Penalize("p", chain.Oversize, "")
		want("p", false)
		time.Sleep(21 * time.Minute)
		want("p", true)

		b.Exempt(func(p peer.ID) bool { return p == "member" })
		b.Penalize("member", chain.ForgedBlock, "")
		want("member", false)
		time.Sleep(time.Minute)
		want("member", true)
		g.SetDenied(map[peer.ID]struct{}{"member": {}})
		want("member", false)
		g.SetDenied(nil)
		want("member", true)
	})
}

func TestRefusalsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := event.NewBus(256)
		sub := bus.Subscribe()
		defer sub.Close()
		g := NewGate(newBook(t, bus, nil))
		g.SetDenied(map[peer.ID]struct{}{"p": {}})
		for range 100 {
			g.InterceptSecured(network.DirInbound, "p", addrs{})
		}
		events, _ := sub.Take(1000)
		if len(events) != refusalRate {
			t.Fatalf("%d events in a second, want %d", len(events), refusalRate)
		}
		want := event.PeerRefused{Peer: "p", Direction: "inbound", Addr: "/ip4/10.0.0.2/tcp/2", Place: PlaceGate, By: "us", Reason: "denied"}
		if got := events[0].Data.(event.PeerRefused); got != want {
			t.Errorf("event %+v, want %+v", got, want)
		}
		time.Sleep(time.Second)
		g.InterceptSecured(network.DirInbound, "p", addrs{})
		events, _ = sub.Take(10)
		if len(events) != 1 || events[0].Data.(event.PeerRefused).More != 90 {
			t.Errorf("the next event does not tell of the 90 left out: %+v", events)
		}
		told := 0
		for range 100 {
			if g.book.Refuse(event.PeerRefused{Peer: "p", Place: PlaceHandshake}) {
				told++
			}
		}
		if events, _ = sub.Take(100); told != refusalRate-1 || len(events) != told {
			t.Errorf("%d refusals reported as told and %d events, want %d", told, len(events), refusalRate-1)
		}
		g.InterceptPeerDial("p")
		if events, _ = sub.Take(10); len(events) != 0 {
			t.Error("our own dial made an event")
		}
	})
}

// The allow-list refuses whom it does not name, and whom it names no longer;
// exempt peers and guests pass.
func TestAllowList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, nil, nil)
		g := NewGate(b)
		const listed, until, exempt, stranger = peer.ID("listed"), peer.ID("until"), peer.ID("exempt"), peer.ID("stranger")
		b.Exempt(func(p peer.ID) bool { return p == exempt })
		quic := ma.StringCast("/ip4/10.0.0.2/udp/2/quic-v1")
		all := func(when string, want ...peer.ID) {
			t.Helper()
			for _, p := range []peer.ID{listed, until, exempt, stranger} {
				in := g.InterceptSecured(network.DirInbound, p, addrs{remote: quic})
				told, _ := g.InterceptUpgraded(upgraded{p: p}) // over TCP it is told, with a code
				if !g.InterceptSecured(network.DirInbound, p, addrs{}) || told != in {
					t.Errorf("%s: %s passes over TCP: %v, over QUIC %v", when, p, told, in)
				}
				if may := slices.Contains(want, p); in != may || g.InterceptPeerDial(p) != may || b.Refused(p) == may || b.Allows(p) != may {
					t.Errorf("%s: %s passes: %v, want %v", when, p, in, may)
				}
			}
		}
		all("without a list", listed, until, exempt, stranger)
		b.Allow(map[peer.ID]time.Time{listed: {}, until: time.Now().Add(time.Hour)})
		all("with one", listed, until, exempt)
		done := b.Guest(stranger)
		all("with a guest", listed, until, exempt, stranger)
		done()
		time.Sleep(time.Hour)
		all("after the end", listed, exempt)
		if why := b.refusal(until); why != NotAllowed {
			t.Errorf("refused for %q", why)
		}
		b.Allow(map[peer.ID]time.Time{})
		all("with nobody on it", exempt)
		b.Allow(nil)
		all("without a list again", listed, until, exempt, stranger)
	})
}
