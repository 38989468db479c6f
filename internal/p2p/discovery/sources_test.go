package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// A newcomer knows one bootstrap peer: it asks it and leaves, and knows others.
func TestBootstrap(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		both := Config{Discovery: config.Discovery{DHT: config.DHTServer, PEX: true, Rendezvous: true}}
		nodes := l.swarm(8, options{cfg: both})
		boot := nodes[0]
		boot.good(60)
		cfg := both
		cfg.Bootstrap = []string{boot.p2p(), "/ip4/20.1.0.250/udp/9906/quic-v1/p2p/" + idOf(t, newKey(t)).String()} // the other one is down
		n := l.node(options{cfg: cfg})
		time.Sleep(5 * time.Second)
		if n.from(addrbook.Bootstrap) != 2 {
			t.Errorf("%d bootstrap peers are in the book", n.from(addrbook.Bootstrap))
		}
		if got := n.from(addrbook.PEX); got < 8 {
			t.Errorf("%d peers by exchange", got)
		}
		time.Sleep(time.Minute)
		if got := n.Status().Peers; got < 7 {
			t.Errorf("%d peers in the table of the DHT", got)
		}
		time.Sleep(4 * time.Minute)
		if peers := n.host.Network().Peers(); len(peers) > 0 {
			t.Errorf("%d connections are left", len(peers))
		}
		if e, ok := n.book.Get(nodes[7].host.ID()); !ok || e.Record == nil {
			t.Error("a peer that the DHT found is not in the book by its own record")
		}
	})
}

// Before the chain is known nobody is asked, but their addresses are there for
// the dialer; once it is known they are asked at once.
func TestBootstrapOfAJoiner(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		boot := l.node(options{cfg: onlyPEX})
		boot.good(100)
		cfg := onlyPEX
		cfg.Bootstrap = []string{boot.p2p()}
		n := l.node(options{cfg: cfg, net: "-"})
		time.Sleep(time.Minute)
		if n.from(addrbook.Bootstrap) != 1 || len(n.host.Network().Peers()) != 0 {
			t.Errorf("%d in the book, %d connections", n.from(addrbook.Bootstrap), len(n.host.Network().Peers()))
		}
		if err := n.Start(testNet); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if n.from(addrbook.PEX) < 15 {
			t.Errorf("%d peers by exchange", n.from(addrbook.PEX))
		}
	})
}

// closedDoor makes a node's dials of one address fail at once until it is up, as
// those of TCP do where nobody listens, and notes when they were made.
type closedDoor struct {
	mu    sync.Mutex
	up    bool
	tries []time.Duration // since the start
}

func (c *closedDoor) wrap(f *Functions) {
	start, dial := time.Now(), f.Connect
	f.Connect = func(ctx context.Context, info peer.AddrInfo) error {
		c.mu.Lock()
		up := c.up
		c.tries = append(c.tries, time.Since(start))
		c.mu.Unlock()
		if !up {
			return errors.New("refused")
		}
		return dial(ctx, info)
	}
}

func (c *closedDoor) set(up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
}

// between counts the tries from one time to another.
func (c *closedDoor) between(from, to time.Duration) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range c.tries {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

// A bootstrap peer that is not up is asked again each second at first, then
// each five, and at length each thirty as long as nobody else is there.
func TestSilentBootstrap(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		boot := l.node(options{cfg: onlyPEX})
		boot.good(100)
		cfg := onlyPEX
		cfg.Bootstrap = []string{boot.p2p()}
		var r closedDoor
		n := l.node(options{cfg: cfg, fns: r.wrap})
		time.Sleep(time.Hour)
		for _, want := range []struct {
			from, to  time.Duration
			low, high int
		}{
			{0, eagerFor, 5, 7}, {eagerFor, fastFor, 19, 30}, {fastFor, time.Hour, 95, 150},
		} {
			if got := r.between(want.from, want.to); got < want.low || got > want.high {
				t.Errorf("asked %d times between %s and %s, want %d to %d", got, want.from, want.to, want.low, want.high)
			}
		}
		if n.from(addrbook.PEX) != 0 {
			t.Fatal("peers came from nowhere")
		}
		r.set(true)
		time.Sleep(40 * time.Second)
		if n.from(addrbook.PEX) < 15 {
			t.Errorf("%d peers by exchange, 40 s after it came up", n.from(addrbook.PEX))
		}
	})
}

// Nodes that start within a moment find each other in no more than that: who is
// not up yet is asked again each second, and of several those alone.
func TestStartTogether(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		late, early := newKey(t), l.node(options{cfg: onlyPEX})
		ip := l.address()
		cfg := onlyPEX
		cfg.Bootstrap = []string{"late.example:8080", early.p2p()}
		l.names["name.example"] = append(l.names["name.example"], addrOf(t, ip))
		cfg.DNS = []string{"name.example:8080"}
		var mu sync.Mutex
		up, names := false, 0
		var r closedDoor
		r.set(true)
		n := l.node(options{cfg: cfg, fns: func(f *Functions) {
			f.Identity = func(_ context.Context, at string) (peer.AddrInfo, error) {
				mu.Lock()
				defer mu.Unlock()
				if names++; !up {
					return peer.AddrInfo{}, errors.New("refused")
				}
				return peer.AddrInfo{ID: idOf(t, late), Addrs: []ma.Multiaddr{ma.StringCast("/ip4/" + ip + "/udp/9906/quic-v1")}}, nil
			}
			r.wrap(f)
		}})
		time.Sleep(2500 * time.Millisecond)
		mu.Lock()
		asked := names
		mu.Unlock()
		if asked < 4 { // of two sources
			t.Errorf("a node that is not up was asked for %d times within 2.5 s", asked)
		}
		if got := r.between(0, time.Hour); got != 1 {
			t.Errorf("the one that is up was dialled %d times", got)
		}
		l.node(options{cfg: onlyPEX, key: late, ip: ip})
		mu.Lock()
		up = true
		mu.Unlock()
		time.Sleep(1500 * time.Millisecond)
		if n.host.Network().Connectedness(idOf(t, late)) != network.Connected {
			t.Error("1.5 s after it came up it is not connected")
		}
	})
}

// A name that stands for nobody yet, or only for this node, is looked up again.
func TestSilentName(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		p := idOf(t, newKey(t))
		n := l.node(options{cfg: Config{Discovery: config.Discovery{DHT: config.DHTOff, DNS: []string{"boot.example"}}}})
		time.Sleep(2200 * time.Millisecond)
		l.mu.Lock()
		l.texts["_dnsaddr.boot.example"] = []string{"dnsaddr=/ip4/77.1.0.1/udp/9906/quic-v1/p2p/" + p.String()}
		l.mu.Unlock()
		time.Sleep(1300 * time.Millisecond)
		if _, ok := n.book.Get(p); !ok {
			t.Error("1.3 s after the name came to be its peer is not known")
		}
	})
}

// One bootstrap peer that goes down while others are connected: it is asked
// again only at a Need.
func TestNeedAsksAgain(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		boot := l.node(options{cfg: onlyPEX})
		boot.good(100)
		cfg := onlyPEX
		cfg.Bootstrap = []string{boot.p2p()}
		var r closedDoor
		n := l.node(options{cfg: cfg, fns: r.wrap})
		n.meet(l.node(options{cfg: onlyPEX}))
		time.Sleep(time.Hour)
		if n.from(addrbook.PEX) != 0 {
			t.Fatal("peers came from nowhere")
		}
		r.set(true)
		time.Sleep(time.Minute)
		if n.from(addrbook.PEX) != 0 || r.between(fastFor+slowEvery, 2*time.Hour) != 0 {
			t.Error("it was asked without need")
		}
		n.Need()
		time.Sleep(10 * time.Second)
		if n.from(addrbook.PEX) < 15 {
			t.Errorf("%d peers by exchange after Need", n.from(addrbook.PEX))
		}
	})
}

// Bootstrap peers that are set while the node runs: asked at once by who knows
// nobody, else at the next Need; and those that were taken off are left alone.
func TestBootstrapReadAgain(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first, second := l.node(options{cfg: onlyPEX}), l.node(options{cfg: onlyPEX})
		first.good(100)
		second.good(100)
		n := l.node(options{cfg: onlyPEX})
		time.Sleep(5 * time.Minute)
		if n.from(addrbook.Bootstrap) != 0 || n.Bootstraps() != 0 {
			t.Fatalf("%d bootstrap peers in the book", n.from(addrbook.Bootstrap))
		}
		if err := n.SetBootstrap([]string{first.p2p(), "/ip4/1.2.3.4/tcp/5"}); err == nil || n.Bootstraps() != 0 {
			t.Errorf("one that names nobody was taken: %v", err)
		}
		if err := n.SetBootstrap([]string{first.p2p()}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if n.from(addrbook.Bootstrap) != 1 || n.from(addrbook.PEX) < 15 {
			t.Errorf("%d bootstrap peers and %d others are known", n.from(addrbook.Bootstrap), n.from(addrbook.PEX))
		}
		n.meet(l.node(options{cfg: onlyPEX}))
		if err := n.SetBootstrap([]string{second.p2p()}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if n.from(addrbook.Bootstrap) != 1 {
			t.Error("it was asked without need")
		}
		n.Need()
		time.Sleep(10 * time.Second)
		if e, ok := n.book.Get(second.host.ID()); !ok || e.Sources[0].Kind != addrbook.Bootstrap {
			t.Error("it was not asked at a Need")
		}
		if err := n.SetBootstrap(nil); err != nil {
			t.Fatal(err)
		}
		n.Need()
		time.Sleep(time.Minute)
	})
}

// Sources take turns of 2 s: one that hangs holds up nobody, and is not asked
// twice at once; one that rests is asked when it has rested.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked := map[string][]time.Duration{}
		start := time.Now()
		ask := func(name string, takes time.Duration) func(context.Context, bool) (int, int) {
			return func(ctx context.Context, _ bool) (int, int) {
				mu.Lock()
				asked[name] = append(asked[name], time.Since(start))
				mu.Unlock()
				select {
				case <-time.After(takes):
				case <-ctx.Done():
				}
				return 1, 0
			}
		}
		list := []*source{
			{kind: addrbook.Bootstrap, rest: 10 * time.Second, ask: ask("hangs", time.Hour)},
			{kind: addrbook.DNS, rest: 10 * time.Second, ask: ask("slow", 5*time.Second)},
			{kind: addrbook.PEX, rest: 10 * time.Second, ask: ask("fast", 0)},
		}
		d := &Discovery{need: make(chan struct{}, 1), started: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { d.askThese(ctx, list) })
		time.Sleep(5 * time.Second)
		d.Need()
		time.Sleep(10 * time.Minute)
		cancel()
		wg.Wait()
		got := fmt.Sprint(asked["hangs"], asked["slow"], asked["fast"])
		if got != "[0s] [2s] [4s 14s]" { // the slow one still had its first answer to give at the Need
			t.Errorf("asked at %s", got)
		}
	})
}

func TestDNSAddr(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		ids := make([]peer.ID, 6)
		for i := range ids {
			ids[i] = idOf(t, newKey(t))
		}
		at := func(i int) string { return fmt.Sprintf("dnsaddr=/ip4/77.%d.0.1/udp/9906/quic-v1/p2p/%s", i+1, ids[i]) }
		l.texts["_dnsaddr.boot.example"] = []string{
			at(0), "v=spf1", "dnsaddr=junk", "dnsaddr=/ip4/77.9.0.1/udp/1/quic-v1", // no id
			"dnsaddr=/dnsaddr/two.example", "dnsaddr=/dnsaddr/boot.example", // a loop
			"dnsaddr=/dns4/host.example/udp/9906/quic-v1/p2p/" + ids[1].String(),
			"dnsaddr=" + strings.Repeat("/ip4/1.2.3.4", 100),
		}
		l.texts["_dnsaddr.two.example"] = []string{at(2), "dnsaddr=/dnsaddr/three.example", "dnsaddr=/dnsaddr/boot.example"}
		l.texts["_dnsaddr.three.example"] = []string{at(3), "dnsaddr=/dnsaddr/four.example"}
		l.texts["_dnsaddr.four.example"] = []string{at(4)} // too deep
		for _, ip := range []string{"77.2.0.1", "77.2.0.2", "2001:db8::1"} {
			l.names["host.example"] = append(l.names["host.example"], addrOf(t, ip))
		}
		cfg := Config{Discovery: config.Discovery{DHT: config.DHTOff, DNS: []string{"boot.example", "nothing.example"}}}
		n := l.node(options{cfg: cfg})
		time.Sleep(5 * time.Second)
		var got []int
		for i, id := range ids {
			if e, ok := n.book.Get(id); ok && e.Sources[0].Kind == addrbook.DNS {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Errorf("found %v, want 0 to 3", got)
		}
		if dead := n.DeadNames(); len(dead) != 1 || dead[0].Name != "nothing.example" || dead[0].Why == "" {
			t.Errorf("dead names: %+v", dead)
		}
		l.texts["_dnsaddr.nothing.example"] = []string{at(5)}
		n.Need()
		time.Sleep(time.Minute)
		if dead := n.DeadNames(); len(dead) != 0 {
			t.Errorf("still dead: %+v", dead)
		}
		if e, _ := n.book.Get(ids[1]); len(e.Addrs) != 2 {
			t.Errorf("a name of two IPv4 addresses: %v", e.Addrs)
		}
	})
}

// Whoever owns a name can send us round, wide and deep: the walk is bounded.
func TestDNSAddrIsBounded(t *testing.T) {
	asked := 0
	bubble(t, func(t *testing.T, l *lab) {
		fns := func(f *Functions) {
			f.TXT = func(_ context.Context, name string) (texts []string, _ error) {
				asked++
				for i := range 1000 {
					texts = append(texts, fmt.Sprintf("dnsaddr=/dnsaddr/%d.%s", i, strings.TrimPrefix(name, "_dnsaddr.")))
					texts = append(texts, fmt.Sprintf("dnsaddr=/ip4/77.1.0.1/udp/%d/quic-v1/p2p/%s", 1+i, idOf(t, newKey(t))))
				}
				return texts, nil
			}
		}
		n := l.node(options{cfg: Config{Discovery: config.Discovery{DHT: config.DHTOff}}, fns: fns})
		infos, err := n.newWalk().follow(t.Context(), ma.StringCast("/dnsaddr/evil.example"))
		if err != nil || len(infos) > maxWalkPeers || asked > maxWalkNames {
			t.Errorf("%d peers after %d lookups, %v", len(infos), asked, err)
		}
		if _, err := (&walk{d: n.Discovery, names: map[string]bool{"x.example": true}, found: map[peer.ID]*peer.AddrInfo{}}).
			follow(t.Context(), ma.StringCast("/dnsaddr/x.example")); err == nil {
			t.Error("a loop alone leads somewhere")
		}
	})
}

// A name without dnsaddr records is a host, or several, that is asked who it is.
func TestDNSHosts(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		l.names["nodes.example"] = append(l.names["nodes.example"], addrOf(t, "77.1.0.1"), addrOf(t, "77.2.0.1"), addrOf(t, "77.3.0.1"))
		id := map[string]peer.ID{"77.1.0.1:8080": idOf(t, newKey(t)), "77.2.0.1:8080": idOf(t, newKey(t))}
		fns := func(f *Functions) {
			f.Identity = func(_ context.Context, at string) (peer.AddrInfo, error) {
				if p, ok := id[at]; ok {
					ip, _, _ := strings.Cut(at, ":")
					return peer.AddrInfo{ID: p, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/" + ip + "/tcp/8080")}}, nil
				}
				return peer.AddrInfo{}, errors.New("nobody there")
			}
		}
		n := l.node(options{cfg: Config{Discovery: config.Discovery{DHT: config.DHTOff, DNS: []string{"nodes.example:8080"}}}, fns: fns})
		time.Sleep(5 * time.Second)
		if n.from(addrbook.DNS) != 2 {
			t.Errorf("%d peers of a name with three hosts, one of them down", n.from(addrbook.DNS))
		}
	})
}

// mDNS brings non-public addresses alone.
func TestLAN(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: Config{Private: true, Discovery: config.Discovery{DHT: config.DHTOff}}})
		p, q := idOf(t, newKey(t)), idOf(t, newKey(t))
		lan{n.Discovery}.HandlePeerFound(peer.AddrInfo{ID: p, Addrs: []ma.Multiaddr{
			ma.StringCast("/ip4/127.0.0.1/udp/1/quic-v1"), ma.StringCast("/ip4/8.8.8.8/udp/1/quic-v1"), ma.StringCast("/ip4/192.168.1.7/udp/1/quic-v1"),
		}})
		lan{n.Discovery}.HandlePeerFound(peer.AddrInfo{ID: q, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/8.8.8.8/udp/1/quic-v1")}})
		e, ok := n.book.Get(p)
		if !ok || len(e.Addrs) != 1 || e.Addrs[0].String() != "/ip4/192.168.1.7/udp/1/quic-v1" || e.Sources[0].Kind != addrbook.MDNS {
			t.Errorf("a peer of the LAN: %v %+v", ok, e)
		}
		if _, ok := n.book.Get(q); ok {
			t.Error("a public address came by mDNS")
		}
	})
}
