package gossip

import (
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const maxGave = 4_096 // peers; far above what can be connected

// gifts is when a peer last brought us something that was new and valid.
type gifts struct{ record, block time.Time }

// Gave tells when p last brought a record and a block that were new to us and
// valid; zero = not since it connected.
func (g *Gossip) Gave(p peer.ID) (record, block time.Time) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	v := g.gave[p]
	return v.record, v.block
}

func (g *Gossip) thank(p peer.ID, topic string, now time.Time) {
	if topic != "record" && topic != "block" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v, known := g.gave[p]
	if !known && len(g.gave) >= maxGave { // of some that were gone before they were thanked
		clear(g.gave)
	}
	if topic == "record" {
		v.record = now
	} else {
		v.block = now
	}
	g.gave[p] = v
}

func (g *Gossip) forget(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.gave, p)
}

// takes asks Config.Takes by our name of a topic.
func (g *Gossip) takes(p peer.ID, wire string) bool {
	return g.cfg.Takes == nil || g.cfg.Takes(p, g.plain(wire))
}

// plain is our name of a topic, also before it is served: peers tell theirs
// once, at the start of a connection.
func (g *Gossip) plain(wire string) string {
	last := wire[strings.LastIndexByte(wire, '/')+1:]
	for name, on := range g.cfg.Names {
		if on == last {
			return name
		}
	}
	return last
}
