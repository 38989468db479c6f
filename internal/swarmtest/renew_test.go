package swarmtest

import (
	"io"
	"slices"
	"testing"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/parley-p2p/parley"
)

// Peers that know that a node gossips, and have given it up, hear of it as of
// something new once their number is an alarm, and come back.
func TestGivenUpPeersComeBack(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add()
		s.Genesis("renewed", a)
		a.Start()
		unheard := func() bool {
			return slices.ContainsFunc(a.Node.Status().Alarms, func(v parley.Alarm) bool { return v.Code == "not_announced" })
		}
		for range 2 {
			v := s.newVillain()
			defer v.close()
			v.host.SetStreamHandler(meshProtocol, func(st network.Stream) { _, _ = io.Copy(io.Discard, st) })
			if err := v.come(a); err != nil {
				t.Fatal(err)
			}
			sub, err := v.host.EventBus().Subscribe(new(levent.EvtPeerProtocolsUpdated))
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			go func() {
				for e := range sub.Out() {
					if u := e.(levent.EvtPeerProtocolsUpdated); u.Peer == a.ID() && slices.Contains(u.Added, meshProtocol) {
						if st, err := v.host.NewStream(t.Context(), a.ID(), meshProtocol); err == nil {
							_, _ = st.Write(nil)
						}
					}
				}
			}()
		}
		time.Sleep(100 * time.Second)
		if !unheard() {
			t.Error("nobody gossips to it, and there is no alarm")
		}
		time.Sleep(80 * time.Second)
		if unheard() {
			t.Error("the alarm stands after gossip was renewed")
		}
	})
}
