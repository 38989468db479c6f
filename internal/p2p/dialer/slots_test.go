package dialer_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/wire"
)

// A book of 100 peers, of whom 40 are there, fills all slots, each in a group
// of its own.
func TestSlotsFillFromTheBook(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		kinds := []addrbook.Kind{addrbook.Operator, addrbook.DNS, addrbook.Bootstrap}
		type known struct {
			id peer.ID
			ip string
		}
		var all []known
		for i := range 100 {
			key, ip := newKey(t), fmt.Sprintf("%d.%d.0.%d", 11+i%3, i/3, 1+i)
			if i < 40 { // these are there, two in each group
				ip = fmt.Sprintf("2.%d.0.%d", i/2, 1+i)
				s := w.node(options{ip: ip, key: key})
				defer s.stop()
			}
			all = append(all, known{idOf(t, key), ip})
		}
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 8, BlockOnly: 2, Inbound: 10, Kinds: 4}, know: func(b *addrbook.Book) {
			for i, k := range all {
				tell(t, b, kinds[i%3], k.id, k.ip)
			}
		}})
		defer p.stop()
		start := time.Now()
		for len(p.inSlot("outbound")) < 8 || len(p.inSlot("block_only")) < 2 {
			if time.Since(start) > 3*time.Minute {
				t.Fatalf("after 3 min %d full, %d block-only\n%s", len(p.inSlot("outbound")), len(p.inSlot("block_only")), p.log.tail(30))
			}
			time.Sleep(time.Second)
		}
		synctest.Wait() // what the last one brought is in the book
		t.Logf("all slots filled after %v", time.Since(start))
		groups, sources, collide := map[string]int{}, map[string]int{}, 0
		for _, v := range append(p.inSlot("outbound"), p.inSlot("block_only")...) {
			groups[p.book.Group(v.Addr)]++
			sources[v.Source]++
			if !p.host.ConnManager().IsProtected(v.ID, "slot/out") {
				t.Errorf("%s can be trimmed", v.ID)
			}
			e, ok := p.book.Get(v.ID)
			if !ok || e.FirstGood.IsZero() {
				t.Errorf("%s: the book knows of no success", v.ID)
			}
			if e.Table != addrbook.Tried { // its place there is taken, and the one that has it is tested first
				collide++
			}
		}
		if collide > 2 {
			t.Errorf("%d of 10 are not in the table of those tried", collide)
		}
		if len(groups) != 10 {
			t.Errorf("10 peers in %d groups: %v", len(groups), groups)
		}
		for source, n := range sources {
			if n > 3 && source != "operator" {
				t.Errorf("%d of 10 outbound peers come from %s: %v", n, source, sources)
			}
		}
		if v := p.metric2(t, "parley_dialer_slots", "outbound", "filled"); v != 8 {
			t.Errorf("metric: %v filled", v)
		}
		time.Sleep(20 * time.Minute)
		if len(p.inSlot("outbound")) < 8 { // one may be changing hands just now
			time.Sleep(time.Minute)
		}
		if n := len(p.inSlot("outbound")); n != 8 {
			t.Errorf("%d full after 20 min\n%s", n, p.log.tail(30))
		}
		if a := p.alarms(); a["low_diversity"]+a["possible_eclipse"]+a["low_peers"] > 0 {
			t.Errorf("alarms %v", a)
		}
	})
}

// Where all peers share a group, only one is dialled for a minute; then others
// are, and the alarm says so.
func TestOneOfAGroupUntilNoneIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3}, know: func(b *addrbook.Book) {
			for i := range 8 {
				key, ip := newKey(t), fmt.Sprintf("2.2.%d.1", i)
				s := w.node(options{ip: ip, key: key})
				t.Cleanup(s.stop)
				defer func() { tell(t, b, addrbook.Operator, idOf(t, key), ip) }()
			}
		}})
		defer p.stop()
		time.Sleep(50 * time.Second)
		if n := len(p.inSlot("outbound")); n != 1 {
			t.Fatalf("%d of one group after 50 s, want 1", n)
		}
		if len(p.needs) == 0 || len(p.needs) > 3 {
			t.Errorf("discovery was asked %d times in 50 s", len(p.needs))
		}
		time.Sleep(40 * time.Second)
		if n := len(p.inSlot("outbound")); n != 3 {
			t.Fatalf("%d after 90 s, want 3\n%s", n, p.log.tail(20))
		}
		if a := p.alarms(); a["low_diversity"] != 1 {
			t.Errorf("alarms %v", a)
		}
	})
}

// Non-public addresses have no rule of groups.
func TestPrivateAddressesHaveNoGroupRule(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var stops []func()
		p := w.picker(pickerOptions{ip: "10.1.0.1", slots: dialer.SlotsConfig{Outbound: 4}, know: func(b *addrbook.Book) {
			for i := range 6 {
				key, ip := newKey(t), fmt.Sprintf("10.1.1.%d", i+1)
				stops = append(stops, w.node(options{ip: ip, key: key}).stop)
				tell(t, b, addrbook.Operator, idOf(t, key), ip)
			}
		}})
		defer p.stop()
		time.Sleep(5 * time.Second)
		if n := len(p.inSlot("outbound")); n != 4 {
			t.Errorf("%d after 5 s, want 4", n)
		}
		for _, stop := range stops {
			stop()
		}
	})
}

// A peer that does not answer is tried ever more seldom, and soon again once it
// was there.
func TestOutboundBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		key, other := newKey(t), w.node(options{ip: "2.9.0.1"})
		defer other.stop()
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 2}, know: func(b *addrbook.Book) {
			tell(t, b, addrbook.Operator, idOf(t, key), "2.2.0.1")
			tell(t, b, addrbook.Operator, other.host.ID(), "2.9.0.1") // so that the fault is not ours
		}})
		defer p.stop()
		tries := func(d time.Duration) int {
			before := p.log.count("outbound dial failed")
			time.Sleep(d)
			return p.log.count("outbound dial failed") - before
		}
		if n := tries(5 * time.Minute); n < 3 || n > 8 {
			t.Errorf("%d tries in the first 5 min", n)
		}
		if n := tries(2 * time.Hour); n < 2 || n > 12 {
			t.Errorf("%d tries in the next 2 h", n)
		}
		if n := tries(4 * time.Hour); n < 2 || n > 9 {
			t.Errorf("%d tries in the next 4 h, want about one an hour", n)
		}
		s := w.node(options{ip: "2.2.0.1", key: key})
		defer s.stop()
		time.Sleep(2 * time.Hour)
		if n := len(p.inSlot("outbound")); n != 2 {
			t.Errorf("%d outbound peers, want 2: it is there again", n)
		}
	})
}

// After an outage of ours everybody is found again within two
// minutes, though all of them failed all the time.
func TestRecoveryAfterALongOutage(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		keys, stops := []crypto.PrivKey{}, []func(){}
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 4, BlockOnly: 1}, know: func(b *addrbook.Book) {
			for i := range 6 {
				keys = append(keys, newKey(t))
				tell(t, b, addrbook.Operator, idOf(t, keys[i]), fmt.Sprintf("2.%d.0.1", i))
			}
		}})
		defer p.stop()
		up := func() {
			for i, key := range keys {
				stops = append(stops, w.node(options{ip: fmt.Sprintf("2.%d.0.1", i), key: key}).stop)
			}
		}
		down := func() {
			for _, stop := range stops {
				stop()
			}
			stops = nil
		}
		up()
		time.Sleep(2 * time.Minute)
		if n := len(p.inSlot("outbound")); n != 4 {
			t.Fatalf("%d outbound peers before, want 4", n)
		}
		down()
		time.Sleep(90 * time.Minute)
		if n := len(p.Peers()); n != 0 {
			t.Fatalf("%d peers during the outage", n)
		}
		asked := len(p.needs)
		if asked < 8 {
			t.Errorf("discovery was asked %d times in 90 min", asked)
		}
		up()
		time.Sleep(2 * time.Minute)
		if n, m := len(p.inSlot("outbound")), len(p.inSlot("block_only")); n != 4 || m < 1 { // an extra block-only one may be there
			t.Errorf("%d outbound and %d block-only peers 2 min after the outage, want 4 and 1", n, m)
		}
		down()
	})
}

// shutDoor hangs up on whoever comes, at once, until it is opened, and counts
// them.
type shutDoor struct {
	mu   sync.Mutex
	open bool
	came int
}

func (d *shutDoor) connected(_ network.Network, c network.Conn) {
	if c.Stat().Direction == network.DirOutbound {
		return
	}
	d.mu.Lock()
	d.came++
	open := d.open
	d.mu.Unlock()
	if !open {
		_ = c.Close()
	}
}

// Of two nodes that are started together one is up first: until the other one
// answers, or five seconds have passed, it is dialled about each second.
func TestStartedTogether(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		door := &shutDoor{}
		s := w.node(options{ip: "2.1.0.1"})
		defer s.stop()
		s.host.Network().Notify(&network.NotifyBundle{ConnectedF: door.connected})
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 2}, know: func(b *addrbook.Book) {
			tell(t, b, addrbook.Bootstrap, s.host.ID(), "2.1.0.1")
		}})
		defer p.stop()
		time.Sleep(4 * time.Second)
		door.mu.Lock()
		if door.came < 3 || door.came > 8 {
			t.Errorf("dialled %d times in the first 4 s", door.came)
		}
		door.open = true
		door.mu.Unlock()
		time.Sleep(2500 * time.Millisecond)
		if n := len(p.inSlot("outbound")); n != 1 {
			t.Errorf("2.5 s after it came up there are %d outbound peers\n%s", n, p.log.tail(20))
		}
	})
}

// After an outage of ours a static peer comes back first, whom no slot dialled:
// it shows that the fault was ours, and the rests of all others end at once.
func TestStaticPeerEndsTheOutage(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		key, keys := newKey(t), []crypto.PrivKey{}
		static := w.node(options{ip: "2.9.0.1", key: key})
		item := addrOf(t, "2.9.0.1").String() + "/p2p/" + idOf(t, key).String()
		p := w.picker(pickerOptions{ip: "1.1.0.1", items: []string{item}, slots: dialer.SlotsConfig{Outbound: 3}, know: func(b *addrbook.Book) {
			for i := range 3 {
				keys = append(keys, newKey(t))
				tell(t, b, addrbook.Operator, idOf(t, keys[i]), fmt.Sprintf("2.%d.0.1", i))
			}
		}})
		defer p.stop()
		time.Sleep(3 * time.Hour) // the static one is there: each of the others rests for about an hour
		if n := len(p.inSlot("static")); n != 1 {
			t.Fatalf("%d static peers", n)
		}
		static.stop()
		time.Sleep(20 * time.Second)
		for i, key := range keys {
			defer w.node(options{ip: fmt.Sprintf("2.%d.0.1", i), key: key}).stop()
		}
		time.Sleep(time.Second)
		if n := len(p.inSlot("outbound")); n == 3 {
			t.Fatal("nobody rested")
		}
		defer w.node(options{ip: "2.9.0.1", key: key}).stop()
		back := time.Now()
		for len(p.inSlot("static")) == 0 {
			if time.Since(back) > time.Minute {
				t.Fatal("the static peer is not back")
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		if n := len(p.inSlot("outbound")); n != 3 {
			t.Errorf("%d outbound peers 3 s after the static one, want 3\n%s", n, p.log.tail(20))
		}
	})
}

// Feelers look at new peers one by one and leave them; who answered is tried.
func TestFeelers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		first := w.node(options{ip: "2.0.0.1"})
		defer first.stop()
		var stops []func()
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 1}, know: func(b *addrbook.Book) {
			tell(t, b, addrbook.Operator, first.host.ID(), "2.0.0.1")
		}})
		defer p.stop()
		time.Sleep(3 * time.Second)
		for i := range 12 {
			s := w.node(options{ip: fmt.Sprintf("2.%d.0.1", i+1)})
			stops = append(stops, s.stop)
			tell(t, p.book, addrbook.Operator, s.host.ID(), fmt.Sprintf("2.%d.0.1", i+1))
		}
		time.Sleep(2 * time.Hour)
		if st := p.book.Stats(); st.Tried < 11 {
			t.Errorf("after 2 h of feelers: %+v", st)
		}
		if n := len(p.Peers()); n != 1 {
			t.Errorf("%d peers, want the outbound one alone: feelers leave", n)
		}
		if n := p.log.count("slot=feeler"); n > 0 {
			t.Errorf("%d feelers failed", n)
		}
		for _, stop := range stops {
			stop()
		}
	})
}

// A static peer is proven by our own dial like those of the slots: it is in
// tried, and stays seen as long as it is connected.
func TestStaticPeersAreTried(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		key := newKey(t)
		s := w.node(options{ip: "2.1.0.1", key: key})
		defer s.stop()
		p := w.picker(pickerOptions{ip: "1.1.0.1", items: []string{addrOf(t, "2.1.0.1").String() + "/p2p/" + idOf(t, key).String()}})
		defer p.stop()
		time.Sleep(time.Minute)
		e, ok := p.book.Get(idOf(t, key))
		if !ok || e.Table != addrbook.Tried || e.FirstGood.IsZero() {
			t.Fatalf("a static peer: %+v", e)
		}
		time.Sleep(25 * time.Hour)
		if e, _ = p.book.Get(idOf(t, key)); time.Since(e.LastSeen) > time.Hour {
			t.Errorf("connected, and last seen %v ago", time.Since(e.LastSeen))
		}
	})
}

// A peer to which somebody connected only to ask it is taken over as it is, and
// one that became a static peer gives its slot to another.
func TestSlotsTakeOverAVisit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Inbound: 4}})
		b := w.picker(pickerOptions{ip: "1.2.0.1", slots: dialer.SlotsConfig{Inbound: 4}})
		n := w.picker(pickerOptions{ip: "1.3.0.1", slots: dialer.SlotsConfig{Outbound: 1}})
		for _, p := range []*picker{a, b, n} {
			defer p.stop()
		}
		if err := n.host.Connect(t.Context(), peer.AddrInfo{ID: a.host.ID(), Addrs: a.host.Addrs()}); err != nil {
			t.Fatal(err)
		}
		if err := n.Greet(t.Context(), a.host.ID()); err != nil {
			t.Fatal(err)
		}
		conn := n.host.Network().ConnsToPeer(a.host.ID())[0]
		tell(t, n.book, addrbook.Operator, a.host.ID(), "1.1.0.1")
		n.slots.Found()
		time.Sleep(5 * time.Second)
		if slot, source := n.slots.SlotOf(a.host.ID()); slot != dialer.SlotOutbound || source != "operator" {
			t.Errorf("slot %q, source %q", slot, source)
		}
		if now := n.host.Network().ConnsToPeer(a.host.ID()); len(now) != 1 || now[0] != conn {
			t.Errorf("it was dialled again: %v", now)
		}
		tell(t, n.book, addrbook.Operator, b.host.ID(), "1.2.0.1")
		n.Keep([]peer.AddrInfo{{ID: a.host.ID(), Addrs: a.host.Addrs()}})
		time.Sleep(time.Minute)
		if slot, _ := n.slots.SlotOf(a.host.ID()); slot != "" {
			t.Errorf("a member has slot %q", slot)
		}
		if slot, _ := n.slots.SlotOf(b.host.ID()); slot != dialer.SlotOutbound {
			t.Errorf("the other has slot %q", slot)
		}
	})
}

// Whom the operator disconnected no slot takes up again for an hour, unless he
// connects it; and what he connects is his though it was there before.
func TestSlotsLeaveWhomTheOperatorLeft(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Inbound: 4}})
		n := w.picker(pickerOptions{ip: "1.3.0.1", slots: dialer.SlotsConfig{Outbound: 1}})
		defer a.stop()
		defer n.stop()
		p := a.host.ID()
		tell(t, n.book, addrbook.Operator, p, "1.1.0.1")
		n.slots.Found()
		time.Sleep(time.Minute)
		if !n.IsReady(p) {
			t.Fatal("the slot is not filled")
		}
		part := func() {
			n.Leave(p)
			n.Disconnect(t.Context(), p, wire.GoodbyeShutdown, "the operator disconnected")
		}
		part()
		time.Sleep(50 * time.Minute)
		if n.IsReady(p) {
			t.Fatal("it was dialled again though the operator disconnected it")
		}
		time.Sleep(30 * time.Minute)
		if !n.IsReady(p) {
			t.Fatal("it rests for ever")
		}
		part()
		time.Sleep(time.Second)
		info := peer.AddrInfo{ID: p, Addrs: a.host.Addrs()}
		if err := n.host.Connect(t.Context(), info); err != nil { // somebody visits it
			t.Fatal(err)
		}
		if err := n.ConnectPeer(t.Context(), info); err != nil || !n.ByHand(p) {
			t.Errorf("a visited peer does not become the operator's: %v", err)
		}
		part()
		time.Sleep(time.Second)
		if n.ByHand(p) {
			t.Error("a peer that went is still the operator's")
		}
	})
}
