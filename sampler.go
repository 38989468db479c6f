package parley

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/host"
)

const (
	peersEach   = 5    // seconds
	mostSampled = 1000 // peers of one event: it goes to sinks, and to each client that asks
)

// rates turns counters into rates.
type rates struct {
	at       time.Time
	in, out  int64
	records  uint64
	messages map[string]uint64
}

// sample publishes the node's figures once a second, and those of its peers each
// five.
func (n *Node) sample(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := n.counters(time.Now())
	sampled := peerRates{at: last.at}
	for seconds := 1; ; seconds++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			next := n.counters(now)
			e := n.stats(last, next)
			n.lastStats.Store(&e)
			n.bus.Publish(e)
			last = next
			if seconds%peersEach == 0 {
				sampled = n.samplePeers(sampled, now)
			}
		}
	}
}

func (n *Node) counters(now time.Time) rates {
	c := rates{at: now, messages: map[string]uint64{}}
	total, _ := n.host.Bandwidth()
	c.in, c.out = total.In, total.Out
	if _, err := n.genesis(); err == nil {
		c.records = n.replica.Ledger().Tip().Records
	}
	for _, t := range n.gossip.Topics() {
		c.messages[t.Topic] = t.Messages
	}
	return c
}

func (n *Node) stats(last, next rates) event.StatsSampled {
	s := next.at.Sub(last.at).Seconds()
	count := n.PeerCount()
	e := event.StatsSampled{
		Inbound: count.Inbound, Outbound: count.Outbound, BytesInS: float64(next.in-last.in) / s, BytesOutS: float64(next.out-last.out) / s,
		RecordsS: float64(next.records-last.records) / s, MessagesS: map[string]float64{},
	}
	for topic, m := range next.messages {
		e.MessagesS[topic] = float64(m-last.messages[topic]) / s
	}
	if p := n.pool(); p != nil {
		e.Mempool = p.Len()
	}
	return e
}

// peerRates are the counters of peers at their last sample.
type peerRates struct {
	at    time.Time
	bytes map[peer.ID]host.Bandwidth
}

// samplePeers publishes how each peer does, and that there are none once.
func (n *Node) samplePeers(last peerRates, now time.Time) peerRates {
	table := n.shake.Peers()
	_, bytes := n.host.Bandwidth()
	if len(table) == 0 && len(last.bytes) == 0 {
		return peerRates{at: now}
	}
	next := peerRates{at: now, bytes: map[peer.ID]host.Bandwidth{}}
	samples := samplesOf(table, bytes, last.bytes, now.Sub(last.at).Seconds())
	for i := range samples {
		p := &samples[i]
		p.Score, next.bytes[p.ID] = n.rep.Score(p.ID).Score, bytes[p.ID]
	}
	n.bus.Publish(event.PeerSampled{Peers: samples})
	return next
}

// samplesOf makes samples, but for the score, of the peers that are there the
// longest, with their counters of now and of so many seconds ago.
func samplesOf(table []handshake.Peer, now, then map[peer.ID]host.Bandwidth, seconds float64) []event.PeerSample {
	slices.SortFunc(table, func(a, b handshake.Peer) int {
		return cmp.Or(a.ConnectedAt.Compare(b.ConnectedAt), cmp.Compare(a.ID, b.ID))
	})
	list := []event.PeerSample{}
	for _, p := range table[:min(len(table), mostSampled)] {
		is, was := now[p.ID], then[p.ID]
		if is.In < was.In || is.Out < was.Out { // it came back meanwhile
			was = host.Bandwidth{}
		}
		list = append(list, event.PeerSample{
			ID: p.ID, LatencyMS: inMSF(p.Latency), Height: p.Claimed.Height,
			BytesInS: float64(is.In-was.In) / seconds, BytesOutS: float64(is.Out-was.Out) / seconds,
		})
	}
	return list
}
