package gossip

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
)

func testGuard(t *testing.T) *guard {
	t.Helper()
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	return newGuard(m, newPace(0), func(peer.ID, string) bool { return true })
}

func TestInspect(t *testing.T) {
	ids := func(n int) []string { return make([]string, n) }
	name := new("/parley/x/y")
	for _, tc := range []struct {
		name string
		rpc  *pb.RPC
		ok   bool
	}{
		{"empty", &pb.RPC{}, true},
		{"full", &pb.RPC{
			Publish:       make([]*pb.Message, 256),
			Subscriptions: make([]*pb.RPC_SubOpts, 128),
			Control: &pb.ControlMessage{
				Graft: make([]*pb.ControlGraft, 32), Iwant: []*pb.ControlIWant{{MessageIDs: ids(600)}, {MessageIDs: ids(400)}},
				Idontwant: []*pb.ControlIDontWant{{MessageIDs: ids(1000)}}, Ihave: []*pb.ControlIHave{{TopicID: name, MessageIDs: ids(5000)}},
			},
		}, true},
		{"messages", &pb.RPC{Publish: make([]*pb.Message, 257)}, false},
		{"message topic", &pb.RPC{Publish: []*pb.Message{{Topic: new(strings.Repeat("x", 257))}}}, false},
		{"subscriptions", &pb.RPC{Subscriptions: make([]*pb.RPC_SubOpts, 129)}, false},
		{"subscribed topic", &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Topicid: new(strings.Repeat("x", 257))}}}, false},
		{"grafts", &pb.RPC{Control: &pb.ControlMessage{Graft: make([]*pb.ControlGraft, 33)}}, false},
		{"iwant", &pb.RPC{Control: &pb.ControlMessage{Iwant: []*pb.ControlIWant{{MessageIDs: ids(600)}, {MessageIDs: ids(401)}}}}, false},
		{"idontwant", &pb.RPC{Control: &pb.ControlMessage{Idontwant: []*pb.ControlIDontWant{{MessageIDs: ids(1001)}}}}, false},
		{"long id", &pb.RPC{Control: &pb.ControlMessage{Ihave: []*pb.ControlIHave{{MessageIDs: []string{strings.Repeat("x", 65)}}}}}, false},
	} {
		g := testGuard(t)
		rpc := &pubsub.RPC{}
		proto.Merge(&rpc.RPC, tc.rpc)
		err := g.inspect("p", rpc)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if !tc.ok {
			select {
			case c := <-g.charges:
				if c.peer != "p" || c.offence != chain.Violation {
					t.Errorf("%s: charge %+v", tc.name, c)
				}
			default:
				t.Errorf("%s: no charge", tc.name)
			}
		}
		for range 300 { // a full queue of charges MUST NOT stop pubsub
			_ = g.inspect("p", &pubsub.RPC{RPC: pb.RPC{Publish: make([]*pb.Message, 257)}})
		}
	}
}

func TestInspectCutsPrunes(t *testing.T) {
	g := testGuard(t)
	prune := &pb.ControlPrune{Backoff: proto.Uint64(1 << 60), Peers: []*pb.PeerInfo{{}}}
	short := &pb.ControlPrune{Backoff: proto.Uint64(60)}
	if err := g.inspect("p", &pubsub.RPC{RPC: pb.RPC{Control: &pb.ControlMessage{Prune: []*pb.ControlPrune{prune, short}}}}); err != nil {
		t.Fatal(err)
	}
	if prune.GetBackoff() != 3600 || prune.Peers != nil || short.GetBackoff() != 60 {
		t.Errorf("%v, %v", prune, short)
	}
}

func TestSubscriptionsAreFiltered(t *testing.T) {
	g := testGuard(t)
	sub := func(on bool, names ...string) []*pb.RPC_SubOpts {
		var list []*pb.RPC_SubOpts
		for _, n := range names {
			list = append(list, &pb.RPC_SubOpts{Subscribe: &on, Topicid: &n})
		}
		return list
	}
	pass := func(p peer.ID, subs []*pb.RPC_SubOpts) int {
		kept, err := g.FilterIncomingSubscriptions(p, subs)
		if err != nil {
			t.Fatal(err)
		}
		return len(kept)
	}
	if got := pass("p", sub(true, "/parley/a/x", "/parley/b/x", "/parley/a/x/y", "/parley//x", "other", "/parley/a")); got != 2 {
		t.Errorf("before serving, %d pass, want 2", got)
	}
	g.serve("a")
	if got := pass("p", sub(true, "/parley/a/x", "/parley/b/x")); got != 1 {
		t.Errorf("while serving a, %d pass, want 1", got)
	}
	total := 0
	for i := range 10 {
		var names []string
		for j := range 100 {
			names = append(names, fmt.Sprintf("/parley/a/%d", i*100+j))
		}
		total += pass("q", sub(true, names...))
	}
	if total != maxSubscriptions {
		t.Errorf("%d topics of one peer are kept", total)
	}
	if got := pass("q", sub(false, "/parley/a/0")) + pass("q", sub(true, "/parley/a/new")); got != 2 {
		t.Error("no room after leaving a topic")
	}
	g.forget("q")
	if len(g.taken["q"]) != 0 {
		t.Error("q is not forgotten")
	}
}

func TestCreditFollowsOrder(t *testing.T) {
	c := newCredit()
	fill := func(p peer.ID, n, bytes int) {
		for range n {
			c.queued(p, bytes, bytes, time.Time{})
		}
	}
	if c.busy() {
		t.Error("busy with nobody")
	}
	fill("a", 10, 0) // not ours
	fill("a", maxWaiting, 1)
	if c.busy() {
		t.Error("busy at the bound")
	}
	fill("a", 1, 1)
	if !c.busy() {
		t.Error("not busy over the bound")
	}
	fill("b", 1, 1)
	if c.busy() {
		t.Error("one of two peers stops us")
	}
	c.clear("b")
	for range 10 {
		c.written("a", 1, time.Time{})
	}
	if !c.busy() {
		t.Error("what was not ours gave us room")
	}
	c.written("a", 1, time.Time{})
	if c.busy() {
		t.Error("still busy after the first of ours left")
	}
	fill("b", 1, maxWaitingBytes+1)
	fill("c", 2, maxWaitingBytes)
	if !c.busy() {
		t.Error("two of three peers do not stop us")
	}
	c.written("d", 1, time.Time{}) // left before it was seen to enter
	c.queued("d", 100, 100, time.Time{})
	if l := c.lanes["d"]; len(l.waiting) != 0 || l.ours != 0 {
		t.Errorf("%+v", l)
	}
}

// What waits for one peer is bounded: at 4 MiB where it reads nothing, and at 16
// in any case; one message alone may be larger.
func TestCreditCutsWhoReadsNothing(t *testing.T) {
	const size = 1 << 20
	now := time.Now()
	cutAt := func(p peer.ID, c *credit, each time.Duration, reads bool) (waiting int) {
		for waiting < 100 {
			waiting++
			if c.queued(p, size, 0, now) {
				return waiting
			}
			now = now.Add(each)
			if reads && waiting%4 == 0 {
				c.written(p, 1, now)
			}
		}
		return 0
	}
	c := newCredit()
	if n := cutAt("mute", c, readsNothing/4, false); n != maxWaitingBytes/size+1 {
		t.Errorf("a peer that reads nothing: cut with %d MiB", n)
	}
	if c.queued("mute", size, 0, now) {
		t.Error("cut a second time")
	}
	c.clear("mute")
	if n := cutAt("mute", c, readsNothing/4, false); n != maxWaitingBytes/size+1 {
		t.Errorf("a new queue: cut with %d MiB", n)
	}
	if n := cutAt("burst", c, time.Millisecond, false); n != mostQueuedBytes/size+1 {
		t.Errorf("a burst: cut with %d MiB", n)
	}
	if n := cutAt("slow", c, 100*time.Millisecond, true); n != 22 { // it has read five of them
		t.Errorf("a slow one: cut after %d MiB", n)
	}
	if c.queued("large", 2*mostQueuedBytes, 0, now) {
		t.Error("one message alone is too many")
	}
}

func TestCarriesMessages(t *testing.T) {
	frame := func(rpc *pb.RPC) []byte {
		b, err := proto.Marshal(rpc)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{byte(len(b))}, b...)
	}
	msg := []*pb.Message{{Topic: new("t"), Data: []byte("d")}}
	ctl := &pb.ControlMessage{Graft: []*pb.ControlGraft{{TopicID: new("t")}}}
	if !carriesMessages(frame(&pb.RPC{Publish: msg})) || !carriesMessages(frame(&pb.RPC{Publish: msg, Control: ctl})) {
		t.Error("messages are not seen")
	}
	if carriesMessages(frame(&pb.RPC{Control: ctl})) || carriesMessages(frame(&pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{}}})) || carriesMessages(nil) {
		t.Error("messages are seen where there are none")
	}
}
