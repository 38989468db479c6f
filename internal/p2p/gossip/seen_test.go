package gossip

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A message's way through a node is told: who brought it first, who again, the
// verdict, and to whom it was sent.
func TestTrace(t *testing.T) {
	inLab(t, 4, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		for _, c := range [][2]int{{0, 1}, {0, 2}, {1, 3}, {2, 3}, {4, 0}} {
			l.connect(c[0], c[1])
		}
		time.Sleep(3 * time.Second)
		a, d, evil := l.nodes[0], l.nodes[3], l.hosts[4]
		tail := a.Follow([]string{"record"}, true)
		defer tail.Close()
		l.publish(a, "record", "good x")
		l.publish(a, "best_block", "claim")
		time.Sleep(time.Second)
		id := messageID(&pb.Message{Topic: new(wireName("record")), Data: []byte("good x")})
		own, ok := a.Trace(id)
		if !ok || !own.Own || own.From != a.Host.ID() || own.Topic != "record" || own.Size != 6 || own.Verdict != VerdictAccept || own.Judged.IsZero() {
			t.Errorf("our own: %+v", own)
		}
		if got := hops(own); got != "sent sent " { // to both neighbours; the stranger takes no topic
			t.Errorf("our own went %q", got)
		}
		far, ok := d.Trace(id)
		first, again := 0, 0
		for _, h := range far.Hops {
			switch h.What {
			case HopFirst:
				first++
				if h.Peer != far.From || !h.At.Equal(far.At) || far.At.Before(own.At.Add(2*latency)) {
					t.Errorf("first %+v of %+v", h, far)
				}
			case HopDuplicate:
				again++
			}
		}
		if !ok || far.Own || first != 1 || first+again+strings.Count(hops(far), "sent") != len(far.Hops) || len(far.Hops) < 2 {
			t.Errorf("behind two nodes: %q, %+v", hops(far), far)
		}
		s := l.stream(evil, a)
		for data, want := range map[string]string{"orphan x": VerdictIgnore, "bad x": VerdictReject} {
			l.inject(s, "record", []byte(data))
			got, ok := a.Trace(messageID(&pb.Message{Topic: new(wireName("record")), Data: []byte(data)}))
			if !ok || got.Verdict != want || got.Reason == "" || got.From != evil.ID() || strings.Contains(hops(got), "sent") {
				t.Errorf("%q: %+v", data, got)
			}
		}
		told := map[string]Judged{}
		for _, j := range tail.Take() {
			told[j.Verdict] = j
			if j.Topic != "record" {
				t.Errorf("told of %s", j.Topic)
			}
		}
		if len(told) != 3 || string(told[VerdictAccept].Data) != "good x" || told[VerdictReject].Data != nil {
			t.Errorf("told of %+v", told)
		}
		if _, ok := a.Trace("nonsense"); ok {
			t.Error("a message that there is not has a way")
		}
	})
}

func hops(s Seen) string {
	var b strings.Builder
	for _, h := range s.Hops {
		b.WriteString(h.What + " ")
	}
	return b.String()
}

// What is remembered has a bound, whoever sends what, and a tail that nobody
// reads too.
func TestSeenIsBounded(t *testing.T) {
	s := newSeen()
	tail := &Tail{seen: s, data: true, wake: make(chan struct{}, 1)}
	s.tails[tail] = struct{}{}
	now := time.Now()
	var last *pubsub.Message
	const n = 3*maxSeen + 7
	for i := range n {
		last = &pubsub.Message{Message: &pb.Message{Data: make([]byte, 10<<10)}, ID: fmt.Sprint("id", i), ReceivedFrom: "a"}
		s.arrived(last, "t", false, now)
		s.judged(last, VerdictAccept, "", now)
		for range 2 * maxHops {
			s.came(last, now)
			s.sent([]*pb.Message{last.Message}, "b", now)
		}
	}
	if len(s.byID) != maxSeen || len(s.byMsg) > maxSeen || len(s.ring) != maxSeen { // one may lie where another one was
		t.Errorf("remembered: %d, %d, %d, want %d", len(s.byID), len(s.byMsg), len(s.ring), maxSeen)
	}
	if s.byID[fmt.Sprint("id", n-1)] == nil || s.byID[fmt.Sprint("id", n-maxSeen-1)] != nil {
		t.Error("the newest are not those that are remembered")
	}
	if got := s.byMsg[addressOf(last.Message)]; len(got.Hops) != maxHops || got.More != 4*maxHops+1-maxHops {
		t.Errorf("%d hops and %d more", len(got.Hops), got.More)
	}
	list := tail.Take()
	size := 0
	for _, j := range list {
		size += len(j.Data)
	}
	const room = tailBytes / (10 << 10)
	if len(list) != room+1 || size > tailBytes {
		t.Fatalf("%d wait, of %d bytes", len(list), size)
	}
	if last := list[room]; last.ID != "" || last.Lost != n-room || list[room-1].Lost != 0 { // told at once, though nothing follows
		t.Errorf("lost %d of %d, where %d were taken: %+v", last.Lost, n, room, last)
	}
	m := &pubsub.Message{Message: &pb.Message{}, ID: "next", ReceivedFrom: peer.ID("a")}
	s.arrived(m, "t", false, now)
	s.judged(m, VerdictIgnore, strings.Repeat("x", 2*maxReason), now)
	if list = tail.Take(); len(list) != 1 || list[0].Lost != 0 || len(list[0].Reason) != maxReason {
		t.Errorf("after the loss: %+v", list)
	}
	big := func(i, size int) {
		m := &pubsub.Message{Message: &pb.Message{Data: make([]byte, size)}, ID: fmt.Sprint("big", i), ReceivedFrom: peer.ID("a")}
		s.arrived(m, "t", false, now)
		s.judged(m, VerdictAccept, "", now)
	}
	for i, size := range []int{tailBytes - 1, 2, 1} { // the second has no room, and the third has
		big(i, size)
	}
	if list = tail.Take(); len(list) != 2 || list[1].ID != "big2" || list[1].Lost != 1 {
		t.Errorf("around one that was left out: %+v", len(list))
	}
	big(3, tailBytes+1)
	if list = tail.Take(); len(list) != 1 || len(list[0].Data) != tailBytes+1 {
		t.Error("one longer than all that may wait never comes")
	}
}
