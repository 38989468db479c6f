package dialer_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

func TestStaticPeersAtRunTime(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		file := filepath.Join(t.TempDir(), "static-peers.json")
		a, c := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.3.0.1"})
		defer a.stop()
		defer c.stop()
		key, cfg := newKey(t), dialer.Config{Items: []string{"1.1.0.1"}, File: file}
		b := w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		sub := b.bus.Subscribe()
		if err := b.Add("1.3.0.1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if s, ok := b.Find("1.3.0.1"); !ok || s.State != dialer.Connected || s.Origin != "api" || s.ID != c.host.ID() || !b.IsReady(c.host.ID()) {
			t.Fatalf("3 s after it was added: %+v", s)
		}
		full := c.host.Addrs()[0].String() + "/p2p/" + c.host.ID().String()
		own := b.host.Addrs()[0].String() + "/p2p/" + b.host.ID().String()
		for text, want := range map[string]error{"1.3.0.1": dialer.ErrDouble, " 1.1.0.1": dialer.ErrDouble, full: dialer.ErrDouble, own: dialer.ErrSelf} {
			if err := b.Add(text); !errors.Is(err, want) {
				t.Errorf("add %s: %v, want %v", text, err, want)
			}
		}
		if err := b.Add("enode://a@b:1"); err == nil {
			t.Error("an enode was added")
		}
		b.stop()

		b = w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		time.Sleep(3 * time.Second)
		if s, ok := b.Find("1.3.0.1"); !ok || s.State != dialer.Connected || s.Origin != "api" {
			t.Fatalf("after a restart: %+v", s)
		}
		if _, err := b.Remove("1.4.0.1"); !errors.Is(err, dialer.ErrNotStatic) {
			t.Errorf("remove what is not there: %v", err)
		}
		r, err := b.Remove(c.host.ID().String())
		if err != nil || !slices.Equal(r.Items, []string{"1.3.0.1"}) || len(r.Config) > 0 || !slices.Equal(r.Peers, []peer.ID{c.host.ID()}) {
			t.Fatalf("remove by id: %+v, %v", r, err)
		}
		if r, err = b.Remove("1.1.0.1"); err != nil || !slices.Equal(r.Config, []string{"1.1.0.1"}) {
			t.Fatalf("remove one of the configuration: %+v, %v", r, err)
		}
		for _, n := range []*node{a, c} {
			_ = b.host.Network().ClosePeer(n.host.ID())
			if b.Has(n.host.ID()) || b.host.ConnManager().IsProtected(n.host.ID(), "static") {
				t.Error("a removed peer is still kept")
			}
		}
		time.Sleep(3 * time.Minute)
		if len(b.Static()) != 0 || len(b.host.Network().Peers()) != 0 {
			t.Errorf("3 min after they were removed: %+v", b.Static())
		}
		if kept, _ := os.ReadFile(file); strings.Contains(string(kept), "1.3.0.1") || strings.Contains(string(kept), "1.1.0.1") {
			t.Errorf("the file still has them: %s", kept)
		}
		if err := b.Add("1.1.0.1"); err != nil { // back again, as what it was
			t.Fatal(err)
		}
		if s, _ := b.Find("1.1.0.1"); s.Origin != "config" {
			t.Errorf("added again: %+v", s)
		}
		if _, err := b.Remove("1.1.0.1"); err != nil {
			t.Fatal(err)
		}
		b.stop()

		b = w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		defer b.stop()
		time.Sleep(3 * time.Second)
		if s := b.only(t); s.Item != "1.1.0.1" || s.State != dialer.Connected {
			t.Errorf("one of the configuration is not back: %+v", s)
		}
		events, _ := sub.Take(1000)
		if !slices.ContainsFunc(events, func(e event.Envelope) bool {
			c, ok := e.Data.(event.StaticPeerChanged)
			return ok && c.Item == "1.3.0.1" && c.State == "trying"
		}) {
			t.Error("the bus was not told of the new one")
		}
	})
}

// Removing a peer that is set up anew, and adding it again, forgets its old id.
func TestRemoveForgetsThePin(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1"})
		b := w.node(options{ip: "1.2.0.1", cfg: items("1.1.0.1")})
		defer b.stop()
		time.Sleep(2 * time.Second)
		a.stop()
		a = w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		time.Sleep(30 * time.Second)
		if s := b.only(t); s.Class != dialer.ClassIdentity {
			t.Fatalf("with another id: %+v", s)
		}
		if _, err := b.Remove("1.1.0.1"); err != nil {
			t.Fatal(err)
		}
		if err := b.Add("1.1.0.1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if s := b.only(t); s.State != dialer.Connected || s.ID != a.host.ID() {
			t.Errorf("after it was added again: %+v", s)
		}
	})
}

// An attempt that is under way when its peer is removed leaves nothing behind.
func TestRemoveDuringAnAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1"})
		defer b.stop()
		if err := b.Add("1.1.0.1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(35 * time.Millisecond) // learning or dialling
		if _, err := b.Remove("1.1.0.1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if len(b.Static()) > 0 || len(b.host.Network().Peers()) > 0 || b.host.ConnManager().IsProtected(a.host.ID(), "") {
			t.Errorf("%+v, %d connections", b.Static(), len(b.host.Network().Peers()))
		}
	})
}

func TestRemoveOneOfSeveral(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.name("tasks.node", "1.1.0.1", "1.3.0.1")
		a, c := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.3.0.1"})
		defer a.stop()
		defer c.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("tasks.node"), members: []peer.AddrInfo{{ID: c.host.ID()}}})
		defer b.stop()
		time.Sleep(5 * time.Second)
		if _, err := b.Remove(a.host.ID().String()); !errors.Is(err, dialer.ErrSeveral) || !strings.Contains(err.Error(), "tasks.node") {
			t.Errorf("remove one of two: %v", err)
		}
		r, err := b.Remove("tasks.node")
		if err != nil || len(r.Peers) != 2 || !r.Member {
			t.Errorf("remove all: %+v, %v", r, err)
		}
		if _, err := b.Remove(c.host.ID().String()); !errors.Is(err, dialer.ErrMember) {
			t.Errorf("remove a member: %v", err)
		}
	})
}

func TestTrust(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		file := filepath.Join(t.TempDir(), "static-peers.json")
		a, c := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.3.0.1"})
		defer a.stop()
		defer c.stop()
		aID, cID := a.host.ID(), c.host.ID()
		cfg := dialer.Config{Trusted: []peer.ID{cID}, File: file}
		key := newKey(t)
		b := w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		b.rep.Exempt(b.Exempt)
		if err := b.Trust(aID); err != nil {
			t.Fatal(err)
		}
		if err := b.Trust(b.host.ID()); !errors.Is(err, dialer.ErrSelf) {
			t.Errorf("trust in ourselves: %v", err)
		}
		b.stop()
		b = w.node(options{ip: "1.2.0.1", key: key, cfg: cfg})
		defer b.stop()
		b.rep.Exempt(b.Exempt)
		for _, p := range []peer.ID{aID, cID} {
			if !b.Trusted(p) || !b.host.ConnManager().IsProtected(p, "trusted") {
				t.Errorf("after a restart %s is not trusted", p)
			}
			if b.rep.Penalize(p, chain.ForgedBlock, ""); !b.rep.Refused(p) {
				t.Error("a trusted peer of 100 points is not paused")
			}
		}
		time.Sleep(time.Minute)
		if p, err := b.Connect(t.Context(), "1.1.0.1"); err != nil || p != aID {
			t.Fatalf("connect with a trusted peer of 100 points: %v", err)
		}
		if p, _ := b.Peer(aID); p.Slot != "static" {
			t.Errorf("a trusted peer takes a place of others: %+v", p)
		}
		if was, back, err := b.Untrust(cID); !was || !back || err != nil {
			t.Errorf("untrust one of the configuration: %v %v %v", was, back, err)
		}
		if was, back, err := b.Untrust(aID); !was || back || err != nil {
			t.Errorf("untrust one of run time: %v %v %v", was, back, err)
		}
		if was, _, _ := b.Untrust(aID); was {
			t.Error("trust was taken back twice")
		}
		if kept, _ := os.ReadFile(file); b.Trusted(aID) || b.Trusted(cID) || !b.rep.Refused(aID) || strings.Contains(string(kept), aID.String()) {
			t.Errorf("trust is left: %s", kept)
		}
	})
}

func TestConnectOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.name("two", "1.9.0.1", "1.1.0.1") // nobody is at the first
		a, y := w.node(options{ip: "1.1.0.1"}), w.node(options{ip: "1.4.0.1", chain: "y"})
		defer a.stop()
		defer y.stop()
		b := w.node(options{ip: "1.2.0.1"})
		defer b.stop()
		aID := a.host.ID()
		for _, text := range []string{"1.1.0.1", "two", a.host.Addrs()[0].String(), a.host.Addrs()[0].String() + "/p2p/" + aID.String()} {
			p, err := b.Connect(t.Context(), text)
			if err != nil || p != aID || !b.IsReady(aID) || !b.ByHand(aID) {
				t.Fatalf("connect %s: %s, %v", text, p, err)
			}
			if p, err := b.Connect(t.Context(), text); err != nil || p != aID {
				t.Errorf("connect %s again: %v", text, err)
			}
			b.Disconnect(t.Context(), aID, 1, "by hand")
			time.Sleep(2 * time.Minute)
			if len(b.Static()) != 0 || len(b.Ready()) != 0 || b.ByHand(aID) {
				t.Fatalf("%s is kept", text)
			}
		}
		if err := b.ConnectPeer(t.Context(), peer.AddrInfo{ID: aID, Addrs: a.host.Addrs()}); err != nil || !b.IsReady(aID) {
			t.Errorf("connect by id: %v", err)
		}
		for text, want := range map[string]dialer.Class{
			"nowhere": dialer.ClassDNS, "1.8.0.1": dialer.ClassTimeout, "1.4.0.1": dialer.ClassWrongNetwork, "1.2.0.1": dialer.ClassSelf,
			a.host.Addrs()[0].String() + "/p2p/" + idOf(t, newKey(t)).String(): dialer.ClassIdentity,
		} {
			_, err := b.Connect(t.Context(), text)
			var dial *dialer.DialError
			if !errors.As(err, &dial) || dial.Class != want {
				t.Errorf("connect %s: %v, want class %s", text, err, want)
			}
		}
		var dial *dialer.DialError
		if _, err := b.Connect(t.Context(), "enode://x"); err == nil || errors.As(err, &dial) {
			t.Errorf("connect to an enode: %v", err)
		}
	})
}

// dials counts what is dialled.
type dials struct {
	mu sync.Mutex
	n  map[string]int
}

func (d *dials) InterceptPeerDial(peer.ID) bool { return true }

func (d *dials) InterceptAddrDial(_ peer.ID, a ma.Multiaddr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n[a.String()]++
	return true
}
func (d *dials) InterceptAccept(network.ConnMultiaddrs) bool { return true }

func (d *dials) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}

func (d *dials) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// take returns the counts since the last call.
func (d *dials) take() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.n
	d.n = map[string]int{}
	return n
}

// An address that times out rests after a few, and does not hold up or cost
// anything while another is left; where none is all are tried.
func TestAddressesRest(t *testing.T) {
	for _, optimise := range []bool{true, false} {
		bubble(t, func(t *testing.T, w *world) {
			at := func(ip string) string { return "/ip4/" + ip + "/udp/9906/quic-v1" }
			key := newKey(t)
			dead, good := at("1.8.0.1"), at("1.1.0.1")
			zone := dnsaddr{"p": {dead + "/p2p/" + idOf(t, key).String(), good + "/p2p/" + idOf(t, key).String()}}
			count := &dials{n: map[string]int{}}
			b := w.node(options{ip: "1.2.0.1", gater: count, cfg: dialer.Config{Items: []string{"/dnsaddr/p"}, TXT: zone.txt, OptimiseRetries: optimise}})
			defer b.stop()
			time.Sleep(3 * time.Minute) // nobody is at either
			count.take()
			time.Sleep(time.Minute)
			if n := count.take(); n[dead] == 0 || n[good] == 0 {
				t.Errorf("optimise %v: nobody is tried any more: %v", optimise, n)
			}
			a := w.node(options{ip: "1.1.0.1", key: key})
			time.Sleep(40 * time.Second)
			if s := b.only(t); s.State != dialer.Connected {
				t.Fatalf("optimise %v: the peer that came is not found: %+v", optimise, s)
			}
			if s := b.only(t); optimise != (len(s.Resting) == 1 && s.Resting[0].String() == dead) {
				t.Errorf("optimise %v: shown as resting: %v", optimise, s.Resting)
			}
			count.take()
			a.stop()
			time.Sleep(500 * time.Millisecond)
			a = w.node(options{ip: "1.1.0.1", key: key})
			defer a.stop()
			time.Sleep(30 * time.Second)
			if s := b.only(t); s.State != dialer.Connected {
				t.Fatalf("optimise %v: after a drop: %+v", optimise, s)
			}
			if n := count.take(); optimise != (n[dead] == 0) || n[good] == 0 {
				t.Errorf("optimise %v: after a drop these were dialled: %v", optimise, n)
			}
		})
	}
}
