package gossip

import (
	"testing"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

// FuzzInspect: of any RPC that decodes, what passes is within our bounds, and
// no peer exchange is left in it.
func FuzzInspect(f *testing.F) {
	m, err := newMetrics(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, rpc := range []*pb.RPC{
		{},
		{Publish: []*pb.Message{{Topic: new("/parley/x/block"), Data: []byte("data")}}},
		{Subscriptions: []*pb.RPC_SubOpts{{Topicid: new("/parley/x/block"), Subscribe: new(true)}}},
		{Control: &pb.ControlMessage{
			Prune:     []*pb.ControlPrune{{TopicID: new("/parley/x/block"), Backoff: new(uint64(1 << 63)), Peers: []*pb.PeerInfo{{PeerID: []byte("x")}}}},
			Graft:     []*pb.ControlGraft{{TopicID: new("/parley/x/block")}},
			Ihave:     []*pb.ControlIHave{{TopicID: new("/parley/x/block"), MessageIDs: []string{"id"}}},
			Iwant:     []*pb.ControlIWant{{MessageIDs: []string{"id"}}},
			Idontwant: []*pb.ControlIDontWant{{MessageIDs: []string{"id"}}},
		}},
	} {
		b, err := proto.Marshal(rpc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var rpc pubsub.RPC
		if proto.Unmarshal(b, &rpc.RPC) != nil {
			return
		}
		g := newGuard(m, newPace(0), func(peer.ID, string) bool { return true })
		err := g.inspect("p", &rpc)
		for _, p := range rpc.GetControl().GetPrune() {
			if len(p.GetPeers()) > 0 || p.GetBackoff() > maxBackoff {
				t.Fatalf("a prune with %d peers and %d s is left", len(p.GetPeers()), p.GetBackoff())
			}
		}
		if err == nil && (len(rpc.GetPublish()) > maxMessages || len(rpc.GetControl().GetGraft()) > maxGrafts) {
			t.Fatal("a bound is passed")
		}
		if subs, err := g.FilterIncomingSubscriptions("p", rpc.GetSubscriptions()); err == nil && len(subs) > len(rpc.GetSubscriptions()) {
			t.Fatal("subscriptions were made")
		}
		if len(g.taken["p"]) > maxSubscriptions {
			t.Fatalf("%d topics are kept", len(g.taken["p"]))
		}
		_ = carriesMessages(b)
	})
}
