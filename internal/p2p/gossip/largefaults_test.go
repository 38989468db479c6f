package gossip

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// Chunks of what a node does not take, such as a topic that it does not serve,
// are passed over at once: those behind them on the stream are read.
func TestChunksOfOtherTopics(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, evil := l.nodes[0], l.liar(1, l.nodes[0])
		other := a.cut(largeMessage("good", 2<<20, 1))
		other.Topic = wireName("other")
		other.id = largeID(other.Manifest)
		mine := a.cut(largeMessage("good", 300<<10, 2))
		evil.says(append([][]byte{evil.manifest(other.Manifest, nil)}, other.chunks()...)...)
		evil.says(append([][]byte{evil.manifest(mine.Manifest, nil)}, mine.chunks()...)...)
		time.Sleep(1500 * time.Millisecond)
		if a.times(string(mine.data)) != 1 {
			t.Error("the message behind one of another topic did not come")
		}
		l.noPoints(nil)
	})
}

// Nobody has the chunks of a message given up that waits for its place.
func TestOthersManifestEndsNoWait(t *testing.T) {
	inLab(t, 1, 2, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, honest, evil := l.nodes[0], l.liar(1, l.nodes[0]), l.liar(2, l.nodes[0])
		first, second := a.cut(largeMessage("pause", 40<<10, 1)), a.cut(largeMessage("good", 40<<10, 2))
		old := evil.manifest(second.Manifest, nil)
		time.Sleep(3 * time.Minute)
		for _, m := range []*pieces{first, second} {
			honest.says(append([][]byte{honest.manifest(m.Manifest, nil)}, m.chunks()...)...)
		}
		time.Sleep(100 * time.Millisecond)
		evil.says(old)
		time.Sleep(2 * time.Second)
		if a.times(string(first.data)) != 1 || a.times(string(second.data)) != 1 {
			t.Errorf("the messages came %d and %d times", a.times(string(first.data)), a.times(string(second.data)))
		}
		a.rests(t)
	})
}

// The same bytes can be sent again when pubsub has forgotten them, and are not
// before, of which who publishes is told as for small ones: nothing.
func TestLargeAgain(t *testing.T) {
	inLab(t, 3, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.connect(0, 1)
		l.connect(1, 2)
		time.Sleep(5 * time.Second)
		data := string(largeMessage("good", 300<<10, 1))
		for i, want := range []int{1, 1, 2} {
			if i == 2 {
				time.Sleep(4 * time.Minute)
			}
			l.publish(l.nodes[0], "tx", data)
			time.Sleep(5 * time.Second)
			for j, n := range l.nodes {
				if n.times(data) != want {
					t.Errorf("node %d has the message %d times, want %d", j, n.times(data), want)
				}
			}
		}
	})
}

// What the own topic refuses was not sent, and may be published again.
func TestLargeRefusedIsNotCut(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		data := largeMessage("orphan", 40<<10, 1)
		for range 2 {
			if err := l.nodes[0].Publish(t.Context(), "tx", data); !errors.Is(err, chain.ErrOrphan) {
				t.Errorf("%v, want what Validate says", err)
			}
		}
	})
}

// Who serves the first large topic while gossip ends is told so.
func TestServeLargeAtTheEnd(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		n := l.nodes[0]
		n.stop()
		<-n.stopped
		if err := n.openLarge(testNet); !errors.Is(err, errClosed) {
			t.Error(err)
		}
	})
}

// Topic chunk is nobody else's: its metrics and its claims would be.
func TestServeChunk(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		n := l.nodes[0]
		n.cfg.Names["record"] = chunkTopic
		for _, name := range []string{chunkTopic, "record"} {
			if err := n.Serve(testNet, []chain.Topic{{Name: name, MaxBytes: 10, Validate: n.validate}}); err == nil {
				t.Errorf("topic %s was served", name)
			}
		}
	})
}

// A topic that is left takes nothing more, nor its memory, and may be served
// with other bounds, which cost nobody points who has larger ones.
func TestLeaveLarge(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, evil := l.nodes[0], l.liar(1, l.nodes[0])
		m, next := a.cut(largeMessage("good", 300<<10, 1)), a.cut(largeMessage("good", 300<<10, 2))
		chunks := m.chunks()
		evil.says(append([][]byte{evil.manifest(m.Manifest, nil)}, chunks[1:]...)...)
		time.Sleep(time.Second)
		if err := a.Leave("tx"); err != nil {
			t.Fatal(err)
		}
		a.rests(t)
		if err := a.Serve(testNet, []chain.Topic{{Name: "tx", MaxBytes: 64 << 10, Large: true, Timeout: -1, Validate: a.validate}}); err != nil {
			t.Fatal(err)
		}
		evil.says(chunks[0])
		evil.says(append([][]byte{evil.manifest(next.Manifest, nil)}, next.chunks()...)...)
		small := a.cut(largeMessage("good", 60<<10, 3))
		evil.says(append([][]byte{evil.manifest(small.Manifest, nil)}, small.chunks()...)...)
		time.Sleep(time.Second)
		if a.times(string(m.data)) != 0 || a.times(string(next.data)) != 0 || a.times(string(small.data)) != 1 {
			t.Errorf("%d of before, %d too large, %d that fits", a.times(string(m.data)), a.times(string(next.data)), a.times(string(small.data)))
		}
		a.rests(t)
		l.noPoints(nil)
	})
}

// A large message has one way: sent whole it would come a second time.
func TestLargeComesNotWhole(t *testing.T) {
	inLab(t, 2, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.connect(0, 1)
		l.connect(2, 0)
		time.Sleep(5 * time.Second)
		data := largeMessage("good", largeFrom+1, 1)
		l.publish(l.nodes[1], "tx", string(data))
		s := l.stream(l.hosts[2], l.nodes[0])
		l.inject(s, "tx", data)
		l.inject(s, "tx", largeMessage("good", largeFrom+1, 2))
		a := l.nodes[0]
		if n := a.times(string(data)); n != 1 {
			t.Errorf("the message came %d times", n)
		}
		if n := a.stats("tx"); n.Messages != 1 || n.Ignored["unready"] != 2 {
			t.Errorf("%+v", n)
		}
	})
}

// Who has waited for his turn has his time for sending still.
func TestTurnTakesNoTime(t *testing.T) {
	inLabAt(t, 4, 2, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(0)
		var all sync.WaitGroup
		for i := range 2 {
			data := largeMessage("good", 3<<20, uint64(i))
			all.Go(func() {
				if err := l.nodes[0].Publish(t.Context(), "tx", data); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			})
			defer func() {
				if n := l.nodes[1].times(string(data)); n != 1 {
					t.Errorf("message %d came %d times", i, n)
				}
			}()
		}
		all.Wait()
		time.Sleep(5 * time.Second)
	})
}

// No topic judges when Run has ended, what is published then neither.
func TestLargeOfTheEnd(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		n := l.nodes[0]
		tx, data := n.topic("tx"), largeMessage("good", 40<<10, 1)
		n.stop()
		<-n.stopped
		if err := tx.deliver(context.Background(), data); !errors.Is(err, errClosed) || n.times(string(data)) != 0 {
			t.Errorf("judged %d times after the end: %v", n.times(string(data)), err)
		}
	})
}
