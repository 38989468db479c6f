package gossip

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/parley-p2p/parley/chain"
)

// The same message twice from one peer costs a point, unless it was asked for.
func TestRepeatsAreCharged(t *testing.T) {
	inLab(t, 1, 2, func(t *testing.T, l *lab) {
		l.serveAll()
		a, evil, other := l.nodes[0], l.hosts[1], l.hosts[2]
		l.connect(1, 0)
		l.connect(2, 0)
		s, s2 := l.stream(evil, a), l.stream(other, a)
		l.inject(s, "record", []byte("one"))
		l.inject(s2, "record", []byte("one"))
		if p, why := a.points(other); p != 0 {
			t.Errorf("%d points for %s, for what another had brought", p, why)
		}
		l.inject(s, "record", []byte("one"))
		if p, why := a.points(evil); p != 1 || why != chain.Duplicate {
			t.Errorf("%d points for %s, want 1 for the second time", p, why)
		}
		l.inject(s2, "record", []byte("one"))
		if p, _ := a.points(other); p != 1 {
			t.Errorf("%d points for the second time of a duplicate", p)
		}
		id := messageID(&pb.Message{Topic: new(wireName("record")), Data: []byte("two")})
		l.send(s2, &pb.RPC{Control: &pb.ControlMessage{Ihave: []*pb.ControlIHave{{TopicID: new(wireName("record")), MessageIDs: []string{id}}}}})
		time.Sleep(time.Second) // it is asked for
		l.inject(s2, "record", []byte("two"))
		l.inject(s2, "record", []byte("two"))
		if p, _ := a.points(other); p != 1 {
			t.Errorf("%d points, for an answer to IWANT too", p)
		}
		l.inject(s2, "record", []byte("two"))
		if p, _ := a.points(other); p != 2 {
			t.Errorf("%d points, want 2: it was asked once", p)
		}
		for range 60 {
			l.push(s, "record", []byte("one"))
			time.Sleep(10 * time.Millisecond)
		}
		if p, _ := a.points(evil); p != 30 {
			t.Errorf("%d points for many times, want the weak 30", p)
		}
	})
}

// What honest nodes send each other costs nobody a point, also where links are
// new, meshes change and messages are asked for.
func TestHonestPeersRepeatNothing(t *testing.T) {
	inLab(t, 14, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		for i := range l.nodes {
			for j := range i {
				l.connect(i, j)
			}
			time.Sleep(700 * time.Millisecond)
			for k := range 20 {
				l.publish(l.nodes[i], "record", fmt.Sprint("take ", i, " ", k))
			}
		}
		time.Sleep(10 * time.Second)
		for i := range 200 {
			l.publish(l.nodes[i%14], "record", fmt.Sprint("more ", i))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		for i, n := range l.nodes {
			for j, h := range l.hosts {
				if p, why := n.points(h); p != 0 {
					t.Errorf("node %d charged node %d with %d points for %s", i, j, p, why)
				}
			}
		}
	})
}

// Bytes that are no RPC, an RPC that is too long and a signed message are
// charged, though pubsub itself tells nobody of the first two.
func TestBrokenStreamsAreCharged(t *testing.T) {
	inLab(t, 1, 4, func(t *testing.T, l *lab) {
		l.serveAll()
		a := l.nodes[0]
		for i := range 4 {
			l.connect(1+i, 0)
		}
		signed := &pb.RPC{Publish: []*pb.Message{{Topic: new(wireName("record")), Data: []byte("x"), Signature: []byte("s")}}}
		for i, c := range []struct {
			bytes  []byte
			points int
			why    chain.Offence
		}{
			{[]byte("\x04\xff\xff\xff\xff"), 25, chain.Malformed},
			{binary.AppendUvarint(nil, uint64(a.maxRPC()+1)), 40, chain.Oversize},
			{nil, 0, ""}, // leaves in the middle of an RPC
		} {
			evil := l.hosts[1+i]
			s := l.stream(evil, a)
			if c.bytes == nil {
				_, _ = s.Write([]byte{9, 1, 2})
				_ = s.Reset()
			} else if _, err := s.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if p, why := a.points(evil); p != c.points || why != c.why {
				t.Errorf("%q: %d points for %s, want %d for %s", c.bytes, p, why, c.points, c.why)
			}
		}
		evil := l.hosts[4]
		first := l.stream(evil, a)
		l.inject(first, "record", []byte("first"))
		second := l.stream(evil, a) // takes the place of the first
		l.inject(second, "record", []byte("second"))
		if p, why := a.points(evil); p != 0 || a.times("second") != 1 {
			t.Errorf("%d points for %s for a second stream", p, why)
		}
		l.send(second, signed)
		time.Sleep(time.Second)
		if p, why := a.points(evil); p != 20 || why != chain.Violation || a.times("x") != 0 {
			t.Errorf("signed: %d points for %s", p, why)
		}
	})
}

// What is kept of a peer's subscriptions goes with its stream, though we never
// had one to it.
func TestSubscriptionsOfTheUnreachableAreForgotten(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		a, evil := l.nodes[0], l.hosts[1]
		evil.RemoveStreamHandler(pubsub.GossipSubID_v12)
		l.connect(1, 0)
		s := l.stream(evil, a)
		on := func(name string) *pb.RPC_SubOpts { return &pb.RPC_SubOpts{Subscribe: new(true), Topicid: &name} }
		l.send(s, &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{on(wireName("record")), on("/parley/other/record"), on("anything")}})
		time.Sleep(time.Second)
		kept := func() int {
			a.guard.mu.Lock()
			defer a.guard.mu.Unlock()
			return len(a.guard.taken[evil.ID()])
		}
		if kept() != 1 || len(a.ps.ListPeers("/parley/other/record"))+len(a.ps.ListPeers("anything")) != 0 {
			t.Errorf("%d topics are kept, and of others %d", kept(), len(a.ps.ListPeers("anything")))
		}
		_ = s.Reset()
		time.Sleep(time.Second)
		if kept() != 0 {
			t.Error("kept after the stream")
		}
	})
}

// crowd is hosts that push messages at once, for one alone is held up: pace.
const crowd = 20

// When validation is full, a peer that brings what is of no use is heard less.
func TestGaterHearsTheUselessLess(t *testing.T) {
	inLab(t, 1, crowd, func(t *testing.T, l *lab) {
		l.serveAll()
		a := l.nodes[0]
		var streams []network.Stream
		for i, evil := range l.hosts[1:] {
			l.connect(1+i, 0)
			streams = append(streams, l.stream(evil, a))
		}
		for round := range 5 {
			for i, s := range streams {
				var some [][]byte
				for j := range 200 {
					some = append(some, fmt.Appendf(nil, "slow %d %d %d", round, i, j))
				}
				l.push(s, "record", some...)
			}
			time.Sleep(time.Second) // each holds its place for half of it
		}
		if a.lost("validate") == 0 {
			t.Fatal("validation was never full")
		}
		if a.lost("gater") == 0 {
			t.Error("the peers were heard all the time")
		}
	})
}

// So many messages wait for their verdict, of one topic and of all; the others
// are lost, and cost nothing.
func TestValidationIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		topics, each int // messages of a host
		lost         int
	}{
		"one topic": {1, 50, crowd*50 - validateTopic},
		"all":       {3, 25, 3*crowd*25 - validateMost},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, 1, crowd, func(t *testing.T, l *lab) {
				a := l.nodes[0]
				var topics []chain.Topic
				for i := range c.topics {
					topics = append(topics, chain.Topic{Name: fmt.Sprint("t", i), MaxBytes: 100, Validate: func(ctx context.Context, _ chain.Message) error {
						<-ctx.Done()
						return ctx.Err()
					}})
				}
				if err := a.Serve(testNet, topics); err != nil {
					t.Fatal(err)
				}
				var all []func()
				for i, evil := range l.hosts[1:] {
					l.connect(1+i, 0)
					rpc, to := &pb.RPC{}, l.stream(evil, a)
					for _, topic := range topics {
						for j := range c.each {
							rpc.Publish = append(rpc.Publish, &pb.Message{Topic: new(wireName(topic.Name)), Data: fmt.Appendf(nil, "%s %d %d", topic.Name, i, j)})
						}
					}
					all = append(all, func() { l.send(to, rpc) })
				}
				for _, send := range all {
					send()
				}
				time.Sleep(2 * time.Second)
				lost := 0
				for _, topic := range topics {
					ignored := a.stats(topic.Name).Ignored
					lost += int(ignored[pubsub.RejectValidationThrottled] + ignored[pubsub.RejectValidationQueueFull])
				}
				if lost != c.lost || a.lost("validate") != c.lost {
					t.Errorf("%d of %d messages were lost, %d counted, want %d", lost, crowd*c.topics*c.each, a.lost("validate"), c.lost)
				}
				for _, evil := range l.hosts[1:] {
					if p, why := a.points(evil); p != 0 {
						t.Errorf("%d points for %s", p, why)
					}
				}
			})
		})
	}
}

// The limit on RPCs leaves room around the largest message of a topic, and
// no more.
func TestLargestMessage(t *testing.T) {
	inLab(t, 1, 2, func(t *testing.T, l *lab) {
		a := l.nodes[0]
		big := chain.Topic{Name: "record", MaxBytes: defaultMaxBytes, Validate: a.validate}
		if err := a.Serve(testNet, []chain.Topic{big}); err != nil {
			t.Fatal(err)
		}
		l.connect(1, 0)
		l.connect(2, 0)
		data := make([]byte, defaultMaxBytes)
		l.inject(l.stream(l.hosts[1], a), "record", data)
		if p, why := a.points(l.hosts[1]); a.times(string(data)) != 1 || p != 0 {
			t.Errorf("heard %d times, %d points for %s", a.times(string(data)), p, why)
		}
		long := append(binary.AppendUvarint(nil, uint64(a.maxRPC()+1)), make([]byte, a.maxRPC()+1)...)
		_, _ = l.stream(l.hosts[2], a).Write(long) // it is stopped in the middle
		time.Sleep(time.Second)
		if p, why := a.points(l.hosts[2]); p != 40 || why != chain.Oversize {
			t.Errorf("%d points for %s, for an RPC over the limit", p, why)
		}
	})
}

// How many messages of a topic are judged at once, and for how long.
func TestPlacesAndTimeouts(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		a, evil := l.nodes[0], l.hosts[1]
		now, most := map[string]int{}, map[string]int{}
		var ended []string
		topic := func(name string, hold time.Duration) chain.Topic {
			return chain.Topic{Name: name, MaxBytes: 100, Validate: func(ctx context.Context, m chain.Message) error {
				a.mu.Lock()
				now[name]++
				most[name] = max(most[name], now[name])
				a.mu.Unlock()
				start := time.Now()
				select {
				case <-ctx.Done():
				case <-time.After(hold):
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				now[name]--
				if string(m.Data) == "long" {
					ended = append(ended, fmt.Sprintf("%s %v", name, time.Since(start)))
				}
				return ctx.Err()
			}}
		}
		if err := a.Serve(testNet, []chain.Topic{topic("block", time.Hour), topic("record", time.Hour)}); err != nil {
			t.Fatal(err)
		}
		l.connect(1, 0)
		s := l.stream(evil, a)
		for _, name := range []string{"block", "record"} {
			l.inject(s, name, []byte("long"))
			time.Sleep(5 * time.Second)
			var some [][]byte
			for i := range 200 {
				some = append(some, fmt.Append(nil, i))
			}
			l.inject(s, name, some...)
			time.Sleep(5 * time.Second)
		}
		a.mu.Lock()
		if got := strings.Join(ended, ", "); got != "block 2s, record 500ms" {
			t.Errorf("deadlines: %s", got)
		}
		if most["block"] != 4 || most["record"] != 64 {
			t.Errorf("at once: %v, want 4 blocks and 64 records", most)
		}
		a.mu.Unlock()
		for _, s := range a.Topics() {
			if s.Ignored["timeout"] == 0 || len(s.Rejected) > 0 {
				t.Errorf("%s: ignored %v, rejected %v", s.Topic, s.Ignored, s.Rejected)
			}
		}
		if p, why := a.points(evil); p != 0 {
			t.Errorf("%d points for %s, for what was not judged", p, why)
		}
	})
}
