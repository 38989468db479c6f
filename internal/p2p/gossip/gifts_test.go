package gossip

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A peer that takes no records is told of blocks' heads all the same, and is
// in no mesh for records.
func TestTakes(t *testing.T) {
	inLab(t, 3, 0, func(t *testing.T, l *lab) {
		a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
		quiet := b.Host.ID()
		a.cfg.Takes = func(p peer.ID, topic string) bool { return p != quiet || topic == "best_block" }
		l.serveAll()
		l.connect(0, 1)
		l.connect(0, 2)
		time.Sleep(10 * time.Second)
		l.publish(a, "record", "take a")
		l.publish(a, "best_block", "take head")
		l.publish(c, "record", "take c")
		time.Sleep(5 * time.Second)
		if b.times("take a") != 0 || b.times("take c") != 0 || b.times("take head") != 1 {
			t.Errorf("the quiet peer heard %d and %d records and %d heads, want 0, 0, 1", b.times("take a"), b.times("take c"), b.times("take head"))
		}
		if c.times("take a") != 1 {
			t.Errorf("the other peer heard the record %d times", c.times("take a"))
		}
		for _, topic := range a.MeshOf(quiet) {
			if topic != "best_block" {
				t.Errorf("the quiet peer is in the mesh of %s", topic)
			}
		}
	})
}

// What a peer gave is known while it is connected.
func TestGave(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.connect(0, 1)
		time.Sleep(5 * time.Second)
		a, giver := l.nodes[0], l.nodes[1]
		l.publish(giver, "record", "take it")
		time.Sleep(time.Second)
		if record, block := a.Gave(giver.Host.ID()); time.Since(record) > time.Second || !block.IsZero() {
			t.Errorf("it gave a record at %v, a block at %v", record, block)
		}
		l.publish(giver, "best_block", "take head")
		time.Sleep(time.Second)
		if record, _ := a.Gave(giver.Host.ID()); time.Since(record) <= time.Second {
			t.Error("an orphan counts as given")
		}
		if err := l.hosts[0].Network().ClosePeer(giver.Host.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if record, _ := a.Gave(giver.Host.ID()); !record.IsZero() {
			t.Error("it is remembered after it is gone")
		}
	})
}
