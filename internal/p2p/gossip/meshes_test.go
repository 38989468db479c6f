package gossip

import (
	"fmt"
	"testing"
	"time"

	"github.com/parley-p2p/parley/event"
)

// Changes of a mesh are told at once, and then at most once in ten seconds; the
// last word is the size that holds.
func TestMeshes(t *testing.T) {
	start := time.Now()
	m := meshes{}
	for _, step := range []struct {
		at    time.Duration
		sizes map[string]int
		want  string
	}{
		{0, map[string]int{"block": 0, "record": 0}, ""},
		{1, map[string]int{"block": 2, "record": 0}, "block 2 "},
		{2, map[string]int{"block": 3, "record": 4}, "record 4 "},
		{9, map[string]int{"block": 5, "record": 4}, ""},
		{11, map[string]int{"block": 6, "record": 4}, "block 6 "},
		{30, map[string]int{"block": 6, "record": 4}, ""},
		{31, map[string]int{"block": 0, "record": 3}, "block 0 record 3 "},
		{35, map[string]int{"block": 6, "record": 3}, ""},
		{40, map[string]int{"block": 0, "record": 3}, ""}, // as it was told
		{41, map[string]int{"block": 0}, "record 0 "},     // no longer served
		{60, map[string]int{}, ""},
		{61, map[string]int{"block": 1}, "block 1 "},
	} {
		got := ""
		for _, e := range m.look(step.sizes, start.Add(step.at*time.Second)) {
			c := e.(event.MeshChanged)
			got += fmt.Sprint(c.Topic, " ", c.Mesh, " ")
			if c.Low != 6 || c.High != 12 {
				t.Errorf("bounds of the mesh: %+v", c)
			}
		}
		if got != step.want {
			t.Errorf("after %d s it tells %q, want %q", step.at, got, step.want)
		}
	}
	if len(m) != 1 {
		t.Errorf("it remembers %v", m)
	}
}

// A node tells when others come into the mesh of a topic, and when they leave.
func TestMeshChanged(t *testing.T) {
	inLab(t, 3, 0, func(t *testing.T, l *lab) {
		sub := l.nodes[0].bus.Subscribe()
		defer sub.Close()
		sizes := func() map[string]int {
			events, lost := sub.Take(64)
			last := map[string]int{}
			for _, e := range events {
				if c, is := e.Data.(event.MeshChanged); is {
					last[c.Topic] = c.Mesh
				}
			}
			if lost > 0 {
				t.Errorf("%d events lost", lost)
			}
			return last
		}
		l.serveAll()
		l.connect(0, 1)
		l.connect(0, 2)
		time.Sleep(30 * time.Second)
		if got := sizes(); len(got) != 3 || got["record"] != 2 || got["best_block"] != 2 {
			t.Errorf("with two peers: %v", got)
		}
		time.Sleep(time.Minute)
		if got := sizes(); len(got) != 0 {
			t.Errorf("nothing changed, and it tells %v", got)
		}
		if err := l.nodes[1].Leave("record"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if got := sizes(); len(got) != 1 || got["record"] != 1 {
			t.Errorf("one peer has left a topic: %v", got)
		}
	})
}
