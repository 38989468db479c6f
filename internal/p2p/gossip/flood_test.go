package gossip

import (
	"encoding/binary"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// However many repeat themselves, there is room for a worse report.
func TestWeakReportsLeaveRoom(t *testing.T) {
	g := testGuard(t)
	for range 2 * cap(g.charges) {
		g.report(charge{"p", chain.Duplicate, "test"})
	}
	if n := len(g.charges); n != cap(g.charges)/2 {
		t.Errorf("%d weak reports wait, want %d", n, cap(g.charges)/2)
	}
	g.report(charge{"q", chain.Malformed, "test"})
	if n := len(g.charges); n != cap(g.charges)/2+1 {
		t.Error("a worse report found no room")
	}
}

func TestRepeatsAreBounded(t *testing.T) {
	r := newRepeats()
	now := time.Now()
	for i := range 3*maxRepeats + 10 {
		r.brings("p", fmt.Sprint(i), now)
		r.asks("p", fmt.Sprint(i), now)
	}
	if n := len(r.brought[0]) + len(r.brought[1]); n > 2*maxRepeats || n < maxRepeats {
		t.Errorf("%d messages are remembered", n)
	}
	if n := len(r.asked[0]) + len(r.asked[1]); n > 2*maxRepeats {
		t.Errorf("%d questions are remembered", n)
	}
	r.brings("p", "x", now.Add(repeatSpan))
	if r.brings("q", "x", now.Add(repeatSpan)) {
		t.Error("another peer's message counts")
	}
	if !r.brings("p", "x", now.Add(2*repeatSpan-1)) {
		t.Error("forgotten within the span")
	}
	r.brings("r", "y", now.Add(3*repeatSpan))
	r.brings("r", "z", now.Add(5*repeatSpan))
	if r.brings("p", "x", now.Add(7*repeatSpan)) {
		t.Error("remembered for ever")
	}
}

// A peer over its budget is charged once in ten seconds and not heard for the
// rest of them; one below it never.
func TestFloodIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGuard(t)
		rpc := func(n int) *pubsub.RPC { return &pubsub.RPC{RPC: pb.RPC{Publish: make([]*pb.Message, n)}} }
		second := func(p peer.ID, messages int) (heard int) {
			for range messages / 100 {
				if g.inspect(p, rpc(100)) == nil {
					heard += 100
				}
			}
			time.Sleep(time.Second)
			return heard
		}
		for range 60 {
			if got := second("fair", 2*peerBudget); got != 2*peerBudget {
				t.Fatalf("%d of %d messages of a fair peer were heard", got, 2*peerBudget)
			}
		}
		heard := 0
		for range 60 {
			heard += second("flood", 10_000)
		}
		if heard != 6*maxFlood {
			t.Errorf("%d messages of the flood were heard, want %d", heard, 6*maxFlood)
		}
		if n := len(g.charges); n != 6 {
			t.Errorf("%d charges in a minute, want 6", n)
		}
		if c := <-g.charges; c.peer != "flood" || c.offence != chain.Spam {
			t.Errorf("charge %+v", c)
		}
		time.Sleep(floodSpan)
		if err := g.inspect("flood", rpc(1)); err != nil {
			t.Errorf("not heard after the flood: %v", err)
		}
		for range maxFlood { // control counts
			if err := g.inspect("grafts", rpc(0)); err != nil {
				t.Fatal(err)
			}
		}
		if g.inspect("grafts", rpc(0)) == nil {
			t.Error("control without messages has no limit")
		}
		for i := range 2 * maxFlows {
			_ = g.inspect(peer.ID(fmt.Sprint(i)), rpc(0))
		}
		if len(g.flows) > maxFlows {
			t.Errorf("%d peers are counted", len(g.flows))
		}
	})
}

// Whatever the pieces in which bytes come, the length of the last RPC is known.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{3, 1, 2, 3, 0x80, 1}, 1)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 2)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		var whole, pieces frame
		whole.pass(b)
		step = max(1, step%16)
		for i := 0; i < len(b); i += step {
			pieces.pass(b[i:min(i+step, len(b))])
		}
		if whole != pieces {
			t.Fatalf("%+v in one, %+v in pieces", whole, pieces)
		}
		if n, k := binary.Uvarint(b); k > 0 {
			var head frame
			if head.pass(b[:k]); head.size != n || head.left != n {
				t.Fatalf("length %+v, want %d", head, n)
			}
		}
	})
}
