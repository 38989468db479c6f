package dialer

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// doors are slots over a table of inbound peers that the test keeps.
func doors(t *testing.T, places int, table map[peer.ID]Peer) *Slots {
	t.Helper()
	rep, err := reputation.New(reputation.Config{}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	book, err := addrbook.Open(addrbook.Config{}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	fns := SlotsFunctions{Peers: func() (list []Peer) {
		for _, p := range table {
			list = append(list, p)
		}
		return list
	}}
	d := &Dialer{rep: rep, trusted: map[peer.ID]string{"friend": OriginConfig}}
	s, err := NewSlots(SlotsConfig{Inbound: places}, fns, d, book, event.NewBus(16), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func inboundFrom(id peer.ID, ip string) Peer {
	return Peer{ID: id, Inbound: true, Addr: ma.StringCast("/ip4/" + ip + "/udp/9906/quic-v1"), ConnectedAt: time.Now()}
}

// However often they come back, there are never more than the places, and never
// fewer once these were taken.
func TestAdmitKeepsTheNumber(t *testing.T) {
	const places = 30
	table := map[peer.ID]Peer{}
	s := doors(t, places, table)
	in := func(p Peer) bool {
		table[p.ID] = p
		evict, err := s.Admit(p.ID)
		if err != nil {
			delete(table, p.ID)
			return false
		}
		delete(table, evict)
		p.Ready = true
		table[p.ID] = p
		return true
	}
	for round := range 20 {
		for i := range 60 { // two in each of 30 groups
			id := peer.ID(fmt.Sprintf("p%d", i))
			if _, here := table[id]; here {
				continue
			}
			in(inboundFrom(id, netip.AddrFrom4([4]byte{11, byte(i % 30), byte(i), 1}).String()))
			if n := len(table); n > places || round > 0 && n < places {
				t.Fatalf("round %d: %d inbound peers, %d places", round, n, places)
			}
		}
	}
	if !in(inboundFrom("friend", "12.1.1.1")) || !in(inboundFrom("new", "12.2.1.1")) {
		t.Error("a newcomer in a group of its own got no place")
	}
}

func TestPlacesOfOneAddress(t *testing.T) {
	table := map[peer.ID]Peer{}
	s := doors(t, 30, table)
	for i := range 4 {
		p := inboundFrom(peer.ID(fmt.Sprintf("site%d", i)), "13.1.1.1")
		table[p.ID] = p
		if _, err := s.Admit(p.ID); err != nil {
			t.Fatalf("peer %d of an address: %v", i, err)
		}
		p.Ready = true
		table[p.ID] = p
	}
	for _, id := range []peer.ID{"fifth", "friend"} {
		table[id] = inboundFrom(id, "13.1.1.1")
	}
	if got, why := s.Arrive("fifth"); got != "fifth" || why != "4 peers from 13.1.1.1/32 are here, which is the most" {
		t.Errorf("at the arrival of a fifth peer from one address %q is closed: %s", got, why)
	}
	if _, err := s.Admit("fifth"); err == nil {
		t.Error("a fifth peer from one address got a place")
	}
	if got, _ := s.Arrive("friend"); got != "" {
		t.Errorf("at the arrival of a trusted peer %q is closed", got)
	}
	if evict, err := s.Admit("friend"); err != nil || evict != "" {
		t.Errorf("a trusted peer: %q, %v", evict, err)
	}
}
