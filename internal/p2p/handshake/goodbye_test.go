package handshake

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

func TestGreetingsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := a.Greet(t.Context(), b.host.ID()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeShutdown, "asked for other peers")
		time.Sleep(5 * time.Second)
		if p := b.rep.Score(a.host.ID()).Points; p != 0 {
			t.Errorf("an honest peer has %d points", p)
		}
	})
}

func TestGreetWhileParting(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		go a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeShutdown, "enough")
		time.Sleep(time.Millisecond) // the goodbye is under way
		if err := a.Greet(t.Context(), b.host.ID()); !errors.Is(err, errParting) {
			t.Errorf("greeting while parting: %v", err)
		}
		time.Sleep(5 * time.Second)
		if s := b.rep.Score(a.host.ID()); s.Points != 0 {
			t.Errorf("charged %+v", s.Reasons)
		}
	})
}

func TestPartingSparesWhoComesAgain(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("c", 1)), start(t, nw, 2, statusOf("c", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		a.mu.Lock()
		e := a.peers[b.host.ID()]
		a.mu.Unlock()
		a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeShutdown, "first")
		time.Sleep(time.Second)
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		a.closeAllOf(e) // as the second does at its end
		time.Sleep(time.Second)
		if !a.IsReady(b.host.ID()) || !b.IsReady(a.host.ID()) {
			t.Error("the new connection is closed")
		}
		a.mu.Lock()
		e = a.peers[b.host.ID()]
		a.mu.Unlock()
		a.closeAllOf(e)
		time.Sleep(time.Second)
		if a.IsReady(b.host.ID()) || b.IsReady(a.host.ID()) {
			t.Error("its own connection is not closed")
		}
	})
}

func TestDisconnectTwice(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		sub := b.bus.Subscribe()
		defer sub.Close()
		go a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeBadScore, "first")
		time.Sleep(time.Millisecond)
		a.Disconnect(t.Context(), b.host.ID(), wire.GoodbyeBanned, "second")
		time.Sleep(time.Second)
		gone := events[event.PeerDisconnected](sub)
		if len(gone) != 1 || gone[0].Goodbye != wire.GoodbyeBadScore || gone[0].Text != "first" {
			t.Errorf("the other side heard %+v", gone)
		}
	})
}

// A connection that comes while we part is closed with the others.
func TestPartingTakesWhoJoins(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("c", 1)), start(t, nw, 2, statusOf("c", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		second := &closable{Conn: a.host.Network().ConnsToPeer(b.host.ID())[0]}
		a.mu.Lock()
		a.peers[b.host.ID()].byUs = true
		a.mu.Unlock()
		a.connected(second)
		synctest.Wait()
		if !second.closed.Load() {
			t.Error("it is left open, and nobody greets on it")
		}
	})
}

// closable notes that it is closed.
type closable struct {
	network.Conn
	closed atomic.Bool
}

func (c *closable) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}
