package dialer_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

func TestMendOfAWrongID(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		wrong := a.host.Addrs()[0].String() + "/p2p/" + idOf(t, newKey(t)).String()
		b := w.node(options{ip: "1.2.0.1", cfg: dialer.Config{Items: []string{wrong}, File: filepath.Join(t.TempDir(), "static-peers.json")}})
		defer b.stop()
		time.Sleep(10 * time.Second)
		if s := b.only(t); s.Class != dialer.ClassIdentity || !strings.Contains(s.LastError, "give its new id in "+wrong) || strings.Contains(s.LastError, ".json") {
			t.Errorf("a wrong id that was given: %+v", s)
		}
	})
}

// greets counts greetings of a node.
type greets struct {
	mu             sync.Mutex
	now, most, all int
}

func (g *greets) wrap(greet func(context.Context, peer.ID) error) func(context.Context, peer.ID) error {
	return func(ctx context.Context, p peer.ID) error {
		g.mu.Lock()
		g.all++
		g.now++
		g.most = max(g.most, g.now)
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.now--
		}()
		return greet(ctx, p)
	}
}

// One peer is an item and a member at once; its id is learned in no time.
func TestTwoWaysToOnePeer(t *testing.T) {
	for name, tt := range map[string]struct {
		chain string
		greet func() error // in place of the real one
		all   int          // greetings within 2 s
	}{
		"ready":   {all: 1},
		"refused": {chain: "y", all: 1},
		"failed":  {greet: func() error { return errors.New("no answer") }, all: 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a := w.node(options{ip: "1.1.0.1", chain: tt.chain})
				defer a.stop()
				member := peer.AddrInfo{ID: a.host.ID(), Addrs: a.host.Addrs()}
				var g greets
				b := w.node(options{
					ip: "1.2.0.1", cfg: items("1.1.0.1:8080"),
					identity: func(context.Context, string) (dialer.Identity, error) {
						return dialer.Identity{ID: member.ID, Addrs: member.Addrs}, nil
					},
					greet: func(real func(context.Context, peer.ID) error) func(context.Context, peer.ID) error {
						return g.wrap(func(ctx context.Context, p peer.ID) error {
							if tt.greet != nil {
								time.Sleep(time.Second)
								return tt.greet()
							}
							return real(ctx, p)
						})
					},
					members: []peer.AddrInfo{member},
				})
				defer b.stop()
				time.Sleep(2200 * time.Millisecond)
				if g.mu.Lock(); g.most != 1 || g.all != tt.all {
					t.Errorf("%d greetings, %d at once; want %d, one at once", g.all, g.most, tt.all)
				}
				g.mu.Unlock()
				s := b.only(t)
				switch name {
				case "ready":
					if s.State != dialer.Connected || b.log.count("static peer connected") != 1 || b.log.count("static peer failed") != 0 {
						t.Errorf("%+v; log:\n%s", s, b.log.b.String())
					}
				case "refused":
					if s.State != dialer.Paused || s.Class != dialer.ClassWrongNetwork || s.Tries != 1 {
						t.Errorf("%+v", s)
					}
				}
				if s := a.rep.Score(b.host.ID()); s.Points != 0 {
					t.Errorf("it cost %d points", s.Points)
				}
			})
		})
	}
}

func TestConnectionThatDiesAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(options{ip: "1.1.0.1"})
		defer a.stop()
		b := w.node(options{ip: "1.2.0.1", cfg: items("1.1.0.1")})
		defer b.stop()
		time.Sleep(500 * time.Millisecond)
		if s := b.only(t); s.State != dialer.Connected {
			t.Fatalf("%+v", s)
		}
		_ = a.host.Network().ClosePeer(b.host.ID())
		time.Sleep(200 * time.Millisecond)
		if s := b.only(t); s.State != dialer.Trying {
			t.Fatalf("after the loss: %+v", s)
		}
		time.Sleep(1500 * time.Millisecond)
		if s := b.only(t); s.State != dialer.Connected {
			t.Errorf("1.7 s after the loss: %+v", s)
		}
	})
}
