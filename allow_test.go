package parley_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// running is a node that runs until the end of the test.
func running(t *testing.T, c config.Config) *parley.Node {
	t.Helper()
	n, err := open(t, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // t.Context ends before cleanups
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return n
}

func within(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s", most, what)
		case <-tick.C:
		}
	}
}

// refusals remembers whom a node turned away by its allow-list.
type refusals struct {
	mu  sync.Mutex
	who map[peer.ID]int
}

func refusalsOf(t *testing.T, n *parley.Node) *refusals {
	r := &refusals{who: map[peer.ID]int{}}
	sub := n.Events().Subscribe()
	t.Cleanup(sub.Close)
	go func() {
		for {
			select {
			case <-t.Context().Done():
				return
			case <-sub.Wake():
			}
			got, _ := sub.Take(256)
			r.mu.Lock()
			for _, e := range got {
				if v, ok := e.Data.(event.PeerRefused); ok && v.Reason == "not_allowed" && v.Direction == "inbound" {
					r.who[v.Peer]++
				}
			}
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *refusals) of(p peer.ID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.who[p]
}

// On every transport: who is on the list is let in, who is not is refused, and
// whose time ends is cut off within half a minute and refused from then on.
func TestAllowListOnEveryTransport(t *testing.T) {
	t.Parallel()
	c := labConfig(t)
	c.P2P.OnAPIPort, c.P2P.WebSocket = false, true
	c.P2P.Listen = []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"}
	c.P2P.AllowPeers = []string{somebody}
	door := running(t, c)
	refused := refusalsOf(t, door)

	addrs := map[string]string{}
	for _, a := range door.Info().Listen {
		switch {
		case strings.HasSuffix(a, "/ws"):
			addrs["ws"] = a
		case strings.HasSuffix(a, "/quic-v1"):
			addrs["quic-v1"] = a
		default:
			addrs["tcp"] = a
		}
	}
	if len(addrs) != 3 {
		t.Fatalf("listening on %v", door.Info().Listen)
	}
	type guests struct{ stays, goes, stranger *parley.Node }
	by := map[string]guests{}
	var list []string
	for transport, a := range addrs {
		guest := func(name string) *parley.Node {
			g := labConfig(t)
			g.Node.Name, g.P2P.OnAPIPort, g.P2P.WebSocket = transport+" "+name, false, true
			g.P2P.StaticPeers = []string{a + "/p2p/" + door.ID().String()}
			return running(t, g)
		}
		g := guests{guest("stays"), guest("goes"), guest("stranger")}
		by[transport] = g
		list = append(list, g.stays.ID().String(), g.goes.ID().String())
	}
	reload := func(list []string) {
		t.Helper()
		c.P2P.AllowPeers = list
		if _, err := door.Reload(t.Context(), c, false); err != nil {
			t.Fatal(err)
		}
	}
	bad := c
	bad.Log.Level, bad.API.CORS, bad.P2P.AllowPeers = "loud", []string{"*"}, list
	if _, err := door.Reload(t.Context(), bad, false); err == nil || !strings.Contains(err.Error(), "log.level: \"loud\"") || len(door.LiveConfig().API.CORS) > 0 {
		t.Errorf("a level that is none: %v; live %v", err, door.LiveConfig().API.CORS)
	}
	reload(list)
	connected := func(g *parley.Node, transport string) bool {
		p, ok := door.Peer(g.ID())
		if ok && p.Ready && p.Transport != transport {
			t.Errorf("%s came by %s", g.Config().Node.Name, p.Transport)
		}
		return ok && p.Ready
	}
	come := func(g *parley.Node) { // what comes of it is seen at the door
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, _ = g.ConnectPeer(ctx, door.ID().String())
	}
	for transport, g := range by {
		for _, one := range []*parley.Node{g.stays, g.goes} { // its first tries were before it was on the list
			within(t, time.Minute, one.Config().Node.Name+" is let in", func() bool {
				if connected(one, transport) {
					return true
				}
				come(one)
				return connected(one, transport)
			})
		}
		before := refused.of(g.stranger.ID())
		within(t, time.Minute, transport+": a stranger is refused", func() bool {
			come(g.stranger)
			return refused.of(g.stranger.ID()) > before
		})
		if connected(g.stranger, transport) {
			t.Errorf("%s: a stranger is connected", transport)
		}
		within(t, 10*time.Second, transport+": a stranger learns that it is not let in", func() bool {
			s := g.stranger.StaticPeers()[0]
			return s.Class == "not_allowed" && strings.Contains(s.LastError, "does not let this node in: it has banned it, or a list of peers")
		})
	}

	soon := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)
	list = nil
	before := map[string]int{}
	for transport, g := range by {
		list = append(list, g.stays.ID().String(), g.goes.ID().String()+" until "+soon)
		before[transport] = refused.of(g.goes.ID())
	}
	reload(list)
	for transport, g := range by {
		within(t, 45*time.Second, transport+": who has no time left is cut off", func() bool { _, ok := door.Peer(g.goes.ID()); return !ok })
		within(t, time.Minute, transport+": and refused", func() bool {
			come(g.goes)
			return refused.of(g.goes.ID()) > before[transport]
		})
		if connected(g.goes, transport) || !connected(g.stays, transport) {
			t.Errorf("%s: connected: who stays %v, who had to go %v", transport, connected(g.stays, transport), connected(g.goes, transport))
		}
	}
}

const somebody = "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR"
