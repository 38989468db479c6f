package host

import (
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"
)

func TestAdvertisedAddressesComeFirst(t *testing.T) {
	first := ma.StringCast("/dns4/node.example.com/tcp/8080")
	h := newHost(t, Options{Advertise: []ma.Multiaddr{first}}, "/ip4/127.0.0.1/tcp/0")
	addrs := h.Addrs()
	if len(addrs) != 2 || !addrs[0].Equal(first) || !addrs[1].Equal(h.Network().ListenAddresses()[0]) {
		t.Errorf("addresses %s", addrs)
	}
}

// What is advertised changes while the host runs: connected peers are told
// within the time that a message takes, in a record that is signed, and the
// listeners stay.
func TestAdvertiseAgain(t *testing.T) {
	twoHosts(t, []libp2p.Option{libp2p.ResourceManager(&network.NullResourceManager{})}, func(t *testing.T, a, b *Host) {
		echo(t, a, b, b.Addrs()[0])
		time.Sleep(7 * time.Second) // between two looks of the library, which takes one every 5 s
		listen := b.Network().ListenAddresses()
		told, err := a.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
		if err != nil {
			t.Fatal(err)
		}
		defer told.Close()
		for _, next := range [][]ma.Multiaddr{{ma.StringCast("/dns4/node.example.com/tcp/8080"), ma.StringCast("/ip4/8.8.8.8/udp/1/quic-v1")}, {ma.StringCast("/ip4/8.8.4.4/tcp/2")}, nil} {
			if err := b.SetAdvertise(next); err != nil {
				t.Fatal(err)
			}
			want := append(slices.Clone(next), listen...)
			if got := b.Addrs(); !slices.EqualFunc(got, want, ma.Multiaddr.Equal) {
				t.Errorf("our addresses are %s, want %s", got, want)
			}
			time.Sleep(200 * time.Millisecond)
			got := a.Peerstore().Addrs(b.ID())
			slices.SortFunc(want, ma.Multiaddr.Compare)
			slices.SortFunc(got, ma.Multiaddr.Compare)
			if !slices.EqualFunc(got, want, ma.Multiaddr.Equal) {
				t.Errorf("the peer knows %s, want %s", got, want)
			}
			select {
			case e := <-told.Out():
				if signed := addrsOf(t, e.(event.EvtPeerIdentificationCompleted).SignedPeerRecord); !slices.EqualFunc(signed, want, ma.Multiaddr.Equal) {
					t.Errorf("it signed %s, want %s", signed, want)
				}
			default:
				t.Error("the peer was told nothing")
			}
			if !slices.EqualFunc(b.Network().ListenAddresses(), listen, ma.Multiaddr.Equal) || len(a.Network().ConnsToPeer(b.ID())) != 1 {
				t.Error("listeners or the connection changed")
			}
		}
	})
}

// addrsOf are the addresses of a signed peer record, in order.
func addrsOf(t *testing.T, envelope *record.Envelope) []ma.Multiaddr {
	t.Helper()
	r, err := envelope.Record()
	if err != nil {
		t.Fatal(err)
	}
	addrs := slices.Clone(r.(*peer.PeerRecord).Addrs)
	slices.SortFunc(addrs, ma.Multiaddr.Compare)
	return addrs
}
