package parley

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	alarmBannedByOthers = "banned_by_others"
	bannedByAt          = 3         // groups of peers …
	bannedByWithin      = time.Hour // within: then something is wrong here
	bannedByMost        = 64        // groups kept
)

// goodbye is one that said "banned".
type goodbye struct {
	peer peer.ID
	addr string
	at   time.Time
}

// bannedBy keeps which peers told us of late that we are banned, one of each
// address group: a single operator of many peers proves nothing.
type bannedBy map[string]goodbye

// add notes a goodbye of a group. Where too many are kept the oldest goes.
func (b bannedBy) add(group string, g goodbye) {
	if _, ok := b[group]; !ok && len(b) >= bannedByMost {
		delete(b, slices.MinFunc(slices.Collect(maps.Keys(b)), func(x, y string) int { return b[x].at.Compare(b[y].at) }))
	}
	b[group] = g
}

// since forgets what is old, and lists the rest, oldest first.
func (b bannedBy) since(t time.Time) []goodbye {
	maps.DeleteFunc(b, func(_ string, g goodbye) bool { return g.at.Before(t) })
	return slices.SortedFunc(maps.Values(b), func(x, y goodbye) int { return x.at.Compare(y.at) })
}

// watchGoodbyes raises an alarm where peers of several groups ban this node,
// until ctx ends. Only who tells us can be seen: a peer that bans us while we
// are connected, or that refuses us in the handshake. One that refuses the
// connection itself, by our id or our address, says nothing. And only those
// count that we chose ourselves, or whom the operator wants: others could come
// to say it.
func (n *Node) watchGoodbyes(ctx context.Context) error {
	sub := n.bus.Subscribe()
	defer sub.Close()
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	heard := bannedBy{}
	for {
		news := true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-sub.Wake():
			news = false
			envelopes, _ := sub.Take(256) // one that is lost comes again: who is banned is refused again
			for _, e := range envelopes {
				if gone, ok := e.Data.(event.PeerDisconnected); ok && gone.Goodbye == wire.GoodbyeBanned && n.believed(gone) {
					heard.add(n.vicinity(gone), goodbye{gone.Peer, gone.Addr, time.Now()})
					news = true
				}
			}
		}
		if !news {
			continue
		}
		n.bannedByOthers(heard.since(time.Now().Add(-bannedByWithin)))
	}
}

func (n *Node) bannedByOthers(list []goodbye) {
	peers, addrs := []string{}, []string{}
	for _, g := range list {
		peers, addrs = append(peers, g.peer.String()), append(addrs, g.addr)
	}
	text := "no more than two groups of peers said so within the last hour"
	if len(list) >= bannedByAt {
		text = fmt.Sprintf("%d peers of different address groups said within an hour that they ban this node", len(list))
	}
	n.alarms.Set(alarmBannedByOthers, len(list) >= bannedByAt, text, map[string]any{"peers": peers, "addrs": addrs})
}

// believed reports whether it matters what a peer that is gone said of us.
func (n *Node) believed(gone event.PeerDisconnected) bool {
	return gone.By == "them" && (gone.Direction == "outbound" || n.dial.Has(gone.Peer) || n.dial.Trusted(gone.Peer))
}

// vicinity is the address group of a peer that is gone. A network that is not
// public has none: there each peer is one.
func (n *Node) vicinity(gone event.PeerDisconnected) string {
	a, err := multiaddr.NewMultiaddr(gone.Addr)
	if ip := reputation.AddrOf(a); err != nil || !addrbook.Public(ip) {
		return gone.Peer.String()
	}
	return n.book.Group(a)
}
