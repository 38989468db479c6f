package gossip

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// A topic is left and joined again, with other bounds.
func TestLeave(t *testing.T) {
	inLab(t, 3, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.connect(0, 1)
		l.connect(1, 2)
		time.Sleep(2 * time.Second)
		if err := errors.Join(l.nodes[1].Leave("record"), l.nodes[1].Leave("record"), l.nodes[1].Leave("unheard of")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, s := range l.nodes[0].Topics() {
			if want := map[bool]int{true: 0, false: 1}[s.Topic == "record"]; s.Peers != want || s.Mesh != want {
				t.Errorf("topic %s has %d peers, %d in the mesh, want %d", s.Topic, s.Peers, s.Mesh, want)
			}
		}
		l.publish(l.nodes[0], "record", "past it")
		time.Sleep(time.Second)
		if l.nodes[1].times("past it") != 0 || l.nodes[2].times("past it") != 0 {
			t.Error("heard after it was left")
		}
		if err := l.nodes[1].Publish(t.Context(), "record", []byte("x")); err == nil {
			t.Error("published to a topic that was left")
		}
		again := chain.Topic{Name: "record", MaxBytes: 10, Timeout: time.Second, AtOnce: 1, Validate: l.nodes[1].validate}
		if err := l.nodes[1].Serve(testNet, []chain.Topic{again}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second) // who has left a mesh is not taken again for 10 s
		l.publish(l.nodes[0], "record", "here")
		time.Sleep(time.Second)
		if l.nodes[1].times("here") != 1 || l.nodes[2].times("here") != 1 {
			t.Error("not heard after it was joined again")
		}
		l.publish(l.nodes[0], "record", "longer than ten")
		time.Sleep(time.Second)
		if l.nodes[1].times("longer than ten") != 0 || l.nodes[1].rep.Score(l.nodes[0].ID()).Points == 0 {
			t.Error("longer than the new bound, and nobody is charged")
		}
	})
}

// Where one of the topics can not be served none is, and all can be once it can.
func TestServesAllOrNone(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		g := l.nodes[0]
		g.wait(nil)
		taken, err := g.ps.Join(wire.TopicName(testNet, "two"))
		if err != nil {
			t.Fatal(err)
		}
		topics := []chain.Topic{{Name: "one", MaxBytes: 10, Validate: g.validate}, {Name: "two", MaxBytes: 10, Validate: g.validate}}
		if err := g.Serve(testNet, topics); err == nil || !strings.Contains(err.Error(), `topic "two"`) {
			t.Errorf("served a topic that somebody has: %v", err)
		}
		if served := g.Topics(); len(served) != 0 {
			t.Errorf("served are %+v", served)
		}
		if err := g.Leave("two"); err != nil {
			t.Error(err)
		}
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
		if err := g.Serve(testNet, topics); err != nil || len(g.Topics()) != 2 {
			t.Errorf("served again: %v, %+v", err, g.Topics())
		}
		h := g.topic("one").handle.Load()
		sub, err := h.Subscribe()
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Leave("one"); err == nil { // somebody reads it
			t.Error("left a topic that can not be closed")
		}
		sub.Cancel()
		time.Sleep(time.Second)
		if err := g.Leave("one"); err != nil || len(g.Topics()) != 1 {
			t.Errorf("left once nobody reads it: %v, %+v", err, g.Topics())
		}
		if err := g.Serve(testNet, topics[:1]); err != nil {
			t.Error(err)
		}
	})
}
