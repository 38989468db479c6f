package gossip

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
)

// The figures of DEFENCE 10.1, and what the library says to them.
func TestScoreParameters(t *testing.T) {
	tenMinutes, hour := math.Pow(0.01, 1./600), math.Pow(0.01, 1./3600)
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		p, th := l.nodes[0].scoreParams()
		near("gossip threshold", th.GossipThreshold, -40)
		near("publish threshold", th.PublishThreshold, -60)
		near("graylist threshold", th.GraylistThreshold, -80)
		near("accept-PX threshold", th.AcceptPXThreshold, 1000)
		near("opportunistic graft threshold", th.OpportunisticGraftThreshold, 2)
		near("topic score cap", p.TopicScoreCap, 40)
		near("decay interval in s", p.DecayInterval.Seconds(), 1)
		near("decay to zero", p.DecayToZero, 0.01)
		near("retained for hours", p.RetainScore.Hours(), 1)
		near("P5 weight", p.AppSpecificWeight, 1)
		near("P6 weight", p.IPColocationFactorWeight, -5)
		near("P6 threshold", float64(p.IPColocationFactorThreshold), 8)
		near("P7 weight", p.BehaviourPenaltyWeight, -5)
		near("P7 threshold", p.BehaviourPenaltyThreshold, 6)
		near("P7 decay", p.BehaviourPenaltyDecay, tenMinutes)
	})
	for _, c := range []struct {
		topics           []string
		weight, p2, most float64
	}{
		{[]string{"block"}, 1, 1, 20},
		{[]string{"subtree", "chunk"}, 0.5, 0.1, 200},
		{[]string{"record", "mining_on", "rejected_tx", "handshake"}, 0.25, 0.1, 100},
	} {
		for _, name := range c.topics {
			p := topicScore(name)
			near(name+" weight", p.TopicWeight, c.weight)
			near(name+" P1 a second", p.TimeInMeshWeight/p.TimeInMeshQuantum.Seconds(), 0.01)
			near(name+" P1 cap", p.TimeInMeshCap, 300)
			near(name+" P2 weight", p.FirstMessageDeliveriesWeight, c.p2)
			near(name+" P2 cap", p.FirstMessageDeliveriesCap, c.most)
			near(name+" P2 decay", p.FirstMessageDeliveriesDecay, tenMinutes)
			near(name+" P3", p.MeshMessageDeliveriesWeight+p.MeshFailurePenaltyWeight, 0)
			near(name+" P4 weight", p.InvalidMessageDeliveriesWeight, -10)
			near(name+" P4 decay", p.InvalidMessageDeliveriesDecay, hour)
		}
	}
}

// The mesh of DEFENCE 4.1, and who is asked for how much.
func TestMeshParameters(t *testing.T) {
	p := meshParams()
	if p.D != 8 || p.Dlo != 6 || p.Dhi != 12 || p.Dout != 3 || p.Connectors != 0 || p.MaxIHaveLength != 256 || p.MaxIHaveMessages != 10 {
		t.Errorf("%+v", p)
	}
	if p := largeParams(); p.D != 4 || p.Dlo != 3 || p.Dhi != 6 || p.Dout != 1 || p.Dlazy != 6 || p.MaxIDontWantLength != 1000 {
		t.Errorf("of chunks: %+v", p)
	}
	inLab(t, 16, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.serveLarge()
		for i := range l.nodes {
			for j := range i {
				l.connect(i, j)
			}
		}
		time.Sleep(time.Minute)
		for i, n := range l.nodes {
			if mesh := n.stats("record").Mesh; mesh < 6 || mesh > 12 {
				t.Errorf("node %d has %d peers in its mesh, of 15", i, mesh)
			}
			if mesh := n.stats(chunkTopic).Mesh; mesh < 3 || mesh > 6 {
				t.Errorf("node %d has %d peers in its mesh of chunks, of 15", i, mesh)
			}
		}
	})
}

// A peer that others share an address with loses score from the ninth on, and
// is charged nothing: an address is nobody's doing.
func TestManyOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(latency)}
		nw.Start()
		defer nw.Close()
		defer time.Sleep(time.Minute) // QUIC's draining timers
		at := func(where string) *node {
			link := simnet.LinkSettings{BitsPerSecond: 100 * simlibp2p.OneMbps}
			h, err := libp2p.New(libp2p.ListenAddrs(ma.StringCast(where)), libp2p.Transport(libp2pquic.NewTransport),
				simlibp2p.QUICSimnet(nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}),
				libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableIdentifyAddressDiscovery())
			if err != nil {
				t.Fatal(err)
			}
			nd := newNode(t, h)
			t.Cleanup(func() { nd.stop(); <-nd.done; _ = h.Close() })
			return nd
		}
		a := at("/ip4/20.0.0.1/udp/9906/quic-v1")
		defer func() { a.stop(); a.done <- <-a.done; _ = a.Host.Close() }()
		var many []*node
		for i := range 12 {
			b := at(fmt.Sprintf("/ip4/30.0.0.1/udp/%d/quic-v1", 9000+i))
			defer func() { b.stop(); b.done <- <-b.done; _ = b.Host.Close() }()
			many = append(many, b)
			if err := b.Connect(t.Context(), peer.AddrInfo{ID: a.Host.ID(), Addrs: a.Addrs()}); err != nil {
				t.Fatal(err)
			}
			if time.Sleep(90 * time.Second); i == 7 && a.Score(b.Host.ID()) < 0 {
				t.Errorf("score %v with eight of one address", a.Score(b.Host.ID()))
			}
		}
		for _, b := range many {
			if got := a.Score(b.Host.ID()); math.Abs(got+80) > 5 { // −5 · 4², and P1
				t.Errorf("score %v with twelve of one address, want about −80", got)
			}
			if p, why := a.points(b.Host); p != 0 {
				t.Errorf("%d points for %s", p, why)
			}
		}
	})
}

// Who grafts again and again while it was told to wait is shut out by its
// gossip score, and gets points for that, though never enough to be cut.
func TestNoiseIsChargedWeakly(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		a, evil := l.nodes[0], l.hosts[1]
		l.connect(1, 0)
		s := l.stream(evil, a)
		name := new(wireName("record"))
		graft := &pb.ControlMessage{Graft: []*pb.ControlGraft{{TopicID: name}}}
		l.send(s, &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: new(true), Topicid: name}}, Control: graft})
		time.Sleep(time.Second)
		l.send(s, &pb.RPC{Control: &pb.ControlMessage{Prune: []*pb.ControlPrune{{TopicID: name, Backoff: new(uint64(60))}}}})
		time.Sleep(time.Second)
		for range 6 {
			l.send(s, &pb.RPC{Control: graft})
		}
		time.Sleep(2 * time.Second)
		if got := a.Score(evil.ID()); got > gossipBelow {
			t.Fatalf("score %v after six grafts in a row, want below %v", got, gossipBelow)
		}
		if p, why := a.points(evil); p != 5 || why != chain.Gossip {
			t.Errorf("%d points for %s, want 5 for gossip", p, why)
		}
		for range 30 { // its score must not heal
			for range 6 {
				l.send(s, &pb.RPC{Control: graft})
			}
			time.Sleep(time.Minute)
		}
		if p, _ := a.points(evil); p < 25 || p > 30 || a.rep.Refused(evil.ID()) {
			t.Errorf("%d points after half an hour, want up to 30 and no more", p)
		}
	})
}

// Points are part of the gossip score, one each.
func TestPointsAreScore(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.connect(0, 1)
		time.Sleep(2 * time.Second)
		a, b := l.nodes[0], l.hosts[1].ID()
		before := a.Score(b)
		a.rep.Penalize(b, chain.Malformed, "test")
		time.Sleep(2 * time.Second)
		if got := a.Score(b) - before; math.Abs(got+25) > 1 {
			t.Errorf("25 points changed the score by %v", got)
		}
		// They, and the address, are not what a peer did in gossip.
		a.keepScores(map[peer.ID]*pubsub.PeerScoreSnapshot{"p": {Score: -97, AppSpecificScore: -50, IPColocationFactor: 9}})
		if s := a.scores["p"]; s.all != -97 || s.own != -2 {
			t.Errorf("scores %+v, want −97 and −2", s)
		}
	})
}
