package dialer

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
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
			short := len(s.inbound.brief.peers)
			if n := len(table) - short; n > places || round > 0 && n < places || short > briefPlaces {
				t.Fatalf("round %d: %d inbound peers and %d for a short time, %d places", round, n, short, places)
			}
		}
	}
	if !in(inboundFrom("friend", "12.1.1.1")) || !in(inboundFrom("new", "12.2.1.1")) {
		t.Error("a newcomer in a group of its own got no place")
	}
}

// full takes all places, each by a peer in a group of its own.
func full(places int, table map[peer.ID]Peer) {
	for i := range places {
		p := inboundFrom(peer.ID(fmt.Sprint("old ", i)), fmt.Sprintf("11.%d.1.1", i))
		p.Ready = true
		table[p.ID] = p
	}
}

// The last free place is not given twice: a peer that comes and gets it while
// another one is looked at has it.
func TestLastPlaceOnce(t *testing.T) {
	const places = 30
	table := map[peer.ID]Peer{}
	s := doors(t, places, table)
	full(places-1, table)
	table["first"] = inboundFrom("first", "12.1.1.1")
	look, evicted := s.fns.Peers, 0
	admit := func(p peer.ID) {
		evict, err := s.Admit(p)
		if err != nil {
			t.Fatal(err)
		}
		if evict != "" {
			evicted++
		}
	}
	s.fns.Peers = func() []Peer {
		s.fns.Peers = look
		list := look()
		table["second"] = inboundFrom("second", "12.2.1.1")
		admit("second")
		return list
	}
	if admit("first"); evicted != 1 {
		t.Errorf("two came for one place, %d gave theirs up for it", evicted)
	}
}

// A peer that had a place by right and lost that takes none beside the others:
// one goes for it.
func TestNoMoreThanPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 30
		table := map[peer.ID]Peer{}
		s := doors(t, places, table)
		full(places, table)
		friend := inboundFrom("friend", "12.1.1.1")
		friend.Ready = true
		table[friend.ID] = friend
		if jobs := s.seeOff(time.Now()); len(jobs) != 0 {
			t.Fatalf("%d have to go though one has its place by right", len(jobs))
		}
		delete(s.dial.trusted, "friend")
		jobs := s.seeOff(time.Now())
		if len(jobs) != 1 {
			t.Fatalf("%d have to go, want one", len(jobs))
		}
		if again := s.seeOff(time.Now()); len(again) != 0 {
			t.Errorf("%d more have to go while one leaves", len(again))
		}
		delete(table, jobs[0].hold.id)
		time.Sleep(settles)
		if jobs := s.seeOff(time.Now()); len(jobs) != 0 {
			t.Errorf("%d have to go when all have a place", len(jobs))
		}
	})
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

// Who was evicted pushes nobody out before half an hour is over, under whatever
// id it comes back, unless the one that goes is a bad one; a free place it gets
// at once.
func TestEvictedDoesNotPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 30
		table := map[peer.ID]Peer{}
		s := doors(t, places, table)
		in := func(id peer.ID, ip string) (evict peer.ID, err error) {
			table[id] = inboundFrom(id, ip)
			if evict, err = s.Admit(id); err != nil {
				delete(table, id)
				return "", err
			}
			delete(table, evict)
			p := table[id]
			p.Ready = true
			table[id] = p
			time.Sleep(settles)
			return evict, nil
		}
		at := func(i int) string { return netip.AddrFrom4([4]byte{11, byte(i), 7, 1}).String() }
		var out peer.ID
		for i := range places + 1 { // each in a group of its own: the last pushes one out
			var err error
			if out, err = in(peer.ID(fmt.Sprint(i)), at(i)); err != nil || (out != "") != (i == places) {
				t.Fatalf("peer %d of %d places: %q goes, %v", i, places, out, err)
			}
		}
		var host int
		if _, err := fmt.Sscan(string(out), &host); err != nil {
			t.Fatal(err)
		}
		beside := netip.AddrFrom4([4]byte{11, byte(host), 7, 200}).String()
		if evict, err := in("another id", beside); err != nil || evict != "" {
			t.Errorf("beside the one that was evicted: %q goes, %v: want a short place", evict, err)
		}
		if jobs := s.seeOff(time.Now()); len(jobs) != 1 || jobs[0].hold.id != "another id" {
			t.Errorf("its time is over: %d have to go", len(jobs))
		}
		delete(table, "another id")
		if evict, err := in("third id", beside); err == nil {
			t.Errorf("within a minute beside one that had a short place: %q goes", evict)
		}
		if evict, err := in("stranger", at(100)); err != nil || evict == "" {
			t.Errorf("from elsewhere: %q goes, %v", evict, err)
		}
		for id := range table { // one leaves
			delete(table, id)
			break
		}
		if evict, err := in("another id", beside); err != nil || evict != "" {
			t.Errorf("with a free place: %q goes, %v", evict, err)
		}
		delete(table, "another id")
		if _, err := in("filler", at(101)); err != nil {
			t.Error(err)
		}
		time.Sleep(pushAgain)
		if evict, err := in("another id", beside); err != nil || evict == "" {
			t.Errorf("half an hour later: %q goes, %v", evict, err)
		}
	})
}

// Beside all places there are a few for a short time, one a minute for each
// network; who has one stays when a place is free by then.
func TestBriefPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 2
		table := map[peer.ID]Peer{}
		s := doors(t, places, table)
		in := func(id peer.ID, i int) error {
			table[id] = inboundFrom(id, netip.AddrFrom4([4]byte{11, byte(i), 7, 1}).String())
			evict, err := s.Admit(id)
			if err != nil {
				delete(table, id)
				return err
			}
			delete(table, evict)
			p := table[id]
			p.Ready = true
			table[id] = p
			return nil
		}
		for i := range places + briefPlaces { // two are spared by their groups, so nobody goes
			if err := in(peer.ID(fmt.Sprint(i)), i); err != nil {
				t.Fatalf("peer %d: %v", i, err)
			}
		}
		if len(s.inbound.brief.peers) != briefPlaces || len(table) != places+briefPlaces {
			t.Fatalf("%d of %d for a short time, want %d", len(s.inbound.brief.peers), len(table), briefPlaces)
		}
		if in("late", 100) == nil {
			t.Error("one more than the short places was let in")
		}
		if jobs := s.seeOff(time.Now()); len(jobs) != 0 {
			t.Errorf("%d have to go at once", len(jobs))
		}
		time.Sleep(settles)
		delete(table, "0") // a place is free
		if jobs := s.seeOff(time.Now()); len(jobs) != briefPlaces-1 {
			t.Errorf("%d have to go, want all but one", len(jobs))
		}
		for id := range s.inbound.brief.peers {
			delete(table, id)
		}
		if s.seeOff(time.Now()); len(s.inbound.brief.peers) != 0 {
			t.Errorf("%d who went are remembered", len(s.inbound.brief.peers))
		}
		if in("late", 100) != nil {
			t.Error("with short places free again nobody is let in")
		}
		if in("again", 5) == nil {
			t.Error("a network had two within a minute")
		}
		time.Sleep(briefAgain)
		if in("again", 5) != nil {
			t.Error("a network had none in a minute, and gets none")
		}
	})
}

// Who was given the free place and is about to take it has it: nobody who is
// here for a short time stays in it.
func TestBriefTakesNoGivenPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 2 // whose peers are spared by their groups
		table := map[peer.ID]Peer{}
		s := doors(t, places, table)
		full(places, table)
		short := inboundFrom("short", "12.1.1.1")
		table["short"] = short
		if evict, err := s.Admit("short"); err != nil || evict != "" {
			t.Fatalf("%q goes, %v: want a short place", evict, err)
		}
		short.Ready = true
		table["short"] = short
		time.Sleep(briefStay)
		delete(table, "old 0")
		table["new"] = inboundFrom("new", "13.1.1.1")
		if evict, err := s.Admit("new"); err != nil || evict != "" {
			t.Fatalf("%q goes, %v: a place is free", evict, err)
		}
		if jobs := s.seeOff(time.Now()); len(jobs) != 1 || jobs[0].hold.id != "short" {
			t.Errorf("%d have to go, want the one for a short time", len(jobs))
		}
	})
}

// However many networks lose a place, what is remembered of them is bounded.
func TestLosersBounded(t *testing.T) {
	l, now := losers{}, time.Now()
	ip := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 1}) }
	for i := range 2 * maxLosers {
		l.add(ip(i), now)
	}
	if len(l) > maxLosers || !l.has(ip(2*maxLosers-1), now) {
		t.Errorf("%d networks remembered, the last one: %v", len(l), l.has(ip(2*maxLosers-1), now))
	}
	l.add(ip(0), now.Add(pushAgain)) // all others are over
	if len(l) != 1 {
		t.Errorf("%d networks remembered after all but one are over", len(l))
	}
	site := netip.MustParseAddr("192.168.1.7")
	l.add(site, now)
	if l.has(site, now) || l.has(netip.Addr{}, now) {
		t.Error("a private address counts as a network")
	}
}

// More than a hundred refusals a second are a flood once they have lasted for a
// minute, whoever asks how often, and it ends a minute after them.
func TestRefusalsAreAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := doors(t, 4, nil)
		total := uint64(1 << 40) // of the time before
		s.fns.Refused = func() uint64 { return total }
		run := func(rate int, d time.Duration) (on time.Duration) {
			for range d / (250 * time.Millisecond) {
				time.Sleep(250 * time.Millisecond)
				total += uint64(rate / 4)
				s.flood(time.Now())
				if s.fns.Alarms.On(alarmFlood) {
					on += 250 * time.Millisecond
				}
			}
			return on
		}
		if on := run(80, 5*time.Minute); on > 0 {
			t.Errorf("80 a second are a flood for %s", on)
		}
		if on := run(2000, 2*time.Second); on > 2*time.Second || len(s.inbound.turned) > 62 {
			t.Errorf("a short wave: a flood for %s, %d samples", on, len(s.inbound.turned))
		}
		run(0, 2*time.Minute)
		if on := run(160, 5*time.Minute); on < 4*time.Minute || on > 4*time.Minute+50*time.Second {
			t.Errorf("160 a second for 5 minutes: a flood for %s", on)
		}
		if on := run(0, 5*time.Minute); on > time.Minute {
			t.Errorf("a flood for %s after its end", on)
		}
	})
}

// Peers that leave are none of those in handshake: another one is closed for a
// newcomer, not one that goes already.
func TestArrivalsCountNobodyThatLeaves(t *testing.T) {
	table := map[peer.ID]Peer{}
	s := doors(t, 64, table)
	for i := range 200 {
		p := inboundFrom(peer.ID(fmt.Sprint("leaves ", i)), fmt.Sprintf("11.%d.1.1", i))
		p.Leaving = true
		table[p.ID] = p
	}
	for i := range maxGreeting {
		p := inboundFrom(peer.ID(fmt.Sprint("stays ", i)), fmt.Sprintf("12.%d.1.1", i))
		table[p.ID] = p
		if closed, _ := s.Arrive(p.ID); closed != "" {
			t.Fatalf("%s is closed at the arrival of %s", closed, p.ID)
		}
	}
	p := inboundFrom("newcomer", "13.1.1.1")
	table[p.ID] = p
	if closed, _ := s.Arrive(p.ID); closed == "" || table[closed].Leaving {
		t.Errorf("%q is closed for one too many", closed)
	}
}

// A flood that comes one by one from 32 groups, thirty a second, is told from a
// newcomer that is as slow: it has been turned away before.
func TestArrivalsOfAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := map[peer.ID]Peer{}
		s := doors(t, 64, table)
		come := func(id peer.ID, ip string) (closed peer.ID) {
			table[id] = inboundFrom(id, ip)
			closed, _ = s.Arrive(id)
			delete(table, closed)
			return closed
		}
		n := 0
		flood := func(d time.Duration) (closed map[peer.ID]bool) {
			closed = map[peer.ID]bool{}
			for end := time.Now().Add(d); time.Now().Before(end); n++ {
				closed[come(peer.ID(fmt.Sprint("flood ", n)), fmt.Sprintf("11.%d.%d.1", n%32, n/32%250))] = true
				time.Sleep(time.Second / 30)
			}
			return closed
		}
		flood(5 * time.Second)
		for i := range 20 {
			id := peer.ID(fmt.Sprint("newcomer ", i))
			if come(id, fmt.Sprintf("12.%d.1.1", i)) == id || flood(1500 * time.Millisecond)[id] {
				t.Errorf("%s is closed in the place of one of the flood", id)
			}
			delete(table, id)
		}
		time.Sleep(cutFor)
		if come("after", "13.1.1.1"); s.inbound.cuts.Len() > 1 {
			t.Errorf("%d cuts are remembered for ever", s.inbound.cuts.Len())
		}
	})
}

// With a map of autonomous systems one of them has as many places as a /16 has
// without it, in however many networks its addresses are.
func TestPlacesOfOneAS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "as.txt")
	if err := os.WriteFile(file, []byte("20.0.0.0/8 64500\n30.0.0.0/8 64501\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := addrbook.LoadASMap(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, mapped := range []bool{false, true} {
		table := map[peer.ID]Peer{}
		s := doors(t, 60, table)
		if mapped {
			if s.book, err = addrbook.Open(addrbook.Config{ASMap: m}, nil, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		came := func(ip string) bool {
			p := inboundFrom(peer.ID(ip), ip)
			table[p.ID] = p
			_, err := s.Admit(p.ID)
			if err != nil {
				delete(table, p.ID)
			}
			return err == nil
		}
		of := 0
		for i := range 30 {
			if came(fmt.Sprintf("20.%d.1.1", i)) {
				of++
			}
		}
		if want := map[bool]int{false: 30, true: perGroup}[mapped]; of != want {
			t.Errorf("with a map %v: %d of one AS have a place, want %d", mapped, of, want)
		}
		if !came("30.1.1.1") {
			t.Errorf("with a map %v: one of another AS is refused", mapped)
		}
	}
}
