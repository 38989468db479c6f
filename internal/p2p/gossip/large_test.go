package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
)

// largeTopics are served by every node of a lab of large messages.
func (l *lab) serveLarge() {
	l.Helper()
	for _, n := range l.nodes {
		if err := n.Serve(testNet, []chain.Topic{{Name: "tx", MaxBytes: 10 << 20, Large: true, Timeout: -1, Validate: n.validate}}); err != nil {
			l.Fatal(err)
		}
	}
}

// ring connects each node with the next one and some more.
func (l *lab) ring(more int) {
	n := len(l.nodes)
	for i := range n {
		for j := 1; j <= 1+more; j++ {
			l.connect(i, (i+j*j)%n)
		}
	}
	time.Sleep(5 * time.Second)
}

// message begins with what validate is to say of it.
func largeMessage(what string, size int, seed uint64) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return append([]byte(what+" "), b[:size-len(what)-1]...)
}

func TestLargeReachesAllOnce(t *testing.T) {
	inLab(t, 12, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(1)
		for i, size := range []int{largeFrom, largeFrom + 1, 300 << 10, 1 << 20, 10 << 20} {
			data := largeMessage("good", size, uint64(i))
			at := time.Now()
			l.publish(l.nodes[i], "tx", string(data))
			took := time.Since(at)
			time.Sleep(8 * time.Second)
			for j, n := range l.nodes {
				if n.times(string(data)) != 1 {
					t.Errorf("%d bytes: node %d has them %d times", size, j, n.times(string(data)))
				}
			}
			t.Logf("%d bytes: published in %v", size, took)
		}
		for _, n := range l.nodes {
			for _, other := range l.hosts {
				if p, why := n.points(other); p > 0 {
					t.Errorf("%d points for %s", p, why)
				}
			}
			if s := n.stats("chunk"); s.Mesh == 0 || s.Mesh > largeParams().Dhi {
				t.Errorf("mesh of %d", s.Mesh)
			}
			n.rests(t)
		}
	})
}

// rests checks that nothing of a large message is held any more.
func (n *node) rests(t *testing.T) {
	t.Helper()
	r := n.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) != 0 || r.ahead != 0 || len(r.waiting) != 0 {
		t.Errorf("%d messages open, %d ahead", len(r.open), r.ahead)
	}
}

func TestClimb(t *testing.T) {
	for n := 1; n <= 33; n++ {
		var leaves []chain.Hash
		for i := range n {
			leaves = append(leaves, leafOf(i, []byte{byte(i)}))
		}
		levels := treeOf(leaves)
		top := levels[len(levels)-1][0]
		for i := range n {
			branch := branchOf(levels, i)
			if got, ok := climb(leaves[i], i, n, branch); !ok || got != top {
				t.Fatalf("leaf %d of %d does not fit", i, n)
			}
			if got, ok := climb(leafOf(i, []byte("x")), i, n, branch); ok && got == top {
				t.Fatalf("other data fit as leaf %d of %d", i, n)
			}
			if _, ok := climb(leaves[i], i, n, append(branch, top)); ok {
				t.Fatalf("leaf %d of %d fits with a hash too many", i, n)
			}
		}
	}
}

// A node that publishes one large message after the other loses none, though it
// has one place: each waits for the one before it.
func TestLargeBurst(t *testing.T) {
	inLab(t, 12, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(1)
		var all []string
		for i := range 20 {
			all = append(all, string(largeMessage("good", (40+30*i)<<10, uint64(i))))
			l.publish(l.nodes[0], "tx", all[i])
		}
		time.Sleep(20 * time.Second)
		for i, data := range all {
			for j, n := range l.nodes {
				if n.times(data) != 1 {
					t.Errorf("node %d has message %d %d times", j, i, n.times(data))
				}
			}
		}
		l.noPoints(nil)
	})
}

// Nodes that are known publish at once; there are places for four.
func TestLargeOfSeveral(t *testing.T) {
	inLab(t, 12, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(1)
		for round := range 3 {
			var all []string
			for i := range 6 {
				data := string(largeMessage("good", 100<<10, uint64(100*round+i)))
				all = append(all, data)
				if round == 0 { // each for itself, to be known
					l.publish(l.nodes[i], "tx", data)
					time.Sleep(3 * time.Second)
				} else {
					go func() { _ = l.nodes[i].Publish(t.Context(), "tx", []byte(data)) }()
				}
			}
			time.Sleep(10 * time.Second)
			for i, data := range all {
				for j, n := range l.nodes {
					if n.times(data) != 1 {
						t.Errorf("round %d: node %d has message %d %d times", round, j, i, n.times(data))
					}
				}
			}
		}
		l.noPoints(nil)
	})
}

// A program that judges slowly holds up who publishes, and loses nothing.
func TestSlowVerdictsOnLarge(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		judged := make(chan string, 10)
		for i, n := range l.nodes {
			if err := n.Serve(testNet, []chain.Topic{{Name: "tx", MaxBytes: 10 << 20, Large: true, Timeout: -1, Validate: func(_ context.Context, m chain.Message) error {
				if i == 1 {
					time.Sleep(4 * time.Second)
					judged <- string(m.Data)
				}
				return nil
			}}}); err != nil {
				t.Fatal(err)
			}
		}
		l.connect(0, 1)
		time.Sleep(5 * time.Second)
		for i := range 4 {
			l.publish(l.nodes[0], "tx", string(largeMessage("good", 700<<10, uint64(i))))
		}
		time.Sleep(20 * time.Second)
		for i := range 4 {
			select {
			case got := <-judged:
				if got != string(largeMessage("good", 700<<10, uint64(i))) {
					t.Errorf("message %d is another one", i)
				}
			default:
				t.Fatalf("%d of 4 messages came", i)
			}
		}
		l.nodes[1].rests(t)
		l.noPoints(nil)
	})
}

// Where the line is too slow for a message's time, who publishes is told, and
// what came of it is given up.
func TestLargeOverASlowLine(t *testing.T) {
	inLabAt(t, 4, 2, 0, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(0)
		a, b := l.nodes[0], l.nodes[1]
		large, small := largeMessage("good", 10<<20, 1), largeMessage("good", 100<<10, 2)
		at := time.Now()
		err := a.Publish(t.Context(), "tx", large)
		if took := time.Since(at); !errors.Is(err, chain.ErrCut) || errors.Is(err, chain.ErrBusy) || took > largeTime+time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if _, _, bytes := a.counts(); bytes != 0 {
			t.Errorf("%d bytes of its own are held", bytes)
		}
		if err := a.Publish(t.Context(), "tx", large); !errors.Is(err, chain.ErrCut) {
			t.Errorf("the same again: %v", err)
		}
		time.Sleep(15 * time.Second)
		l.publish(a, "tx", string(small))
		time.Sleep(5 * time.Second)
		if b.times(string(large)) != 0 || b.times(string(small)) != 1 {
			t.Errorf("the large one came %d times, the next one %d times", b.times(string(large)), b.times(string(small)))
		}
		if n := a.lost("peer") + a.lost("stream"); n != 0 {
			t.Errorf("%d RPCs and queues were lost", n)
		}
		b.rests(t)
		l.noPoints(nil)
	})
}
