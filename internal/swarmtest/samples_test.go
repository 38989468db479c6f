package swarmtest

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/event"
)

// A node tells each five seconds how its peers do, while there are any, and
// when it becomes ready and is no longer.
func TestSamplesOfPeersAndHealth(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Alone)
		s.Genesis("samples", a)
		b := s.Add(Alone)
		b.cfg.Consortium.GenesisFile = a.cfg.Consortium.GenesisFile
		a.cfg.P2P.StaticPeers = []string{b.Addr()}
		a.Start()
		sub := a.Events().Subscribe()
		defer sub.Close()
		var samples []event.PeerSampled
		var health []event.HealthChanged
		follow := func(d time.Duration) {
			t.Helper()
			samples, health = nil, nil
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				events, _ := sub.Take(1 << 14)
				for _, e := range events {
					switch v := e.Data.(type) {
					case event.PeerSampled:
						samples = append(samples, v)
					case event.HealthChanged:
						health = append(health, v)
					}
				}
			}
		}
		follow(20 * time.Second)
		if len(samples) != 0 || len(health) != 0 {
			t.Errorf("a node without peers tells %+v %+v", samples, health)
		}
		b.Start()
		s.Until("they are connected", time.Minute, func() bool { return ready(a, b.ID()) })
		a.Submit("thing", `"x"`, "committed")
		follow(30 * time.Second)
		if n := len(samples); n < 5 || n > 7 {
			t.Errorf("%d samples in 30 s", n)
		}
		for _, v := range samples {
			if len(v.Peers) != 1 || v.Peers[0].ID != b.ID() || v.Peers[0].BytesInS < 0 || v.Peers[0].BytesOutS < 0 {
				t.Errorf("%+v", v)
			}
		}
		if last := samples[len(samples)-1].Peers[0]; last.Height != 1 || last.LatencyMS <= 0 {
			t.Errorf("the last sample: %+v", last)
		}
		busiest := slices.MaxFunc(samples, func(x, y event.PeerSampled) int { return int(x.Peers[0].BytesOutS - y.Peers[0].BytesOutS) })
		if p, is := a.Peer(b.ID()); !is || busiest.Peers[0].BytesOutS == 0 || busiest.Peers[0].BytesOutS > math.Ceil(float64(p.BytesOut)/5) {
			t.Errorf("the busiest sample: %+v", busiest)
		}
		if len(health) != 1 || health[0].From != "not_ready" || health[0].To != "ready" || health[0].Reasons == nil || len(health[0].Reasons) != 0 {
			t.Errorf("with a peer: %+v", health)
		}
		b.Stop()
		follow(30 * time.Second)
		if n := len(samples); n == 0 || samples[n-1].Peers == nil || len(samples[n-1].Peers) != 0 || n > 1 && len(samples[n-2].Peers) == 0 {
			t.Errorf("without its peer again: %+v", samples)
		}
		if len(health) != 1 || health[0].From != "ready" || health[0].To != "not_ready" || len(health[0].Reasons) != 1 ||
			!strings.HasPrefix(health[0].Reasons[0], "peers: 0 of 1 peers: ") || !strings.HasSuffix(health[0].Reasons[0], " [PLY-504]") {
			t.Errorf("without its peer again: %+v", health)
		}
	})
}
