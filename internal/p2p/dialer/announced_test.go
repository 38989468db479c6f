package dialer_test

import (
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
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
			sub, err := s.host.EventBus().Subscribe(new(levent.EvtPeerProtocolsUpdated))
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			go func() {
				for e := range sub.Out() {
					if u := e.(levent.EvtPeerProtocolsUpdated); u.Peer != p.host.ID() || !slices.Contains(u.Added, gossip) {
						continue
					}
					told.Add(1)
					if st, err := s.host.NewStream(t.Context(), p.host.ID(), gossip); err == nil {
						_, _ = st.Write(nil)
					}
				}
			}()
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
