package gossip

import (
	"maps"
	"slices"
	"time"

	"github.com/parley-p2p/parley/event"
)

const meshEvery = 10 * time.Second // of one topic

// meshes tell the bus how many peers are in the mesh of each topic: the first
// change at once, and what comes after it in one event. Run's goroutine only.
type meshes map[string]toldMesh // by our name of a topic

type toldMesh struct {
	size int
	at   time.Time
}

// look compares with what was told, and returns what to tell now.
func (m meshes) look(sizes map[string]int, now time.Time) (events []event.Event) {
	tell := func(topic string, size int) {
		p := meshParams()
		if topic == chunkTopic {
			p = largeParams()
		}
		m[topic] = toldMesh{size, now}
		events = append(events, event.MeshChanged{Topic: topic, Mesh: size, Low: p.Dlo, High: p.Dhi})
	}
	for _, topic := range slices.Sorted(maps.Keys(sizes)) {
		size := sizes[topic]
		if told, known := m[topic]; !known && size > 0 || known && told.size != size && now.Sub(told.at) >= meshEvery {
			tell(topic, size)
		}
	}
	for topic, told := range m {
		if _, served := sizes[topic]; served || now.Sub(told.at) < meshEvery {
			continue
		}
		if told.size > 0 {
			tell(topic, 0)
		} else {
			delete(m, topic)
		}
	}
	return events
}

// meshSizes counts the peers in the mesh of each served topic.
func (g *Gossip) meshSizes() map[string]int {
	sizes := map[string]int{}
	for _, t := range g.served() {
		sizes[t.Name] = g.tracer.size(t.wire)
	}
	return sizes
}
