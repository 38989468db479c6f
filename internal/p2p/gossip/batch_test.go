package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

func texts(format string, n int) (list [][]byte) {
	for i := range n {
		list = append(list, fmt.Appendf(nil, format, i))
	}
	return list
}

// What is published together is received, what comes before one that is refused
// too, and no more than that.
func TestPublishAll(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		from, to := l.nodes[0], l.nodes[1]
		l.connect(0, 1)
		time.Sleep(time.Second)
		const many = 3*batchMost + 5
		list := append(texts("good %d", many), []byte("bad x"), []byte("good x"))
		n, err := from.PublishAll(t.Context(), "record", slices.Values(list))
		if bad := new(chain.InvalidError); n != many || !errors.As(err, &bad) {
			t.Errorf("%d published, then %v", n, err)
		}
		if n, err := from.PublishAll(t.Context(), "best_block", slices.Values(texts("claim %d", 2))); n != 1 || !errors.Is(err, chain.ErrBusy) {
			t.Errorf("%d claims published, then %v, where one a second may be", n, err)
		}
		if n, err := from.PublishAll(t.Context(), "nothing", slices.Values(list)); n != 0 || err == nil {
			t.Errorf("%d published to a topic that is not there: %v", n, err)
		}
		time.Sleep(time.Second)
		for i := range many {
			if n := to.times(fmt.Sprint("good ", i)); n != 1 {
				t.Errorf("message %d came %d times", i, n)
			}
		}
		if to.times("bad x") > 0 || to.times("good x") > 0 || to.times("claim 0") != 1 || to.times("claim 1") > 0 {
			t.Errorf("came too: %d bad one, %d after it, %d and %d claims", to.times("bad x"), to.times("good x"), to.times("claim 0"), to.times("claim 1"))
		}
		if a, ok := from.Trace(messageID(&pb.Message{Topic: new(wireName("record")), Data: []byte("good 7")})); !ok || hops(a) != "sent " {
			t.Errorf("the way of one of them: %+v", a)
		}
	})
}

// Who publishes when gossip ends is told so, however many there are.
func TestPublishAllEnds(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		n := l.nodes[0]
		var all sync.WaitGroup
		for who := range 8 {
			all.Go(func() {
				for i := 0; ; i++ {
					if _, err := n.PublishAll(context.Background(), "record", slices.Values(texts(fmt.Sprint("good ", who, " ", i, " %d"), 3*batchMost))); err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		n.stop()
		all.Wait()
		for range 3 {
			if sent, err := n.PublishAll(context.Background(), "record", slices.Values(texts("late %d", 5))); err == nil {
				t.Errorf("%d published after the end", sent)
			}
		}
	})
}

// RPCs go in the order in which they come, and the next batch may come then.
func TestBatchKeepsItsOrder(t *testing.T) {
	told := 0
	s := taken{&inOrder{}, func() { told++ }}
	var want []addressed
	for i := range 50 {
		a := addressed{peer.ID(fmt.Sprint(i % 3)), &pubsub.RPC{}}
		want = append(want, a)
		s.AddRPC(a.peer, fmt.Sprint(i), a.rpc)
	}
	i := 0
	for p, rpc := range s.All() {
		if want[i] != (addressed{p, rpc}) {
			t.Fatalf("place %d has another RPC", i)
		}
		i++
	}
	if i != len(want) || told != 1 {
		t.Errorf("%d of %d RPCs, told %d times", i, len(want), told)
	}
}
