package swarmtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

// A node learns from the goodbyes of peers that it is banned by them: of three
// in different address groups there is an alarm, a finding and a figure, and
// they end when an hour has passed. Of those that dialled it by themselves, or
// of one group, there is none.
func TestBannedByOthers(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Alone)
		s.Genesis("bannedby", a)
		var came, chosen []*Node // who dials a, and whom a dials
		for range 3 {
			came = append(came, s.Add(Alone, Peers(a.Addr())))
		}
		for range 4 {
			n := s.Add(Alone)
			n.cfg.Consortium.GenesisFile = a.cfg.Consortium.GenesisFile
			a.cfg.P2P.StaticPeers = append(a.cfg.P2P.StaticPeers, n.Addr())
			chosen = append(chosen, n)
		}
		chosen[1].ip = "1.5.7.7" // in the group of the first
		a.cfg.P2P.StaticPeers[1] = chosen[1].Addr()
		for _, n := range append([]*Node{a}, append(came, chosen...)...) {
			n.Start()
		}
		ban := func(by ...*Node) {
			t.Helper()
			for _, o := range by {
				s.Until(o.Name+" is connected", time.Minute, func() bool { return ready(o, a.ID()) && ready(a, o.ID()) })
				if _, _, err := o.Ban(context.Background(), parley.BanRequest{Target: a.ID().String(), Forever: true, Force: true}, false); err != nil {
					t.Fatal(err)
				}
				s.Until("the ban parts them", 5*time.Second, func() bool { return !connected(a, o.ID()) })
			}
			time.Sleep(10 * time.Second) // findings are looked for each 5 s
		}
		stands := func(want bool, when string) {
			t.Helper()
			is := map[string]bool{
				"alarm":   slices.ContainsFunc(a.Node.Status().Alarms, func(v parley.Alarm) bool { return v.Code == "banned_by_others" }),
				"finding": slices.ContainsFunc(a.Findings(), func(f parley.Finding) bool { return f.Code == "PLY-514" && f.Title == "banned_by_others" }),
				"figure":  a.metric("parley_alarm_active", "banned_by_others") == 1,
				"event":   a.Log.Has("alarm raised", "banned_by_others"),
			}
			for what, on := range is {
				if on != want && (what != "event" || want) {
					t.Errorf("%s: %s: %v, want %v", when, what, on, want)
				}
			}
		}
		ban(came...)
		stands(false, "by those who came by themselves")
		ban(chosen[:3]...)
		stands(false, "by three, two of them in one group")
		ban(chosen[3])
		stands(true, "by three groups")
		for _, n := range append(came, chosen...) { // an hour of them all is CPU
			n.Stop()
		}
		time.Sleep(time.Hour + time.Minute) // looked at once a minute
		stands(false, "an hour later")
	})
}

// metric is a gauge of n with one label.
func (n *Node) metric(name, label string) float64 {
	n.swarm.T.Helper()
	families, err := n.Registry.Gather()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}
