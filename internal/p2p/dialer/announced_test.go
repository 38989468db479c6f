package dialer_test

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/internal/p2p/dialer"
)

// A node that gossips, and to which peers that gossip too open no stream for it,
// is told so; one that they know is not.
func TestNotAnnounced(t *testing.T) {
	const gossip = "/meshsub/1.2.0"
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3}, know: w.know(3, &servers)})
		defer p.stop()
		keep := func(s network.Stream) { _, _ = s.Read(make([]byte, 1)) }
		p.host.SetStreamHandler(gossip, keep)
		for _, s := range servers {
			s.host.SetStreamHandler(gossip, keep)
			defer s.stop()
		}
		time.Sleep(50 * time.Second)
		if a := p.alarms(); a["not_announced"] != 0 {
			t.Errorf("within a minute: alarms %v", a)
		}
		time.Sleep(40 * time.Second)
		if a := p.alarms(); a["not_announced"] != 1 {
			t.Errorf("nobody gossips to it: alarms %v", a)
		}
		for _, s := range servers[:2] {
			st, err := s.host.NewStream(t.Context(), p.host.ID(), gossip)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write(nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		if a := p.alarms(); a["not_announced cleared"] != 1 {
			t.Errorf("two of three do: alarms %v", a)
		}
	})
}

// What identify did not hear of is told to the peers when none of them seems to
// know: then they open their streams, and the alarm ends.
func TestToldAgain(t *testing.T) {
	const gossip = "/meshsub/1.2.0"
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3}, know: w.know(3, &servers)})
		defer p.stop()
		keep := func(s network.Stream) { _, _ = s.Read(make([]byte, 1)) }
		p.host.Mux().AddHandler(gossip, func(_ protocol.ID, s io.ReadWriteCloser) error { // not by SetStreamHandler: nobody is told
			keep(s.(network.Stream))
			return nil
		})
		var told atomic.Int32
		for _, s := range servers {
			defer s.stop()
			s.host.SetStreamHandler(gossip, keep)
			defer whenNew(t, s, p.host.ID(), gossip, &told)()
		}
		time.Sleep(50 * time.Second)
		if a := p.alarms(); a["not_announced"] != 0 || told.Load() != 0 {
			t.Errorf("within a minute: alarms %v, %d were told", a, told.Load())
		}
		time.Sleep(time.Minute)
		if a := p.alarms(); a["not_announced"] != 1 || a["not_announced cleared"] != 1 || told.Load() != 3 {
			t.Errorf("alarms %v, %d of 3 were told", a, told.Load())
		}
	})
}

// whenNew has s open a stream of a protocol to p each time that it hears that p
// speaks it and did not before, as pubsub does.
func whenNew(t *testing.T, s *node, p peer.ID, id protocol.ID, told *atomic.Int32) (stop func()) {
	t.Helper()
	sub, err := s.host.EventBus().Subscribe(new(levent.EvtPeerProtocolsUpdated))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for e := range sub.Out() {
			if u := e.(levent.EvtPeerProtocolsUpdated); u.Peer != p || !slices.Contains(u.Added, id) {
				continue
			}
			told.Add(1)
			if st, err := s.host.NewStream(t.Context(), p, id); err == nil {
				_, _ = st.Write(nil)
			}
		}
	}()
	return func() { _ = sub.Close() }
}

// Peers that know its protocols and have given it up come back when gossip is
// renewed, which is once in a quarter of an hour. The alarm stands meanwhile.
func TestRenewed(t *testing.T) {
	const gossip = "/meshsub/1.2.0"
	bubble(t, func(t *testing.T, w *world) {
		var servers []*node
		keep := func(s network.Stream) {
			_, _ = io.Copy(io.Discard, s)
			_ = s.Reset()
		}
		var mu sync.Mutex
		var list []time.Duration
		renewed := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(list)
		}
		began := time.Now()
		p := w.picker(pickerOptions{ip: "1.1.0.1", slots: dialer.SlotsConfig{Outbound: 3}, know: w.know(3, &servers), renew: func(p *picker) {
			mu.Lock()
			list = append(list, time.Since(began).Round(time.Minute))
			mu.Unlock()
			p.host.RemoveStreamHandler(gossip)
			time.AfterFunc(5*time.Second, func() { p.host.SetStreamHandler(gossip, keep) })
		}})
		defer p.stop()
		p.host.SetStreamHandler(gossip, keep)
		var told atomic.Int32
		for _, s := range servers {
			defer s.stop()
			s.host.SetStreamHandler(gossip, keep)
		}
		time.Sleep(100 * time.Second) // identify told them: nobody opens a stream
		for _, s := range servers {
			defer whenNew(t, s, p.host.ID(), gossip, &told)()
		}
		if a := p.alarms(); a["not_announced"] != 1 || a["not_announced cleared"] != 0 || len(renewed()) != 0 {
			t.Errorf("told again: alarms %v, renewed %v", a, renewed())
		}
		time.Sleep(time.Minute)
		if a := p.alarms(); a["not_announced"] != 0 || a["not_announced cleared"] != 1 || told.Load() != 3 || len(renewed()) != 1 {
			t.Errorf("alarms %v, %d of 3 heard of it, renewed %v", a, told.Load(), renewed())
		}
		for _, s := range servers { // they give it up again
			for _, c := range s.host.Network().ConnsToPeer(p.host.ID()) {
				for _, st := range c.GetStreams() {
					_ = st.Reset()
				}
			}
		}
		time.Sleep(20 * time.Minute)
		if a := p.alarms(); a["not_announced"] != 1 || a["not_announced cleared"] != 1 || told.Load() != 6 || len(renewed()) != 2 || renewed()[1]-renewed()[0] != renewAgain {
			t.Errorf("alarms %v, %d of 6 heard of it, renewed %v", a, told.Load(), renewed())
		}
	})
}

const renewAgain = 15 * time.Minute
