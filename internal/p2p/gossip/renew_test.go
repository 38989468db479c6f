package gossip

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// streamsOf are the streams of pubsub that from has opened to n.
func (n *node) streamsOf(from host.Host) (list []network.Stream) {
	for _, c := range n.Network().ConnsToPeer(from.ID()) {
		for _, s := range c.GetStreams() {
			if s.Stat().Direction == network.DirInbound && strings.HasPrefix(string(s.Protocol()), "/meshsub/") {
				list = append(list, s)
			}
		}
	}
	return list
}

// A peer whose pubsub has given us up, since its streams were refused or ended,
// opens none when it is told of protocols that it knows, and opens one when they
// are renewed. Who has a stream keeps it meanwhile.
func TestRenew(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, a, b *node, connect func()){
		"refused": func(t *testing.T, a, _ *node, connect func()) {
			handlers := a.scope.handlers()
			for id := range handlers { // not by RemoveStreamHandler: identify goes on telling of them
				a.Mux().RemoveHandler(id)
			}
			connect()
			time.Sleep(5 * time.Second)
			for id, h := range handlers {
				a.Mux().AddHandler(id, muxed(h))
			}
		},
		"ended": func(t *testing.T, a, b *node, connect func()) {
			connect()
			ended := 0
			for range 120 {
				time.Sleep(time.Second)
				for _, s := range a.streamsOf(b.Host) {
					_ = s.Reset()
					ended++
				}
			}
			if ended != 5 {
				t.Errorf("%d streams were ended, want 5", ended)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, 3, 0, func(t *testing.T, l *lab) {
				a, b, other := l.nodes[0], l.nodes[1], l.nodes[2]
				l.serveAll()
				l.connect(2, 0)
				time.Sleep(2 * time.Second)
				before := a.streamsOf(other.Host)
				if len(before) != 1 {
					t.Fatalf("%d streams of the other one", len(before))
				}
				lose(t, a, b, func() { l.connect(1, 0) })
				again := func(text string) bool {
					l.publish(b, "record", text)
					time.Sleep(2 * time.Second)
					return a.times(text) > 0
				}
				em, err := a.EventBus().Emitter(new(levent.EvtLocalProtocolsUpdated))
				if err != nil {
					t.Fatal(err)
				}
				if err := em.Emit(levent.EvtLocalProtocolsUpdated{}); err != nil {
					t.Fatal(err)
				}
				_ = em.Close()
				time.Sleep(restTime - 140*time.Second) // pubsub counts for ten minutes; then it is tried again by itself
				if n := len(a.streamsOf(b.Host)); n != 0 || again("one") {
					t.Fatalf("it was not given up: %d streams", n)
				}

				a.Renew()
				time.Sleep(renewTime - time.Second)
				if l.hosts[2].Network().Connectedness(a.Host.ID()) != network.Connected || len(a.streamsOf(other.Host)) != 1 {
					t.Error("who knows has no stream while it is renewed")
				}
				time.Sleep(5 * time.Second)
				if n := len(a.streamsOf(b.Host)); n != 1 {
					t.Fatalf("%d streams after it was renewed", n)
				}
				if after := a.streamsOf(other.Host); len(after) != 1 || after[0].ID() != before[0].ID() {
					t.Error("who knew has another stream than before")
				}
				if !again("two") {
					t.Error("nothing comes over it")
				}
				if p, _ := a.points(b.Host); p != 0 {
					t.Errorf("it was charged %d points", p)
				}
			})
		})
	}
}

// A peer that read so slowly that its stream was cut five times, and is well
// again, hears everything again after a rest, though it stayed connected.
func TestCutPeerComesBack(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		a, b := l.nodes[0], l.nodes[1]
		l.serveAll()
		l.connect(1, 0)
		time.Sleep(5 * time.Second)
		hears := func(text string) bool {
			l.publish(a, "record", text)
			time.Sleep(2 * time.Second)
			return b.times(text) > 0
		}
		for range 2 { // it may be slow again
			cuts := 0
			for range 40 {
				if len(b.streamsOf(a.Host)) > 0 {
					a.scope.cut(b.Host.ID())
					cuts++
				}
				time.Sleep(15 * time.Second)
			}
			if cuts != 5 || hears("too slow") {
				t.Fatalf("%d cuts, want 5, after which it is given up", cuts)
			}
			time.Sleep(restTime - 9*time.Minute)
			if in, out := len(a.streamsOf(b.Host)), len(b.streamsOf(a.Host)); in != 1 || out != 1 || !hears("well again") {
				t.Fatalf("%d and %d streams after a rest", in, out)
			}
			l.publish(b, "record", "from it")
			time.Sleep(2 * time.Second)
			if a.times("from it") == 0 {
				t.Error("it is not heard")
			}
		}
		if p, _ := a.points(b.Host); p != 0 {
			t.Errorf("it was charged %d points", p)
		}
	})
}

func muxed(h network.StreamHandler) protocol.HandlerFunc {
	return func(_ protocol.ID, s io.ReadWriteCloser) error {
		h(s.(network.Stream))
		return nil
	}
}

// When one of the two streams between two peers ends, whoever ended it, the
// other begins anew too: both hear each other's topics again.
func TestStreamsBeginTogether(t *testing.T) {
	for name, end := range map[string]func(a, b *node){
		"by the reader": func(a, b *node) {
			for _, s := range a.streamsOf(b.Host) {
				_ = s.Reset()
			}
		},
		"by the writer": func(a, b *node) { b.scope.cut(a.Host.ID()) },
		"both":          func(a, b *node) { a.scope.cut(b.Host.ID()); b.scope.cut(a.Host.ID()) },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, 2, 0, func(t *testing.T, l *lab) {
				a, b := l.nodes[0], l.nodes[1]
				l.serveAll()
				l.connect(1, 0)
				time.Sleep(5 * time.Second)
				for i := range 3 {
					end(a, b)
					time.Sleep(5 * time.Second)
					if in, out := len(a.streamsOf(b.Host)), len(b.streamsOf(a.Host)); in != 1 || out != 1 {
						t.Fatalf("%d and %d streams", in, out)
					}
					text := fmt.Sprint("the ", i)
					l.publish(a, "record", "of a: "+text)
					l.publish(b, "record", "of b: "+text)
					time.Sleep(2 * time.Second)
					if n, m := a.times("of b: "+text), b.times("of a: "+text); n != 1 || m != 1 {
						t.Errorf("after time %d: %d and %d messages came", i+1, n, m)
					}
				}
				for _, x := range [][2]*node{{a, b}, {b, a}} {
					if p, _ := x[0].points(x[1].Host); p != 0 {
						t.Errorf("it was charged %d points", p)
					}
				}
			})
		})
	}
}
