package gossip

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/parley-p2p/parley/chain"
)

// What waits for a peer that does not read is given up, however long the library
// would keep it, and the others hear all.
func TestQueueOfWhoDoesNotReadIsCut(t *testing.T) {
	inLab(t, 2, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		n, mute := l.nodes[0], l.hosts[2]
		streams := make(chan network.Stream, 64)
		mute.SetStreamHandler(pubsub.GossipSubID_v12, func(s network.Stream) { streams <- s })
		l.connect(1, 0)
		l.connect(2, 0)
		l.send(l.stream(mute, n), &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: new(true), Topicid: new(wireName("record"))}}})
		time.Sleep(time.Second)
		most := 0
		for i := range 200 {
			l.publish(n, "record", fmt.Sprint("big ", i, strings.Repeat(".", 200<<10)))
			time.Sleep(500 * time.Millisecond)
			n.credit.mu.Lock()
			if lane := n.credit.lanes[mute.ID()]; lane != nil {
				most = max(most, lane.bytes)
			}
			n.credit.mu.Unlock()
		}
		if most > maxWaitingBytes || most < maxWaitingBytes-(256<<10) {
			t.Errorf("%d bytes waited for a peer that reads nothing, want some %d at most", most, maxWaitingBytes)
		}
		if n.lost("stream") == 0 || len(streams) < 2 {
			t.Errorf("%d queues were cut, and %d streams opened", n.lost("stream"), len(streams))
		}
		other := l.nodes[1]
		other.mu.Lock()
		defer other.mu.Unlock()
		if got := len(other.got); got != 200 {
			t.Errorf("the other peer heard %d of 200", got)
		}
	})
}

// Who judges slowly reads slowly, and flow control tells of that a window at a
// time. It keeps its stream.
func TestSlowJudgeKeepsItsStream(t *testing.T) {
	inLab(t, 3, 0, func(t *testing.T, l *lab) {
		from, slow := l.nodes[0], l.nodes[1]
		for _, n := range l.nodes {
			judge := n.validate
			if n == slow {
				judge = func(ctx context.Context, m chain.Message) error {
					time.Sleep(300 * time.Millisecond)
					return n.validate(ctx, m)
				}
			}
			if err := n.Serve(testNet, []chain.Topic{{Name: "record", MaxBytes: 64 << 10, Validate: judge}}); err != nil {
				t.Fatal(err)
			}
		}
		l.connect(0, 1)
		l.connect(0, 2)
		time.Sleep(3 * time.Second)
		for i := range 50 * 60 {
			l.publish(from, "record", fmt.Sprint(i, strings.Repeat(".", 4<<10)))
			time.Sleep(20 * time.Millisecond)
		}
		if n := from.lost("stream"); n > 0 {
			t.Errorf("its stream was cut %d times", n)
		}
	})
}
