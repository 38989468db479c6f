package handshake

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// greeting runs a's greeting of h in a goroutine.
func greeting(t *testing.T, a *node, h host.Host) <-chan error {
	t.Helper()
	if err := a.host.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Greet(t.Context(), h.ID()) }()
	return done
}

// mustBeOne fails unless the two are ready over the first connection and
// nobody was charged.
func mustBeOne(t *testing.T, a, b *node, began time.Time) {
	t.Helper()
	conns := a.host.Network().ConnsToPeer(b.host.ID())
	if len(conns) != 1 || conns[0].Stat().Opened.After(began) || !a.IsReady(b.host.ID()) || !b.IsReady(a.host.ID()) {
		t.Errorf("%d connections, ready %v and %v", len(conns), a.IsReady(b.host.ID()), b.IsReady(a.host.ID()))
	}
	if x, y := a.rep.Score(b.host.ID()).Points, b.rep.Score(a.host.ID()).Points; x != 0 || y != 0 {
		t.Errorf("starting cost %d and %d points", x, y)
	}
}

func TestStreamsBeforeRunWait(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		b := wired(t, newHost(t, nw, 2), 2, statusOf("x", 1))
		done := greeting(t, a, b.host)
		began := time.Now()
		time.Sleep(5 * time.Second)
		b.run(t)
		defer b.stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5500*time.Millisecond {
			t.Errorf("ready after %v", took)
		}
		mustBeOne(t, a, b, began)
	})
}

func TestStreamsWaitInVain(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		b := wired(t, newHost(t, nw, 2), 2, statusOf("x", 1))
		began := time.Now()
		if err := <-greeting(t, a, b.host); err == nil {
			t.Error("greeted a node that does not run")
		}
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("gave up after %v, want 10 s", took)
		}
		for range maxWaiting + 5 {
			if st, err := a.host.NewStream(t.Context(), b.host.ID(), StatusProtocol); err == nil {
				_, _ = st.Write([]byte{1})
			}
		}
		time.Sleep(time.Second)
		b.mu.Lock()
		if n := len(b.waiting); n != 1+maxStreams {
			t.Errorf("%d streams of one peer wait, want that of the greeting, whose connection is closed, and %d", n, maxStreams)
		}
		for len(b.waiting) < maxWaiting { // as if many peers had come
			b.waiting = append(b.waiting, b.waiting[0])
		}
		b.mu.Unlock()
		c := start(t, nw, 3, statusOf("x", 1))
		defer c.stop()
		dial(t, c, b)
		st, err := c.host.NewStream(t.Context(), b.host.ID(), StatusProtocol)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = st.Write([]byte{1})
		_ = st.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, network.ErrReset) {
			t.Errorf("a stream above all that may wait: %v, want a reset", err)
		}
		b.host.Close()
	})
}

// A host listens before its handshake is there.
func TestGreetWaitsForTheProtocol(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		h := newHost(t, nw, 2)
		done := greeting(t, a, h)
		began := time.Now()
		time.Sleep(time.Second)
		b := wired(t, h, 2, statusOf("x", 1))
		b.run(t)
		defer b.stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		mustBeOne(t, a, b, began)
	})
}

func TestGreetIsDoneWhenThePeerGreets(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		h := newHost(t, nw, 2)
		done := greeting(t, a, h)
		began := time.Now()
		time.Sleep(300 * time.Millisecond) // the next attempt is at 600 ms
		b := wired(t, h, 2, statusOf("x", 1))
		b.run(t)
		defer b.stop()
		if err := b.Greet(t.Context(), a.host.ID()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		mustBeOne(t, a, b, began)
	})
}

func TestGreetGivesUpOnAStranger(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		h := newHost(t, nw, 2)
		defer h.Close()
		began := time.Now()
		if err := <-greeting(t, a, h); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("greet: %v", err)
		}
		if took := time.Since(began); took < greetMost || took > greetMost+time.Second {
			t.Errorf("gave up after %v", took)
		}
		if len(a.host.Network().ConnsToPeer(h.ID())) != 1 {
			t.Error("the connection is closed")
		}
		if n := counted(t, a.metrics.results, "failed"); n != 1 {
			t.Errorf("%v failures counted, want 1", n)
		}
	})
}

func TestGreetAgainAfterAReset(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		h := newHost(t, nw, 2)
		var resets atomic.Int32
		h.SetStreamHandler(StatusProtocol, func(st network.Stream) {
			resets.Add(1)
			_ = st.Reset()
		})
		done := greeting(t, a, h)
		began := time.Now()
		time.Sleep(500 * time.Millisecond)
		b := wired(t, h, 2, statusOf("x", 1))
		b.run(t)
		defer b.stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := resets.Load(); n != 2 { // at 0 and 200 ms
			t.Errorf("%d resets", n)
		}
		mustBeOne(t, a, b, began)
	})
}

// A peer that parts is not asked again, and asking it is no offence.
func TestGreetingOfAPartingPeer(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, chain.Status{Network: "consortium"}), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		b.mu.Lock()
		b.peers[a.host.ID()].byUs = true
		b.mu.Unlock()
		var refusal *Refusal
		if err := a.Greet(t.Context(), b.host.ID()); err == nil || errors.As(err, &refusal) {
			t.Errorf("greet: %v", err)
		}
		if s := b.rep.Score(a.host.ID()); s.Points != 0 {
			t.Errorf("it cost %d points", s.Points)
		}
		a.mu.Lock()
		e := a.peers[b.host.ID()]
		if e != nil {
			e.goodbye.Code = wire.GoodbyeShutdown
		}
		a.mu.Unlock()
		if e == nil {
			t.Fatal("not connected any more")
		}
		began := time.Now()
		if err := a.Greet(t.Context(), b.host.ID()); err == nil {
			t.Error("greeted a peer that parts")
		}
		if took := time.Since(began); took > greetAgain {
			t.Errorf("asked a parting peer for %v", took)
		}
	})
}

// Nobody fills our log by connecting.
func TestRefusalsInTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("y", 1))
		defer a.stop()
		defer b.stop()
		sub := b.bus.Subscribe()
		for b.rep.Refuse(event.PeerRefused{Peer: "flood", Place: reputation.PlaceHandshake}) {
		}
		sub.Take(1000)
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err == nil {
			t.Fatal("greeted another chain")
		}
		if n := len(events[event.PeerRefused](sub)); n != 0 {
			t.Fatalf("%d events in a flood", n)
		}
		if log := b.log.String(); strings.Contains(log, "peer refused") {
			t.Errorf("logged in a flood: %s", log)
		}
		if log := a.log.String(); !strings.Contains(log, "peer refused") {
			t.Errorf("not logged: %s", log)
		}
	})
}

// A peer whose answer comes too late has heard us. To greet it once more over
// the same connection would be an offence, and so that one is closed.
func TestGreetingUnansweredEndsTheConnection(t *testing.T) {
	var late atomic.Int64
	latency := func(*simnet.Packet) time.Duration { return 10*time.Millisecond + time.Duration(late.Load()) }
	bubbleWith(t, latency, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		time.Sleep(time.Second) // identify
		late.Store(int64(6 * time.Second))
		if err := a.Greet(t.Context(), b.host.ID()); err == nil {
			t.Fatal("an answer that took 12 s was taken")
		}
		late.Store(0)
		if n := len(a.host.Network().ConnsToPeer(b.host.ID())); n != 0 {
			t.Errorf("%d connections after a greeting without an answer", n)
		}
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Errorf("greeted again: %v", err)
		}
		time.Sleep(20 * time.Second)
		if !a.IsReady(b.host.ID()) || !b.IsReady(a.host.ID()) {
			t.Errorf("ready %v and %v", a.IsReady(b.host.ID()), b.IsReady(a.host.ID()))
		}
		if got := b.rep.Score(a.host.ID()).Points; got != 0 {
			t.Errorf("b holds %d points against a: %+v", got, b.rep.Score(a.host.ID()))
		}
	})
}
