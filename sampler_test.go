package parley

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/host"
)

// A sample has the rates since the last one, of a peer that came back those of
// its new connection, and has a bound.
func TestSamplesOf(t *testing.T) {
	start := time.Now()
	now := map[peer.ID]host.Bandwidth{"a": {In: 100, Out: 10}, "b": {In: 30, Out: 5}, "c": {In: 5}}
	then := map[peer.ID]host.Bandwidth{"a": {In: 50}, "b": {In: 20, Out: 50}}
	got := samplesOf([]handshake.Peer{
		{ID: "c", ConnectedAt: start.Add(time.Second)},
		{ID: "b", ConnectedAt: start, Claimed: chain.Head{Height: 7}},
		{ID: "a", ConnectedAt: start, Latency: 1500 * time.Microsecond},
	}, now, then, 5)
	want := []event.PeerSample{{ID: "a", LatencyMS: 1.5, BytesInS: 10, BytesOutS: 2}, {ID: "b", Height: 7, BytesInS: 6, BytesOutS: 1}, {ID: "c", BytesInS: 1}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	var crowd []handshake.Peer
	for i := range mostSampled + 10 {
		crowd = append(crowd, handshake.Peer{ID: peer.ID(fmt.Sprint(i)), ConnectedAt: start.Add(-time.Duration(i) * time.Second)})
	}
	if got := samplesOf(crowd, nil, nil, 5); len(got) != mostSampled || got[0].ID != peer.ID(fmt.Sprint(mostSampled+9)) {
		t.Errorf("%d samples, the first of %q", len(got), got[0].ID)
	}
}
